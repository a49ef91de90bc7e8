"""How far a dictionary's error in LIB's coordinates is what it does to the next node layer.

    python benchmarks/errors.py runs/DICT          # of --basis dictionary, or of a folder of them
    python benchmarks/errors.py runs/ma --json errors.json

In u the mean Jacobian Gram to the next node layer is the identity, so E‖ε_u‖² is what an error does
there if it is small, does not depend on the Jacobian and errors of other positions do not add up.
Each is taken away in turn: the same errors at other samples and positions (independent), where they
are (first order), and the section run on without them (whole). docs/superposition.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.statistics import node_statistics
from libgraph.network.basis import Bases
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import Network
from libgraph.sections.quadrature import Quadrature
from libgraph_cli.progress import ProgressDisplay


@dataclass(frozen=True)
class Effects:
    """What leaving the error of a node layer out does to the next one, in LIB's features there.

    Args:
        missed: E‖ε_u‖², what is predicted, as a share of E‖u‖² about the mean.
        independent: mean square of ε J with the errors of other samples and positions, as a share
            of what is predicted; and likewise
        first_order: with its own, and
        whole: of what the section makes without the error.
    """

    missed: float
    independent: float
    first_order: float
    whole: float


def effects(network: Network, bases: Bases, in_lib: Bases, data: Data) -> dict[str, Effects]:
    """By layer pair, of those that begin with a dictionary.

    Args:
        network: whose sections they are.
        bases: with dictionaries.
        in_lib: the Local Interaction Basis.
        data: samples.
    """
    cast = {
        name: basis.to(data.dtype) for name, basis in bases.items() if isinstance(basis, Dictionary)
    }
    generator = torch.Generator().manual_seed(0)
    sums: dict[str, list[Tensor]] = {}
    for batch in data:
        activations = list(network.activations(batch.inputs))
        for index, (layer, after, section) in enumerate(network.pairs):
            basis = cast.get(layer.name)
            if basis is None:
                continue
            x = activations[index]
            error = basis.error(x)
            order = torch.randperm(x[..., 0].numel(), generator=generator)
            moved = error.flatten(0, 1)[order].view_as(error)
            source, target = in_lib[layer.name], in_lib[after.name]
            into, out = source.encoder[:, source.isolated :].to(x), target.encoder.to(x)
            linear = section.linearize_along(x, Quadrature.gradient())
            steps = linear(torch.stack([error, moved], dim=1)) @ out
            whole = (activations[index + 1] - section(x - error)) @ out
            u = (x @ into).flatten(0, 1)
            parts = (
                (error @ into).square().sum(),
                steps[:, 1].square().sum(),
                steps[:, 0].square().sum(),
                whole.square().sum(),
                u.square().sum(),
                u.sum(0),
                torch.tensor(float(len(u))),
            )
            name = f"{layer.name} → {after.name}"
            before = sums.get(name, [torch.zeros(())] * len(parts))
            sums[name] = [a + b for a, b in zip(before, parts, strict=True)]
    return {name: _effects(found) for name, found in sums.items()}


def _effects(sums: list[Tensor]) -> Effects:
    predicted, independent, first, whole, squares, total, count = sums
    variance = float(squares - total.square().sum() / count)
    return Effects(
        float(predicted) / variance,
        *(float(part / predicted) for part in (independent, first, whole)),
    )


def measured(run: lg.Run, samples: int | None, rows: int | None) -> dict[str, Effects]:
    """Of a run's dictionaries on its first samples, in LIB of so many rows, or of all it had."""
    subject = run.subject(split="train", limit=samples)
    split = subject.backend.bases_split
    for_bases = Data(
        subject.backend, split, subject.data.batch_size, rows, dtype=subject.data.dtype
    )
    options = json.loads((Path(run.directory or ".") / "run.json").read_text())["options"]
    truncation = Truncation.parse(options["truncate"])
    with ProgressDisplay() as progress, torch.no_grad():
        statistics = node_statistics(subject.network, for_bases, progress)
        in_lib = lib(subject.network, statistics, for_bases, truncation, progress)
        return effects(subject.network, subject.bases, in_lib, subject.data)


def table(name: str, found: Mapping[str, Effects]) -> Table:
    """One line for each layer pair, and the geometric means."""
    drawn = Table(name, "missed", "independent", "first order", "whole")
    for pair, each in found.items():
        drawn.add_row(pair, f"{each.missed:.3f}", *(f"{v:.2f}" for v in _ratios(each)))
    means = [
        math.exp(sum(map(math.log, column)) / len(found))
        for column in zip(*map(_ratios, found.values()), strict=True)
    ]
    drawn.add_row("geometric mean", "", *(f"{value:.2f}" for value in means))
    return drawn


def _ratios(each: Effects) -> Iterator[float]:
    return iter((each.independent, each.first_order, each.whole))


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True)
@click.option("--samples", default=16, help="The first of the train split that effects are of.")
@click.option("--rows", type=int, help="That LIB is made from; those of the run if not given.")
@click.option("--json", "file", type=Path, help="Also write all numbers there.")
def main(runs: tuple[str, ...], samples: int, rows: int | None, file: Path | None) -> None:
    """Print a table for each run."""
    everything = {}
    for name in runs:
        found = measured(lg.open_run(name), samples, rows)
        everything[name] = {pair: asdict(each) for pair, each in found.items()}
        Console().print(table(name, found))
    if file is not None:
        file.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
