"""Training an MLP on the digits of scikit-learn, or on MNIST: AdamW on batches drawn from a seed.

Every step draws its batch from its own number, so that a training that is taken up again ends as
one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from libgraph.backend import (
    Course,
    Outcome,
    Progress,
    Split,
    fit,
    stream,
    write_tensors,
)
from libgraph_backends.mlp.data import Samples, digits, mnist
from libgraph_backends.mlp.mnist import CLASSES
from libgraph_backends.mlp.options import TrainingOptions, check_source
from libgraph_backends.shared.classification import test_figures
from libgraph_backends.shared.layers import ACTIVATIONS, Activation


def train(options: TrainingOptions, directory: Path, progress: Progress) -> Outcome:
    """Train into `directory/model.safetensors`; returns sizes and the history."""
    splits = _read(options)
    inputs, targets = splits["train"]
    test_inputs, test_targets = splits["test"]
    sizes = [inputs.shape[1], *options.hidden, CLASSES]
    weights = initial_weights(sizes, options.seed)
    activation = ACTIVATIONS[options.activation]()

    def loss(step: int) -> Tensor:
        size, generator = (options.batch_size,), stream(options.seed, step)
        rows = torch.randint(len(inputs), size, generator=generator)
        return cross_entropy(outputs_of(weights, activation, inputs[rows]), targets[rows])

    def evaluate() -> dict[str, float]:
        return test_figures(outputs_of(weights, activation, test_inputs), test_targets)

    history = fit(
        weights,
        loss,
        Course(
            steps=options.steps,
            directory=directory,
            settings=options.model_dump(mode="json", exclude={"steps", "download", "keep_every"}),
            keep_every=options.keep_every,
        ),
        optimizer=torch.optim.AdamW(
            weights.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        ),
        evaluate=evaluate,
        progress=progress,
    )
    write_tensors(directory / "model.safetensors", weights)
    return {"sizes": sizes, "history": history}


def _read(options: TrainingOptions) -> dict[Split, Samples]:
    check_source(options.task, options.data, options.download)
    return digits() if options.task == "digits" else mnist(options.data)


def initial_weights(sizes: list[int], seed: int) -> dict[str, Tensor]:
    """He's normal weights and zero biases, named as those of a `Sequential` with activations."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for index, (d_in, d_out) in enumerate(pairwise(sizes)):
        scale = math.sqrt(2 / d_in)
        weights[f"{2 * index}.weight"] = scale * torch.randn(d_out, d_in, generator=generator)
        weights[f"{2 * index}.bias"] = torch.zeros(d_out)
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def outputs_of(
    weights: Mapping[str, Tensor], activation: Activation, x: Float[Tensor, "n d"]
) -> Float[Tensor, "n classes"]:
    """What the network with these weights makes of inputs."""
    layers = len(weights) // 2
    for index in range(layers):
        x = linear(x, weights[f"{2 * index}.weight"], weights[f"{2 * index}.bias"])
        x = activation(x) if index < layers - 1 else x
    return x
