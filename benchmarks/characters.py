"""Edges that each layer pair needs, of runs that were made without ablation.

    python benchmarks/characters.py runs/chars runs/lib               # all layer pairs, Δ = 0.05
    python benchmarks/characters.py runs/chars --pair ln1.normalized --rows 3 --json needed.json

Edge ablation of an analysis takes all of its test samples and looks at node layers too: hours, with
a million edges in a layer pair. Here one layer pair after the other is asked, on a few samples, and
is printed as soon as it is known. docs/superposition.md has what came out for the bundled model of
characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

import libgraph as lg
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.score import Scoring


@dataclass(frozen=True)
class Needed:
    """Of one layer pair in one basis.

    Args:
        pair: its name.
        positive: edges that are not 0, those from the constant left out as they always are.
        available: edges there are.
        needed: of them to keep the score; None where not even all do.
    """

    pair: str
    positive: int
    available: int
    needed: int | None


def needed(
    run: lg.Run, basis: str, samples: int | None, delta: float, part: str = ""
) -> Iterator[Needed]:
    """One layer pair after the other, of those with this in their names.

    Args:
        run: whose edges these are.
        basis: one of its bases.
        samples: of the test split, its first.
        delta: how much worse the score may become.
        part: of a name such as ln1.normalized → resid_mid.
    """
    subject = run.subject(basis, split="test", limit=samples)
    scoring = Scoring(subject.network, subject.backend, subject.data)
    edges = run.edges(basis)
    for source, target, _ in subject.network.pairs:
        pair, name = (source.name, target.name), f"{source.name} → {target.name}"
        if part not in name:
            continue
        with torch.no_grad():
            (found,) = ablate_edges(
                scoring, subject.bases, edges, tolerances=[delta], only=[pair]
            ).values()
        positive = int((edges[pair][:, int(source.constant) :] > 0).sum())
        yield Needed(name, positive, found.available, found.required[delta])


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True)
@click.option("--rows", default=3, help="The first of the test split that scores are of.")
@click.option("--delta", default=0.05, help="How much worse the score may become.")
@click.option("--pair", default="", help="Layer pairs with this in their names alone.")
@click.option("--json", "file", type=Path, help="Also write all numbers there.")
def main(runs: tuple[str, ...], rows: int, delta: float, pair: str, file: Path | None) -> None:
    """Print a line for each basis and layer pair."""
    everything: dict[str, dict[str, list[dict[str, object]]]] = {}
    for name in runs:
        run = lg.open_run(name)
        for basis in run.basis_names:
            kept = everything.setdefault(name, {}).setdefault(basis, [])
            for found in needed(run, basis, rows, delta, pair):
                click.echo(
                    f"{name} {basis.upper():12} {found.pair:40} needs {found.needed} of "
                    f"{found.positive} that are not 0, {found.available} in all"
                )
                kept.append(asdict(found))
                if file is not None:
                    file.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
