"""How well planted modules are found again: by basis, resolution, interaction and sample size.

    .venv/bin/python benchmarks/planted.py            # some minutes on one thread
    .venv/bin/python benchmarks/planted.py --seeds 5

Every network is one of `libgraph analyze mlp` (2 blocks of 6, 4 hidden layers, each hidden by a
change of basis, 20 000 samples, Δ = 0.01) with another seed; a row is a mean over seeds with its
standard error. Homogeneity says whether modules stay within a block, the adjusted Rand index (ARI)
whether they are the blocks. Tables are printed; `benchmarks/results/` gets a JSON and a figure.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

import libgraph as lg
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.modules.communities import find_communities
from libgraph.runs.computed_run import ComputedRun

RESULTS = Path(__file__).parent / "results"
RESOLUTIONS = (0.1, 0.25, 0.5, 1.0, 2.0)
INTERACTIONS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
TOLERANCES = (0.1, 0.01, 0.001, 0.0001)
SAMPLES = (100, 300, 1000, 3000, 10_000, 30_000)
LEIDEN_SEEDS = 5
POOR = 0.95
"""Seeds of a homogeneity below this are looked at again with ten times the samples."""

Row = dict[str, Any]


def analyse(basis: str, *, tolerance: float = 0.01, **options: Any) -> ComputedRun:
    """One analysis of a planted network."""
    backend = lg.load_backend("mlp", **options)
    return lg.analyze(backend, basis=basis, seeds=LEIDEN_SEEDS, tolerances=(tolerance,))


def measure(run: ComputedRun, basis: str, resolution: float = 1.0) -> dict[str, float]:
    """Homogeneity, ARI and coverage in one basis at one resolution."""
    graph = run.graph(basis)
    if resolution != run.options.resolution:
        graph = graph.with_partition(find_communities(graph, resolution, 0, LEIDEN_SEEDS))
    found = agreement_with_concepts(graph)
    # A graph without modules has found nothing.
    return {name: value or 0.0 for name, value in found.items()}


def mean(rows: Sequence[dict[str, float]]) -> Row:
    """Mean and standard error of every measure, and its least value."""
    result: Row = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        result[name] = {"mean": statistics.fmean(values), "error": error, "least": min(values)}
    return result


def by_basis(seeds: range) -> tuple[list[Row], list[Row]]:
    """Bases at several resolutions; and the seeds on which LIB does poorly, with more samples."""
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    poor = []
    for seed in seeds:
        runs = {"lib": analyse("lib", seed=seed), "neuron": analyse("neuron", seed=seed)}
        for basis, run in (("lib", runs["lib"]), ("pca", runs["lib"]), ("neuron", runs["neuron"])):
            for resolution in RESOLUTIONS:
                one = measure(run, basis, resolution)
                found.setdefault((basis, resolution), []).append(one)
        before = found["lib", 1.0][-1]["homogeneity"]
        if before < POOR:
            more = analyse("lib", seed=seed, samples=200_000)
            after = measure(more, "lib")["homogeneity"]
            poor.append(
                {"seed": seed, "homogeneity": before, "at 200 000": after} | tie(runs["lib"])
            )
    rows = [{"basis": b, "resolution": g, **mean(each)} for (b, g), each in sorted(found.items())]
    return rows, poor


def tie(run: lg.Run) -> Row:
    """The feature that is most of a mixture, and how near the next Λ is to its own."""
    worst: tuple[float, str, float] = (2.0, "", 0.0)
    for layer in run.graph().layers:
        for index, label in enumerate(layer.labels or ()):
            if index < layer.isolated:
                continue
            values = layer.importance
            gaps = [
                abs(values[other] / values[index] - 1)
                for other in (index - 1, index + 1)
                if layer.isolated <= other < layer.size
            ]
            share = max(label.concepts.values())
            worst = min(worst, (share, f"{layer.name}/{index}", min(gaps)))
    return {"feature": worst[1], "share": worst[0], "gap": worst[2]}


def curve(
    name: str, values: Sequence[float], seeds: range, progress: Callable[[str], None]
) -> list[Row]:
    """LIB and PCA over values of one option."""
    rows = []
    for value in values:
        progress(f"{name} {value:g}")
        found: dict[tuple[str, float], list[dict[str, float]]] = {}
        for seed in seeds:
            run = analyse("lib", seed=seed, **{name: value})
            for basis in ("lib", "pca"):
                for resolution in (0.5, 1.0):
                    one = measure(run, basis, resolution)
                    found.setdefault((basis, resolution), []).append(one)
        rows += [
            {name: value, "basis": b, "resolution": g, **mean(each)}
            for (b, g), each in found.items()
        ]
    return rows


def show(console: Console, title: str, rows: list[Row]) -> None:
    """A table of rows; measures as mean ± standard error."""
    if not rows:
        return
    names = {"adjusted_rand_index": "ARI", "resolution": "γ"}
    table = Table(*(names.get(name, name) for name in rows[0]), title=title, box=None)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.3f}±{value['error']:.3f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def draw(curves: dict[str, list[Row]], path: Path) -> None:
    """Homogeneity and ARI over each option."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    labels = {"interaction": "weights between blocks, relative", "samples": "samples"}
    for axes, (name, rows) in zip(
        figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True
    ):
        for basis, colour in (("lib", "tab:blue"), ("pca", "tab:orange")):
            for what, style, resolution in (
                ("homogeneity", "o-", 1.0),
                ("adjusted_rand_index", "s--", 0.5),
            ):
                chosen = [r for r in rows if r["basis"] == basis and r["resolution"] == resolution]
                short = "homogeneity" if what == "homogeneity" else "ARI"
                axes.errorbar(
                    [row[name] for row in chosen],
                    [row[what]["mean"] for row in chosen],
                    [row[what]["error"] for row in chosen],
                    fmt=style, color=colour, capsize=2, markersize=4,
                    label=f"{basis.upper()}, {short} at γ = {resolution:g}",
                )  # fmt: skip
        # Zero has no place on a logarithmic axis.
        axes.set_xscale("symlog", linthresh=0.003) if name == "interaction" else axes.set_xscale(
            "log"
        )
        axes.set_xlabel(labels[name])
        axes.set_ylim(-0.05, 1.05)
    axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=150)


@click.command()
@click.option("--seeds", default=20, show_default=True, help="networks a row is the mean of")
def main(seeds: int) -> None:
    """Measure, print and draw."""
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    console, began, numbers = Console(), time.monotonic(), range(seeds)

    def progress(what: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {what}", style="dim")

    progress("bases")
    bases, poor = by_basis(numbers)
    curves = {
        "interaction": curve("interaction", INTERACTIONS, numbers, progress),
        "samples": curve("samples", SAMPLES, numbers, progress),
    }
    tolerances = curve("tolerance", TOLERANCES, numbers, progress)
    show(console, f"Bases and resolutions, {seeds} seeds", bases)
    show(console, f"Seeds with a homogeneity below {POOR} in LIB", poor)
    for name, rows in {**curves, "tolerance Δ": tolerances}.items():
        show(console, f"Over {name}", rows)
    record = {"seeds": seeds, "bases": bases, "poor": poor, "curves": curves}
    record["tolerances"] = tolerances
    record["seconds"] = round(time.monotonic() - began)
    (RESULTS / "planted.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(curves, RESULTS / "planted.png")
    progress(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
