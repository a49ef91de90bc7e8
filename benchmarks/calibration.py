"""Are p-values of modules even where nothing is planted, and small where something is?

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py --seeds 5 --draws 19
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py --fair --seeds 100 --draws 39
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/calibration.py --dictionaries --draws 19

Every null model on planted networks (`libgraph analyze mlp`), on networks of the same kind without
blocks, on untrained transformers (the modular-addition one, made smaller), and on the bundled
transformer. Prints a table; distributions of p go to `docs/images/calibration.png`.
With `--fair` rotations of networks with √E alone, for more seeds, and without a figure. With
`--dictionaries` the same of latents, learned anew in every rotation, on the networks of `libgraph
benchmark`: 24 features planted in 12 dimensions or 24, and random weights with the same inputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kstest

import libgraph as lg
from libgraph.analysis.rotations import rotated_networks
from libgraph.backend.data import Data
from libgraph.benchmark.planted import Design
from libgraph.benchmark.planted import planted as over_complete
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.null_models import NULL_MODELS, NullModel
from libgraph.modules.significance import Significance, significance
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "calibration.png"
SMALL = {"modulus": 31, "d_model": 32, "heads": 4, "d_mlp": 64}
SAMPLES = {"mlp": 2000, "untrained": 300, "bundled": 300}
DICTIONARY = {"samples": 2000, "active": 3, "steps": 150}
NULLS = (*NULL_MODELS, "rotated")
COLUMNS = ("network", "null", "Q", "Q of draws", "z", "median p", "p ≤ 0.05", "p ≤ 0.01", "even")
Case = tuple[InteractionGraph, NullModel]


class Unlabelled(ModularAddition):
    """The transformer without labels, which take longer than all the rest."""

    def labels(self, encode: Any, bases: Any) -> Mapping[str, Any]:
        """None."""
        return {}


def rotations(backend: lg.Backend, limit: int) -> Case:
    """The graph of a backend's network with weights √E, and its rotations."""
    with torch.no_grad():
        network = backend.network().double()
        data = Data(backend, "train", 1000, limit, "cpu", torch.float64)
        return rotated_networks(network, data)


def planted(seed: int, *, ablate: bool, **options: Any) -> Case:
    """A network of task=modular, with ε if `ablate`."""
    backend = lg.load_backend("mlp", seed=seed, samples=SAMPLES["mlp"], **options)
    graph, null = rotations(backend, SAMPLES["mlp"])
    run = lg.analyze(backend, seeds=1) if ablate else None
    return (run.graph() if run else graph), null


def untrained(seed: int, **sizes: int) -> Case:
    """A transformer with its initial weights: no score, no ε."""
    weights = initial_weights(TrainingOptions(seed=seed, **sizes))
    backend = ModularAddition(weights={name: w.detach() for name, w in weights.items()})
    return rotations(backend, SAMPLES["untrained"])


def bundled(*, ablate: bool) -> Case:
    """The transformer that learned to add."""
    backend = Unlabelled()
    graph, null = rotations(backend, SAMPLES["bundled"])
    run = lg.analyze(backend, seeds=1, limit=SAMPLES["bundled"]) if ablate else None
    return (run.graph() if run else graph), null


def latents(seed: int, gradients: float, *, learned: bool, dimensions: int = 12) -> Case:
    """A network of the benchmark with as many latents as it has features, weights √E."""
    samples = DICTIONARY["samples"]
    design = Design(dimensions=dimensions, samples=samples, learned=learned, seed=seed)
    known = over_complete(design)
    options = {
        "dictionary_latents": known.features_per_dimension,
        "dictionary_active": DICTIONARY["active"],
        "dictionary_steps": DICTIONARY["steps"],
        "dictionary_gradients": gradients,
        "seed": seed,
    }
    data = Data(known.backend(), "train", 1000)
    return rotated_networks(known.network, data, "dictionary", options=options)


# Not hidden: a change of basis that stretches prefers coordinates, and with depth the more.
DENSE = {"blocks": 1, "width": 12, "hide": False}
DEEP = {"layers": 12}
CASES: dict[str, Callable[[int], Case]] = {
    "planted, ε": lambda seed: planted(seed, ablate=True),
    "planted, √E": lambda seed: planted(seed, ablate=False),
    "nothing planted, ε": lambda seed: planted(seed, ablate=True, **DENSE),
    "nothing planted, √E": lambda seed: planted(seed, ablate=False, **DENSE),
    "planted, 12 layers, √E": lambda seed: planted(seed, ablate=False, **DEEP),
    "nothing planted, 12 layers, √E": lambda seed: planted(seed, ablate=False, **DENSE, **DEEP),
    "untrained transformer, √E": lambda seed: untrained(seed, **SMALL),
}
FAIR = tuple(name for name in CASES if name.endswith("√E"))
DICTIONARIES: dict[str, Callable[[int], Case]] = {
    "planted, TopK": lambda seed: latents(seed, 0.0, learned=True),
    "separate, TopK": lambda seed: latents(seed, 0.0, learned=True, dimensions=24),
    "random weights, TopK": lambda seed: latents(seed, 0.0, learned=False),
    "planted, gradients": lambda seed: latents(seed, 1.0, learned=True),
    "random weights, gradients": lambda seed: latents(seed, 1.0, learned=False),
}


