"""Training a classifier of CIFAR-10: AdamW on images moved by up to four pixels and mirrored.

Every step draws its images and what is done to them from its own number, so that a training that is
taken up again ends as one that was never interrupted. Weights are saved in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from libgraph.errors import UsageError
from libgraph.files.tensors import write_tensors
from libgraph.fit import CHECKPOINT, Course, fit
from libgraph.progress import Progress
from libgraph_backends.cifar.data import CLASSES, DEVIATION, MEAN, PIXELS, SHAPE, check_source, read
from libgraph_backends.cifar.options import TrainingOptions

MOVED = 4
"""Pixels that an image is moved by at most, black coming in from the side."""


WARM_UP = 200
"""Steps in which the learning rate rises; afterwards it falls as a cosine to zero."""


LEARNING_RATES = {"conv": 4e-3, "mlp": 1e-3}


EVALUATED_AT_ONCE = 1000


def train(options: TrainingOptions, directory: Path, progress: Progress) -> Mapping[str, Any]:
    """Train into `directory/model.safetensors`; returns the history of test accuracy."""
    check_source(options.data, options.download)
    model = initial_model(options)
    data = read(options.data)
    (images, labels), test = data["train"][:2], data["test"]
    # Autocast makes products in bfloat16 where the weights and their updates stay in float32.
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16)
    highest = options.learning_rate or LEARNING_RATES[options.arch]

    def loss(step: int) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = highest * schedule(step, options.steps)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        rows = torch.randint(len(images), (options.batch_size,), generator=generator)
        with mixed:
            outputs = model(normalised(varied(images[rows], generator)))
        return cross_entropy(outputs.float(), labels[rows])

    def evaluate() -> dict[str, float]:
        outputs = torch.cat(
            [model(normalised(part)) for part in test.images.split(EVALUATED_AT_ONCE)]
        )
        right = outputs.argmax(-1) == test.labels
        return {
            "test_loss": float(cross_entropy(outputs, test.labels)),
            "test_accuracy": float(right.double().mean()),
        }

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
    (directory / CHECKPOINT).unlink(missing_ok=True)
    return {"history": history, "parameters": sum(p.numel() for p in parameters.values())}


def initial_model(options: TrainingOptions) -> nn.Sequential:
    """The network with random weights, whose state dict the backend reads.

    Raises:
        UsageError: if there are not as many channels as windows and strides, or a window is even.
    """
    torch.manual_seed(options.seed)
    parts: list[nn.Module] = []
    if options.arch == "mlp":
        for d_in, d_out in pairwise((PIXELS, *options.hidden, len(CLASSES))):
            parts += [nn.Linear(d_in, d_out), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *parts[:-1])
    sizes = options.channels, options.kernels, options.strides
    if len({len(each) for each in sizes}) > 1 or not options.channels:
        raise UsageError(
            "channels, kernels and strides need one number each for every convolution, not "
            f"{', '.join(str(len(each)) for each in sizes)}."
        )
    channels = SHAPE[0]
    for wanted, kernel, stride in zip(*sizes, strict=True):
        if kernel % 2 == 0:
            raise UsageError(f"A window of width {kernel} has no middle: use odd kernels.")
        parts += [nn.Conv2d(channels, wanted, kernel, stride, kernel // 2), nn.ReLU()]
        channels = wanted
    readout = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, len(CLASSES))]
    return nn.Sequential(*parts, *readout)


def normalised(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """As the network of sections has its pixels."""
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
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


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step."""
    return min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))
