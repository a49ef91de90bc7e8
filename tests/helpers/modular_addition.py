"""A small transformer for modular addition, with random weights."""

from helpers.numbers import normal, seeded
from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights

SMALL = {"modulus": 7, "d_model": 6, "d_mlp": 10, "heads": 2}


def small_weights(seed=0, **options):
    """Random weights in the types and shapes of a trained model."""
    shapes = initial_weights(TrainingOptions(**{**SMALL, **options}))
    generator = seeded(seed)
    return {name: normal(generator, *weight.shape) for name, weight in shapes.items()}
