"""Edges that bases need on modular addition, over training seeds, beside the paper's figures.

    .venv/bin/python benchmarks/seeds.py --models models/seeds

Trains the transformer from each seed where the folder has no `seedN/model.safetensors` yet, as
`libgraph train modular-addition --seed N` does, analyses each with the published truncation, and
prints the edges needed within 0.001 of the test accuracy with their mean and standard deviation.
`benchmarks/results/seeds.json` gets all of it.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import libgraph as lg
from libgraph.backend.train import train
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_cli.progress import ProgressDisplay

RESULTS = Path(__file__).parent / "results"
BASES = ("lib", "pca", "sparse")
PAPER = {"lib": (86.6, 74.0, 634), "pca": (117.4, 85.2, 663), "sparse": ("-", "-", "-")}
"""Means over the authors' five models (arXiv 2405.10928); the sparse basis is not theirs."""

TURNED = 30
"""Leading features that the sparse basis turns."""


@click.command()
@click.option("--models", type=click.Path(path_type=Path), required=True, help="Folder of models.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Can be repeated.  [0 to 4]")
@click.option("--truncate", default="abs:1e-15", show_default=True, help="As published.")
def main(models: Path, seeds: tuple[int, ...], truncate: str) -> None:
    """Train, analyse, print."""
    console, rows = Console(), []
    for seed in seeds or range(5):
        weights = models / f"seed{seed}" / "model.safetensors"
        with ProgressDisplay() as progress:
            if not weights.is_file():
                train(ModularAddition, {"seed": seed}, weights.parent, progress=progress)
            backend = lg.load_backend("modular-addition", weights=str(weights))
            run = lg.analyze(
                backend,
                truncate=truncate,
                beside=BASES[1:],
                sparse_features=TURNED,
                progress=progress,
            )
        figures = run.metrics.bases
        pairs = list(figures["lib"].edges_required)
        needed = {
            basis: [figures[basis].edges_required[pair][0.001] for pair in pairs] for basis in BASES
        }
        within = {basis: figures[basis].modules.within_concept for basis in BASES}
        accuracy = run.metrics.score.test
        rows.append({"seed": seed, "accuracy": accuracy, "needed": needed, "within": within})
    table = Table(box=None, pad_edge=False)
    for column in ("seed", "accuracy", *(pair.replace("->", " → ") for pair in pairs), "within"):
        table.add_column(column, justify="right")
    for row in rows:
        both = zip(*(row["needed"][basis] for basis in BASES), strict=True)
        shares = " / ".join(f"{row['within'][basis]:.0%}" for basis in BASES)
        cells = [" / ".join(map(str, each)) for each in both]
        table.add_row(str(row["seed"]), f"{row['accuracy']:.4f}", *cells, shares)
    for name, function in (("mean", statistics.mean), ("deviation", statistics.stdev)):
        if len(rows) < 2:
            break
        cells = [
            " / ".join(
                f"{function(row['needed'][basis][i] for row in rows):.1f}" for basis in BASES
            )
            for i in range(len(pairs))
        ]
        table.add_row(name, "", *cells, "")
    paper = zip(*(PAPER[basis] for basis in BASES), strict=True)
    table.add_row("paper", "", *(" / ".join(map(str, each)) for each in paper), "")
    console.print("Edges needed, LIB / PCA / sparse", style="bold")
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"truncate": truncate, "pairs": pairs, "rows": rows}, indent=1)
    (RESULTS / "seeds.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
