"""Models of PyTorch in somebody's own code, cut into sections as they are."""

from libgraph_backends.pytorch.backend import Torch

__all__ = ["Torch"]
