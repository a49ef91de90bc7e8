"""Networks of CIFAR-10: a conv net, an MLP, and weights that come with them."""

from libgraph_backends.cifar.backend import CIFAR

__all__ = ["CIFAR"]