def compare(case: Case, draws: int, seed: int, *, fair: bool) -> dict[str, Significance]:
    """One graph against every null model, or rotations alone."""
    graph, rotated = case
    models: dict[str, str | NullModel] = {} if fair else {name: name for name in NULL_MODELS}
    models["rotated"] = rotated
    with torch.no_grad():
        return {n: significance(graph, m, draws=draws, seed=seed) for n, m in models.items()}


def even(p: Sequence[float], draws: int) -> float:
    """p of the Kolmogorov–Smirnov test that p-values are even.

    They are multiples of 1/(1 + N); less a random part of one such step, they are even on [0, 1].
    """
    steps = np.random.default_rng(0).random(len(p)) / (1 + draws)
    return float(kstest(np.array(p) - steps, "uniform").pvalue)


def rows(name: str, found: Sequence[Mapping[str, Significance]], draws: int) -> Iterator[list[str]]:
    """Of the table, one for each null model."""
    for null in found[0]:
        each = [one[null] for one in found]
        p = [one.p for one in each]
        z = [one.z for one in each if one.z is not None]
        yield [
            name,
            null,
            f"{statistics.fmean(one.modularity for one in each):.3f}",
            f"{statistics.fmean(one.mean for one in each):.3f}",
            f"{statistics.fmean(z):.1f}" if z else "",
            f"{statistics.median(p):.3f}",
            f"{np.mean(np.array(p) <= 0.05):.0%}",
            f"{np.mean(np.array(p) <= 0.01):.0%}",
            f"{even(p, draws):.1g}" if len(p) > 1 else "",
        ]


def draw(results: Mapping[str, Sequence[Mapping[str, Significance]]]) -> None:
    """Empirical distributions of p, a panel for each kind of network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(results), sharey=True), results.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=6, label="even")
        for index, null in enumerate(NULLS):
            axes.ecdf([one[null].p for one in found], label=null, color=f"C{index}")
        axes.set_title(name, fontsize="small")
        axes.set_xlabel("p")
        axes.set_xlim(-0.02, 1.02)
    figure.axes[0].set_ylabel("share of networks with no larger p")
    figure.axes[-1].legend(fontsize="x-small")
    figure.savefig(PICTURE, dpi=120)


@click.command()
@click.option("--seeds", default=20, show_default=True, help="networks of each kind")
@click.option("--draws", default=119, show_default=True, help="graphs from each null model")
@click.option("--fair", is_flag=True, help="rotations with √E alone, no figure")
@click.option("--full-size", is_flag=True, help="untrained transformers of the bundled one's size")
@click.option("--dictionaries", is_flag=True, help="rotations in which latents are learned anew")
@click.option("--only", default="", help="kinds of these with this in their names")
@click.option("--first", default=0, help="seed of the first network")
def main(
    seeds: int,
    draws: int,
    fair: bool,
    full_size: bool,
    dictionaries: bool,
    only: str,
    first: int,
) -> None:
    """Measure, print and draw."""
    fair = fair or dictionaries
    torch.set_num_threads(1)
    began, progress = time.monotonic(), Console(stderr=True)
    table = Table(*COLUMNS, box=None, title=f"{seeds} networks of each kind, {draws} draws")
    results: dict[str, list[dict[str, Significance]]] = {}
    cases = {name: make for name, make in CASES.items() if not fair or name in FAIR}
    if full_size:
        cases = {"untrained transformer, full size, √E": untrained}
    if dictionaries:
        cases = {name: make for name, make in DICTIONARIES.items() if only in name}
    for name, make in cases.items():
        results[name] = []
        for number in range(seeds):
            seed = first + number
            results[name].append(compare(make(seed), draws, seed, fair=fair))
            elapsed = time.monotonic() - began
            progress.print(f"{elapsed:5.0f} s  {name}: {number + 1} of {seeds}", style="dim")
        for row in rows(name, results[name], draws):
            table.add_row(*row)
    for ablate, name in (
        () if fair else ((True, "bundled transformer, ε"), (False, "bundled transformer, √E"))
    ):
        for row in rows(name, [compare(bundled(ablate=ablate), draws, 0, fair=fair)], draws):
            table.add_row(*row)
        progress.print(f"{time.monotonic() - began:5.0f} s  {name}", style="dim")
    Console(width=130).print(table)
    if not fair:
        draw(results)


if __name__ == "__main__":
    main()
