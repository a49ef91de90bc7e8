"""Weights of a network, and directions that activations or gradients leave free."""
