"""MLPs: with modules that were planted and hidden, of digits, of MNIST, or anyone's own."""

from libgraph_backends.mlp.backend import MLP

__all__ = ["MLP"]
