"""A one-layer transformer that adds two numbers modulo p."""

from libgraph_backends.modular_addition.backend import ModularAddition

__all__ = ["ModularAddition"]
