"""Training a classifier of CIFAR-10: AdamW on images moved by up to four pixels and mirrored.

Every step draws its images and what is done to them from its own number, so that a training that is
taken up again ends as one that was never interrupted. Weights are saved in half precision.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from libgraph.backend import Course, Outcome, Progress, UsageError, fit, write_tensors
from libgraph_backends.cifar.batches import PIXELS, SHAPE
from libgraph_backends.cifar.data import CLASSES, DEVIATION, MEAN, read
from libgraph_backends.cifar.options import TrainingOptions, check_source
from libgraph_backends.shared.classification import test_figures
from libgraph_backends.shared.schedules import falling, rising, set_learning_rate
from libgraph_backends.shared.streams import step_generator

MOVED = 4
"""Pixels that an image is moved by at most, black coming in from the side."""


WARM_UP = 200
"""Steps in which the learning rate rises; afterwards it falls as a cosine to zero."""


LEARNING_RATES = {"conv": 4e-3, "mlp": 1e-3}


EVALUATED_AT_ONCE = 1000


def train(options: TrainingOptions, directory: Path, progress: Progress) -> Outcome:
    """Train into `directory/model.safetensors`; returns the history of test accuracy."""
    check_source(options)
    model = initial_model(options)
    splits = read(options.data)
    images, classes, test = splits["train"].images, splits["train"].labels, splits["test"]
    # Autocast makes products in bfloat16 where the weights and their updates stay in float32.
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16)
    highest = options.learning_rate or LEARNING_RATES[options.arch]

    def loss(step: int) -> Tensor:
        set_learning_rate(optimizer, highest * learning_rate_share(step, options.steps))
        generator = step_generator(options.seed, step)
        rows = torch.randint(len(images), (options.batch_size,), generator=generator)
        with mixed:
            outputs = model(normalised(varied(images[rows], generator)))
        return cross_entropy(outputs.float(), classes[rows])

    def evaluate() -> dict[str, float]:
        parts = test.images.split(EVALUATED_AT_ONCE)
        return test_figures(torch.cat([model(normalised(part)) for part in parts]), test.labels)

    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=options.weight_decay)
    history = fit(
        parameters,
        loss,
        Course(
            steps=options.steps,
            directory=directory,
            settings=options.model_dump(mode="json", exclude={"data", "download", "keep_every"})
            | {"images": len(images)},
            keep_every=options.keep_every,
        ),
        optimizer=optimizer,
        evaluate=evaluate,
        progress=progress,
    )
    half = {name: parameter.detach().half() for name, parameter in parameters.items()}
    write_tensors(directory / "model.safetensors", half)
    return {"history": history, "parameters": sum(p.numel() for p in parameters.values())}


def initial_model(options: TrainingOptions) -> nn.Sequential:
    """The network with random weights, whose state dict the backend reads.

    Raises:
        UsageError: if there are not as many channels as windows and strides, or a window is even.
    """
    torch.manual_seed(options.seed)
    return _conv_net(options) if options.arch == "conv" else _mlp(options)


def _mlp(options: TrainingOptions) -> nn.Sequential:
    parts: list[nn.Module] = []
    for d_in, d_out in pairwise((PIXELS, *options.hidden, len(CLASSES))):
        parts += [nn.Linear(d_in, d_out), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *parts[:-1])


def _conv_net(options: TrainingOptions) -> nn.Sequential:
    sizes = options.channels, options.kernels, options.strides
    counts = [len(numbers) for numbers in sizes]
    if len(set(counts)) > 1 or not options.channels:
        raise UsageError(
            "channels, kernels and strides need one number each for every convolution, not "
            f"{', '.join(map(str, counts))}."
        )
    parts: list[nn.Module] = []
    d_in = SHAPE[0]
    for d_out, kernel, stride in zip(*sizes, strict=True):
        if kernel % 2 == 0:
            raise UsageError(f"A window of width {kernel} has no middle: use odd kernels.")
        parts += [nn.Conv2d(d_in, d_out, kernel, stride, kernel // 2), nn.ReLU()]
        d_in = d_out
    readout = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d_in, len(CLASSES))]
    return nn.Sequential(*parts, *readout)


def normalised(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """As the network of sections has its pixels."""
    mean, deviation = (torch.tensor(colours)[:, None, None] for colours in (MEAN, DEVIATION))
    return (images / 255 - mean) / deviation


def varied(
    images: UInt8[Tensor, "n 3 h w"], generator: torch.Generator
) -> UInt8[Tensor, "n 3 h w"]:
    """Images moved by up to `MOVED` pixels either way, and every other one mirrored."""
    count, _, height, width = images.shape
    padded = pad(images, (MOVED,) * 4)
    moved = torch.randint(2 * MOVED + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = moved[0] + torch.arange(height)
    columns = moved[1] + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    number = torch.arange(count)[:, None, None]
    chosen: Tensor = padded.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None]]
    return chosen.permute(0, 3, 1, 2)


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step: the lesser of a rise and of a fall to zero."""
    return min(rising(step, WARM_UP), falling(math.pi * step / steps))
