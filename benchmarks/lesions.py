"""What a network loses without a module: module × token, or class, beside random modules.

    .venv/bin/python benchmarks/lesions.py runs/lm lm
    .venv/bin/python benchmarks/lesions.py runs/cifar cifar -o data=cifar10 --samples 2000

RUN is a finished analysis of the same backend with the same options. Every module in turn has its
features set to their means, in all node layers; the loss is measured on the test split, by the
token that is predicted from, or by class. Beside it are modules of the same sizes in every node
layer with features drawn at random. `own` is the growth of the loss on the group that the module's
features are labelled with, `others` that on all else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.interventions.lesions import Groups, Lesions, Loss, lesion_modules
from libgraph.modules.summary import module_table

FEWEST = 30
"""Losses that a group has at least."""


def setting(backend: lg.Backend) -> tuple[Loss, Groups, list[str]]:
    """Loss, group and names of groups for a backend."""
    if backend.name in ("lm", "gpt2"):
        head, vocabulary = backend.cut.head, backend.cut.head.unembed.shape[1]  # type: ignore[attr-defined]
        names = [backend.token_name(token) for token in range(vocabulary)]  # type: ignore[attr-defined]
        return head.token_losses, lambda batch: batch.inputs, names

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs[:, 0], targets, reduction="none")

    return loss, lambda batch: batch.targets, list(backend.output_names())


def shuffled(graph: lg.InteractionGraph, seed: int) -> lg.InteractionGraph:
    """The graph with its modules dealt out at random within every node layer."""
    rng = np.random.default_rng(seed)
    partition = graph.partition
    if partition is None:
        raise lg.UsageError("The run has no modules.")
    membership = {}
    for name, modules in partition.membership.items():
        dealt = modules.copy()
        dealt[modules >= 0] = rng.permutation(modules[modules >= 0])
        membership[name] = dealt
    return graph.with_partition(lg.Partition(**{**vars(partition), "membership": membership}))


def largest(values: np.ndarray, names: Sequence[str], count: int = 3) -> str:
    """The groups whose loss grows most, and by how much."""
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf))[:count]
    return ", ".join(f"{names[group]} {values[group]:+.2f}" for group in order.tolist())


def own_and_others(
    lesions: Lesions, group: int | None, module: int
) -> tuple[float | None, float | None]:
    """Growth on a group, and on all others."""
    if group is None:
        return None, None
    rest = np.arange(len(lesions.count)) != group
    share = lesions.count[rest] / lesions.count[rest].sum()
    others = float(np.nansum(lesions.increase[module, rest] * share))
    return float(lesions.increase[module, group]), others


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("backend")
@click.option("-o", "options", multiple=True, help="option of the backend, key=value")
@click.option("--samples", default=None, type=int, help="of the test split")
@click.option("--modules", default=12, show_default=True, help="the largest ones")
@click.option("--draws", default=5, show_default=True, help="of random modules")
def main(
    run: Path, backend: str, options: tuple[str, ...], samples: int | None, modules: int, draws: int
) -> None:
    """Measure and print."""
    began = time.monotonic()
    saved = lg.open_run(run)
    model = lg.load_backend(backend, **dict(option.split("=", 1) for option in options))
    loss, groups, names = setting(model)
    graph, bases = saved.graph(), saved.bases()
    data = Data(model, "test", 32, samples, "cpu", torch.float32)
    network = model.network().float()

    def measure(graph: lg.InteractionGraph) -> Lesions:
        kept = graph.partition
        assert kept is not None  # noqa: S101
        few = {name: np.where(m < modules, m, -1) for name, m in kept.membership.items()}
        part = lg.Partition(**{**vars(kept), "membership": few})
        return lesion_modules(
            network, bases, graph.with_partition(part), data, loss, groups, len(names)
        )

    found = measure(graph)
    controls = [measure(shuffled(graph, seed)) for seed in range(draws)]
    rare = found.count < FEWEST
    columns = [
        "module",
        "features",
        "concept",
        "share",
        "loss",
        "random",
        "own",
        "others",
        "random own",
    ]
    table = Table(*columns, "random others", "grows most, against its mean", box=None)
    for module in module_table(graph)[:modules]:
        group = names.index(module.concept) if module.concept in names else None
        grown = np.where(rare, np.nan, found.increase[module.index])
        own, others = own_and_others(found, group, module.index)
        random = [own_and_others(control, group, module.index) for control in controls]
        chance = [
            np.mean(part) if group is not None else None for part in zip(*random, strict=True)
        ]
        table.add_row(
            str(module.index),
            str(module.size),
            module.concept or "",
            f"{module.concept_share:.0%}",
            f"{found.total[module.index]:.3f}",
            f"{np.mean([control.total[module.index] for control in controls]):.3f}",
            *("" if value is None else f"{value:.3f}" for value in (own, others, *chance)),
            largest(grown - found.total[module.index], names),
        )
    console = Console(width=160)
    whole = np.nansum(found.whole * found.count) / found.count.sum()
    console.print(f"whole model: {whole:.4f}; {found.count.sum()} losses")
    console.print(table)
    console.print(f"{time.monotonic() - began:.0f} s", style="dim")


if __name__ == "__main__":
    main()
