"""Planted modules of deep networks: found through the depth, or cut by it?

    .venv/bin/python benchmarks/deep.py                 # half an hour on one thread
    .venv/bin/python benchmarks/deep.py --seeds 3 --depth 4

Networks of task=modular (3 blocks of 4, 20 000 samples, hidden by changes of basis) with 2 to 24
hidden layers: normal weights and ReLU, which forget their inputs; orthogonal ones and tanh; normal
ones with skip connections, without interaction between blocks and with some; and other numbers of
blocks. Modularity beside layered modularity, both weights, two resolutions; a row is a mean over
seeds with its standard error. Networks of which nothing is left are counted and left out.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import libgraph as lg
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.modules.communities import find_communities
from libgraph.modules.objectives import ObjectiveName

RESULTS = Path(__file__).parent / "results"
DEPTHS = (2, 4, 12, 24)
KINDS: dict[str, dict[str, Any]] = {
    "ReLU, normal": {},
    "tanh, normal": {"activation": "tanh"},
    "skips": {"skips": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "skips, interaction 0.01": {"skips": True, "interaction": 0.01, "layers": 12},
    "skips, 2 blocks of 6": {"skips": True, "blocks": 2, "width": 6, "layers": 12},
    "skips, 6 blocks of 4": {"skips": True, "blocks": 6, "layers": 12},
}
SEARCHES: tuple[tuple[ObjectiveName, str, float], ...] = (
    ("modularity", "log", 1.0),
    ("layered", "log", 1.0),
    ("layered", "log", 0.4),
    ("modularity", "√E", 1.0),
    ("layered", "√E", 1.0),
    ("layered-equal", "√E", 1.0),
    ("layered", "√E", 0.4),
    ("layered-equal", "√E", 0.4),
)
MEASURES = {"homogeneity": "homogeneity", "adjusted_rand_index": "ARI", "span": "spanned"}
LEIDEN_SEEDS = 5


def networks(depths: tuple[int, ...]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Names, depths and options of the networks."""
    for name, options in KINDS.items():
        for depth in depths:
            yield name, depth, {"blocks": 3, "width": 4, "layers": depth, **options}
    for name, options in OTHERS.items():
        if options["layers"] in depths:
            yield name, options["layers"], {"blocks": 3, "width": 4, **options}


def span(graph: lg.InteractionGraph) -> float:
    """Share of the rotated node layers that a module has features in, mean by size."""
    layers = [layer.name for layer in graph.layers if layer.rotated]
    count = graph.partition.size if graph.partition is not None else 0
    present = np.zeros((count, len(layers)), dtype=bool)
    sizes = np.zeros(count)
    for place, name in enumerate(layers):
        modules = graph.membership(name)
        modules = modules[modules >= 0]
        present[modules, place] = True
        sizes += np.bincount(modules, minlength=len(sizes))
    return float((present.mean(1) * sizes).sum() / sizes.sum()) if sizes.any() else 0.0


def measure(
    graph: lg.InteractionGraph, search: tuple[ObjectiveName, str, float]
) -> dict[str, float]:
    """Homogeneity, ARI, coverage and span of what one search finds."""
    objective, weights, resolution = search
    weighted = graph if weights == "log" else replace(graph, epsilon={})
    found = find_communities(weighted, resolution, 0, LEIDEN_SEEDS, objective)
    graph = graph.with_partition(found)
    return {name: value or 0.0 for name, value in agreement_with_concepts(graph).items()} | {
        "span": span(graph)
    }


@click.command()
@click.option("--seeds", default=20, show_default=True, help="networks a row is the mean of")
@click.option("--depth", "depths", multiple=True, type=int, help="hidden layers  [2, 4, 12, 24]")
def main(seeds: int, depths: tuple[int, ...]) -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    began, progress, records = time.monotonic(), Console(stderr=True), []
    table = Table("network", "layers", "objective", "weights", "γ", *MEASURES.values(), box=None)
    for name, depth, options in networks(depths or DEPTHS):
        found: dict[int, list[dict[str, float]]] = {number: [] for number in range(len(SEARCHES))}
        dead = 0
        for seed in range(seeds):
            backend = lg.load_backend("mlp", samples=20_000, seed=seed, **options)
            try:
                graph = lg.analyze(backend, beside=(), seeds=1).graph()
            except (lg.NumericalError, lg.DataError):
                dead += 1
                continue
            for number, search in enumerate(SEARCHES):
                found[number].append(measure(graph, search))
        progress.print(f"{time.monotonic() - began:5.0f} s  {name}, {depth} layers; {dead} dead")
        for number, (objective, weights, resolution) in enumerate(SEARCHES):
            cells, record = [], {"network": name, "layers": depth, "dead": dead}
            for measured in MEASURES:
                values = [row[measured] for row in found[number]]
                error = statistics.stdev(values) / math.sqrt(len(values)) if values[1:] else 0.0
                record[measured] = {"mean": statistics.fmean(values), "error": error}
                cells.append(f"{statistics.fmean(values):.3f}±{error:.3f}")
            records.append(
                record | {"objective": objective, "weights": weights, "resolution": resolution}
            )
            table.add_row(name, str(depth), objective, weights, f"{resolution:g}", *cells)
        (RESULTS / "deep.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
