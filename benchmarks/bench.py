"""Structured sections against automatic differentiation, on the same input in the same process.

    make bench            # all cases, about a minute on two cores
    make bench CASES=block
    make bench CASES=gpt2   # the shape of GPT-2 small, some minutes
    make bench CASES=ablation # edges needed by an MLP of that width
    make bench CASES=leiden # modules of a graph with seven million edges

Every case computes the exact Jacobian Grams and interactions of a chain of sections in the neuron
basis, once through the sections' closed forms and once through `libgraph.sections.autodiff`, checks
that both agree, and reports the median time of several runs and the peak of memory. Results go to
`benchmarks/results/`: a JSON per case, and a plot of growth over sequences, positions and width.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import gelu, pad

import libgraph as lg
from libgraph.accumulate.memory import batch_size
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.interactions import interactions
from libgraph.edges.score import Scoring
from libgraph.graph.features import LayerFeatures
from libgraph.modules.agreement import adjusted_mutual_information
from libgraph.progress import silent
from libgraph.sections import Division, Variance, autodiff

RESULTS = Path(__file__).parent / "results"
GRADIENT = lg.Quadrature.gradient()
AGREEMENT = 1e-10
Sums = list[Tensor]


def transformer_block(width: int, heads: int, seed: int = 0) -> list[lg.Section]:
    """Random pre-norm transformer block, norms split: node layers as in the paper."""
    generator = torch.Generator().manual_seed(seed)

    def weight(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / rows**0.5

    skip = torch.cat([torch.zeros(width, width + 1), torch.eye(width + 1)]).double()
    reads = 2 * width + 1
    attention = lg.sections.Attention(
        skip,
        *(weight(reads, width) for _ in range(3)),
        pad(weight(width, width), (0, 1)),
        heads=heads,
    )
    outer = pad(weight(4 * width, width), (0, 1))
    mlp = lg.sections.SkipMLP(skip, weight(reads, 4 * width), outer, gelu)
    return [*lg.sections.split_norm(width), attention, *lg.sections.split_norm(width), mlp]


def block_inputs(sequences: int, positions: int, width: int) -> Tensor:
    """A random residual stream with the constant appended."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sequences, positions, width, generator=generator, dtype=torch.float64)
    return torch.cat([x, torch.ones(sequences, positions, 1, dtype=torch.float64)], dim=-1)


def structured(sections: list[lg.Section], x: Tensor) -> Sums:
    """Grams and interactions through the sections' own closed forms."""
    sums = []
    for section in sections:
        eye = torch.eye(section.d_in, dtype=x.dtype)
        sums += [section.jacobian_gram(x), section.interactions(x, x, eye, GRADIENT)]
        x = section(x)
    return sums


def automatic(sections: list[lg.Section], x: Tensor) -> Sums:
    """The same through automatic differentiation alone."""
    sums = []
    for section in sections:
        eye = torch.eye(section.d_in, dtype=x.dtype)
        sums += [
            autodiff.jacobian_gram(section, x),
            autodiff.interactions(section, x, x, eye, GRADIENT),
        ]
        x = section(x)
    return sums


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Growth of the resident set in MiB, sampled every two milliseconds."""
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    start, done, peak = resident(), threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], (resident() - start) / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def measure(compute: Callable[[], Sums], runs: int) -> tuple[Sums, dict[str, float]]:
    """What it computes, the median seconds of some runs, and the peak of memory of the first."""
    with peak_memory() as peak:
        began = time.perf_counter()
        sums = compute()
        first = time.perf_counter() - began
    times = [first] if runs == 1 else []
    for _ in range(runs if runs > 1 else 0):
        began = time.perf_counter()
        compute()
        times.append(time.perf_counter() - began)
    return sums, {"seconds": statistics.median(times), "peak_mib": round(peak[0], 1)}


def compare(sections: list[lg.Section], x: Tensor, runs: int) -> dict[str, Any]:
    """Both paths on one input, with how far they differ."""
    with torch.no_grad():
        ours, fast = measure(lambda: structured(sections, x), runs)
        theirs, slow = measure(lambda: automatic(sections, x), 1)
    error = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )
    if error > AGREEMENT:
        raise AssertionError(f"structured and automatic results differ by {error:.1e}")
    return {
        "structured": fast,
        "autodiff": slow,
        "ratio": slow["seconds"] / fast["seconds"],
        "error": error,
    }


def bench_block(runs: int) -> list[dict[str, Any]]:
    """One block, d_model 64, 16 heads, 64 positions, 8 sequences: 75 s in the authors' code."""
    setting = {"sequences": 8, "positions": 64, "width": 64, "heads": 16}
    found = compare(transformer_block(64, 16), block_inputs(8, 64, 64), runs)
    return [{"setting": setting, **found}]


def bench_growth(runs: int) -> list[dict[str, Any]]:
    """The same block smaller, growing in sequences, positions and width."""
    base = {"sequences": 4, "positions": 16, "width": 32, "heads": 4}
    rows = []
    for axis, values in {
        "sequences": (2, 4, 8, 16), "positions": (8, 16, 32, 64), "width": (16, 32, 64)
    }.items():  # fmt: skip
        for value in values:
            setting = {**base, axis: value}
            sections = transformer_block(setting["width"], setting["heads"])
            x = block_inputs(setting["sequences"], setting["positions"], setting["width"])
            rows.append({"axis": axis, "setting": setting, **compare(sections, x, runs)})
    return rows


def bench_modular_addition(runs: int) -> list[dict[str, Any]]:
    """All LIB bases and interactions of the bundled model: 19 s in the authors' code."""
    backend = lg.load_backend("modular-addition")
    network = backend.network().double()
    data = Data(backend, "train", batch_size=1024)
    truncation = Truncation.parse("rel:1e-10")

    def compute() -> Sums:
        bases = METHODS["lib"](network, node_statistics(network, data), data, truncation, silent)
        edges = interactions(network, {"lib": bases}, data, GRADIENT)["lib"]
        return [basis.importance for basis in bases.values()] + list(edges.values())

    _, found = measure(compute, runs)
    return [{"setting": {"samples": data.backend.samples("train")}, "structured": found}]


class Sequences(lg.Backend):
    """A chain of sections on activations that are given, without a model around it."""

    name = "sequences"

    def __init__(self, sections: list[lg.Section], x: Tensor) -> None:
        super().__init__()
        self.sections, self.x = sections, x

    def network(self) -> lg.Network:
        """Node layers between all sections, variances isolated."""
        layers = [lg.NodeLayer("0", self.sections[0].d_in)]
        for i, section in enumerate(self.sections, start=1):
            isolated = (0,) if isinstance(section, Variance) else ()
            layers.append(lg.NodeLayer(str(i), section.d_out, isolated=isolated))
        return lg.Network(torch.nn.Identity(), self.sections, layers)

    def samples(self, split: str) -> int:
        """Sequences."""
        return len(self.x)

    def batches(self, split: str, batch_size: int) -> Iterator[lg.Batch]:
        """The activations, also as targets."""
        for x in self.x.split(batch_size):
            yield lg.Batch(x, x)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nothing that means anything."""
        return outputs.sum((1, 2))


@contextmanager
def clock(parts: dict[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Seconds spent inside of some methods or functions, by the label given to each."""
    seconds = dict.fromkeys(parts, 0.0)
    originals = {label: getattr(owner, name) for label, (owner, name) in parts.items()}

    def timed(label: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return originals[label](*arguments, **named)
            finally:
                seconds[label] += time.perf_counter() - began

        return call

    for label, (owner, name) in parts.items():
        setattr(owner, name, timed(label))
    try:
        yield seconds
    finally:
        for label, (owner, name) in parts.items():
            setattr(owner, name, originals[label])


def bench_gpt2(runs: int) -> list[dict[str, Any]]:
    """GPT-2 small in shape: 12 blocks, 768 wide, 12 heads, random weights, 75 node layers."""
    sections = [s for i in range(12) for s in transformer_block(768, 12, seed=i)]
    sections += lg.sections.split_norm(768, keep=False)
    x = block_inputs(16, 128, 768)
    network = Sequences(sections, x).network().double()
    truncation = Truncation.parse("rel:1e-10")
    memory = 2**30

    def data(x: Tensor) -> Data:
        one = batch_size(network, x[:1], memory)
        return Data(Sequences(sections, x), "train", batch_size=one, memory=memory)

    rows: list[dict[str, Any]] = []

    def report(
        stage: str,
        sequences: int,
        parts: dict[str, tuple[Any, str]],
        compute: Any,
        positions: int = 128,
    ) -> Any:
        with peak_memory() as peak, clock(parts) as seconds, torch.no_grad():
            began = time.perf_counter()
            result = compute()
            total = time.perf_counter() - began
        found = {"seconds": total, "peak_mib": round(peak[0], 1)}
        within = {label: f"{each:.1f} s" for label, each in seconds.items()}
        setting = {"sequences": sequences, "positions": positions, "width": 768, "heads": 12}
        rows.append({"stage": stage, "setting": setting, "structured": found, "within": within})
        return result

    classes = {"attention": lg.sections.Attention, "MLP": lg.sections.SkipMLP, "variance": Variance}
    classes["division"] = Division
    forwards = {f"forward {name}": (cls, "forward") for name, cls in classes.items()}
    grams = {f"Gram {name}": (cls, "jacobian_gram") for name, cls in classes.items()}
    edges = {f"edges {name}": (cls, "interactions") for name, cls in classes.items()}
    eigh = {"eigenproblems": (torch.linalg, "eigh")}

    def find_bases() -> Any:
        found = node_statistics(network, data(x))
        return METHODS["lib"](network, found, data(x), truncation, silent)

    bases = report("bases", 16, forwards | grams | eigh, find_bases)
    few = data(x[:2])
    report("edges", 2, edges, lambda: interactions(network, {"lib": bases}, few, GRADIENT))

    block = transformer_block(768, 12)
    one = block_inputs(1, 1024, 768)
    alone = Sequences(block, one).network().double()
    whole = Data(Sequences(block, one), "train", batch_size=1, memory=memory)

    def long_context() -> Any:
        stats = node_statistics(alone, whole)
        found = METHODS["lib"](alone, stats, whole, truncation, silent)
        return interactions(alone, {"lib": found}, whole, GRADIENT)

    report("one block", 1, grams | edges, long_context, positions=1024)
    return rows


def bench_scaling(runs: int) -> list[dict[str, Any]]:
    """LIB bases and interactions of a whole block in batches, at sizes autodiff would not finish.

    Time should be linear in sequences and at most quadratic in positions; memory should not depend
    on the number of sequences, with activations kept within a budget of 64 MiB.
    """
    base = {"sequences": 8, "positions": 64, "width": 64, "heads": 16}
    rows = []
    for axis, values in {
        "sequences": (8, 16, 32, 64, 128), "positions": (32, 64, 128, 256, 512)
    }.items():  # fmt: skip
        for value in values:
            setting = {**base, axis: value}
            sections = transformer_block(setting["width"], setting["heads"])
            x = block_inputs(setting["sequences"], setting["positions"], setting["width"])
            backend = Sequences(sections, x)
            network = backend.network().double()
            data = Data(backend, "train", batch_size=4, memory=64 * 2**20)
            truncation = Truncation.parse("rel:1e-10")

            def compute(
                network: lg.Network = network, data: Data = data, truncation: Any = truncation
            ) -> Sums:
                stats = node_statistics(network, data)
                bases = METHODS["lib"](network, stats, data, truncation, silent)
                return list(interactions(network, {"lib": bases}, data, GRADIENT)["lib"].values())

            with torch.no_grad():
                _, found = measure(compute, runs)
            rows.append({"axis": axis, "setting": setting, "structured": found})
    return rows


def bench_precision(runs: int) -> list[dict[str, Any]]:
    """LIB and its interactions in float32 against float64, on the bundled models.

    Errors are relative to the largest; features are paired by rank, the leading ones are those
    with at least a thousandth of the largest Λ.
    """
    rows = []
    for name, limit in (("modular-addition", None), ("lm", 64)):
        backend = lg.load_backend(name)
        found = {}
        for dtype in (torch.float64, torch.float32):
            began = time.perf_counter()
            network = backend.network().to(dtype)
            data = Data(
                backend, "train", batch_size=64 if limit else 1024, limit=limit, dtype=dtype
            )
            stats = node_statistics(network, data)
            truncation = Truncation.parse("rel:1e-10")
            bases = METHODS["lib"](network, stats, data, truncation, silent)
            edges = interactions(network, {"lib": bases}, data, GRADIENT)["lib"]
            found[dtype] = bases, edges, time.perf_counter() - began
        (bases, edges, slow), (rough, rough_edges, fast) = found.values()
        errors = {
            "features": f"{sum(map(len, rough.values()))} for {sum(map(len, bases.values()))}",
            "Λ": 0.0, "leading Λ": 0.0, "interactions": 0.0, "leading interactions": 0.0,
        }  # fmt: skip
        leading = {}
        for layer, basis in bases.items():
            exact = basis.importance[basis.isolated :]
            other = rough[layer].importance[basis.isolated :].to(exact)
            both = min(len(exact), len(other))
            error = (other[:both] - exact[:both]).abs()
            leading[layer] = basis.isolated + int((exact >= 1e-3 * exact[0]).sum())
            errors["Λ"] = max(errors["Λ"], float(error.max() / exact[0]))
            first = leading[layer] - basis.isolated
            relative = float((error / exact[:both])[:first].max())
            errors["leading Λ"] = max(errors["leading Λ"], relative)
        for (a, b), exact in edges.items():
            i, j = bases[b].isolated, bases[a].isolated
            rows_, columns = (
                min(x) for x in zip(exact.shape, rough_edges[a, b].shape, strict=True)
            )
            error = (rough_edges[a, b][:rows_, :columns] - exact[:rows_, :columns]).abs()
            largest = float(exact[i:, j:].max())
            whole = float(error[i:, j:].max()) / largest
            first = float(error[i : leading[b], j : leading[a]].max()) / largest
            errors["interactions"] = max(errors["interactions"], whole)
            errors["leading interactions"] = max(errors["leading interactions"], first)
        shown = {k: v if isinstance(v, str) else f"{v:.1e}" for k, v in errors.items()}
        times = f"{fast:.1f} s for {slow:.1f} s"
        rows.append({"stage": name, "setting": {}, "within": {**shown, "time": times}})
    return rows


class Predictions(Sequences):
    """Sequences that are scored by whether the largest coordinate stays the largest."""

    def batches(self, split: str, batch_size: int) -> Iterator[lg.Batch]:
        """All of them, with the network's own predictions."""
        yield lg.Batch(self.x.float(), self.network().float()(self.x.float()).argmax(-1))

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Share of positions whose prediction is kept."""
        return (outputs.argmax(-1) == targets).float().mean(-1)


def bench_ablation(runs: int) -> list[dict[str, Any]]:
    """Edges needed by an MLP of the width of GPT-2 small, in the neuron basis, the worst case."""
    width, tokens = 768, (2, 128)
    backend = Predictions(transformer_block(width, 12)[-1:], block_inputs(*tokens, 2 * width))
    network = backend.network().float()
    data = Data(backend, "test", tokens[0], dtype=torch.float32)
    with torch.no_grad():
        found = node_statistics(network, data)
        bases = METHODS["neuron"](network, found, data, Truncation.parse("rel:1e-10"), silent)
        edges = interactions(network, {"neuron": bases}, data, GRADIENT)["neuron"]

        def ablate() -> Any:
            scoring = Scoring(network, backend, data)
            return ablate_edges(scoring, bases, edges, tolerances=(0.01,))

        result, took = measure(ablate, 1)
    (ablation,) = result.values()
    within = {
        "edges needed": f"{ablation.required[0.01]} of {ablation.available}",
        "numbers tried": str(len(ablation.score)),
    }
    setting = {"sequences": tokens[0], "positions": tokens[1], "width": width, "heads": 12}
    return [{"stage": "MLP", "setting": setting, "structured": took, "within": within}]


def planted_graph(layers: int, width: int, modules: int) -> tuple[lg.InteractionGraph, Any]:
    """Random edges between all features of neighbouring layers, larger inside of modules."""
    generator = np.random.default_rng(0)
    truth = generator.integers(modules, size=(layers, width))
    names = [f"l{index}" for index in range(layers)]
    edges = {
        (a, b): generator.exponential(size=(width, width))
        * np.where(truth[i + 1][:, None] == truth[i][None, :], 100, 1)
        for i, (a, b) in enumerate(pairwise(names))
    }
    features = tuple(LayerFeatures(name, np.ones(width), isolated=0) for name in names)
    return lg.InteractionGraph(features, edges), truth.ravel()


def leiden_alone(layers: int, width: int, modules: int, seeds: int) -> dict[str, Any]:
    """Modules of such a graph from its arrays, with the peak of the whole process."""
    graph, truth = planted_graph(layers, width, modules)
    with clock({"building the graph": (lg.InteractionGraph, "to_igraph")}) as seconds:
        began = time.perf_counter()
        partition = lg.find_communities(graph, seeds=seeds)
        total = time.perf_counter() - began
    members = np.concatenate(list(partition.membership.values()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    within = {label: f"{each:.1f} s" for label, each in seconds.items()}
    within["modules"] = str(partition.size)
    within["AMI with those planted"] = f"{adjusted_mutual_information(members, truth):.2f}"
    within["seeds agree"] = f"{partition.agreement:.2f}"
    return {"structured": {"seconds": total, "peak_mib": round(peak, 1)}, "within": within}


def bench_leiden(runs: int) -> list[dict[str, Any]]:
    """Modules of 13 node layers of 768 features with all 7 million edges, from one and two seeds.

    In a process of its own, as igraph lets no thread watch its memory while it works.
    """
    rows = []
    for seeds in (1, 2):
        setting = {"layers": 13, "width": 768, "modules": 6, "seeds": seeds}
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            found = alone.submit(leiden_alone, **setting).result()
        rows.append({"stage": f"seeds {seeds}", "setting": setting, **found})
    return rows


CASES = {
    "block": bench_block,
    "modular-addition": bench_modular_addition,
    "growth": bench_growth,
    "scaling": bench_scaling,
    "precision": bench_precision,
    "ablation": bench_ablation,
    "leiden": bench_leiden,
    "gpt2": bench_gpt2,
}
LONG = ("ablation", "leiden", "gpt2")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds over sequences, positions and width on logarithmic axes."""
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(3.4 * len(axes_names), 3.2), layout="constrained")
    for axes, name in zip(
        figure.subplots(1, len(axes_names), sharey=True), axes_names, strict=True
    ):
        chosen = [row for row in rows if row["axis"] == name]
        values = [row["setting"][name] for row in chosen]
        for label in ("autodiff", "structured"):
            if label not in chosen[0]:
                continue
            axes.loglog(values, [row[label]["seconds"] for row in chosen], "o-", label=label)
        axes.set_xlabel(name)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def describe(setting: dict[str, int]) -> str:
    """A setting in a few words."""
    if "samples" in setting:
        return f"{setting['samples']} samples"
    if "layers" in setting:
        return f"{setting['layers']} × {setting['width']}, {setting['seeds']} seeds"
    n, t, d, h = (setting[name] for name in ("sequences", "positions", "width", "heads"))
    return f"{n} × {t}, width {d}, {h} heads"


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
@click.option("--runs", default=5, show_default=True, help="Runs of the structured path.")
def main(cases: tuple[str, ...], runs: int) -> None:
    """Run the benchmark CASES, all but those that take long (gpt2, leiden, ablation) by default."""
    console = Console()
    table = Table(
        "case", "setting", "structured", "peak", "autodiff", "peak", "ratio", "differ", box=None
    )
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    for case in cases or [case for case in CASES if case not in LONG]:
        rows = CASES[case](runs)
        (RESULTS / f"{case}.json").write_text(
            json.dumps({**machine, "rows": rows}, indent=1) + "\n"
        )
        if "axis" in rows[0]:
            draw(rows, RESULTS / f"{case}.png")
        for row in rows:
            if "within" in row:
                spent = ", ".join(f"{name} {found}" for name, found in row["within"].items())
                console.print(f"{row['stage']}: {spent}", highlight=False)
                if not row["setting"]:
                    continue
            cells = [f"{case} {row.get('stage', '')}", describe(row["setting"])]
            for path in ("structured", "autodiff"):
                found = row.get(path)
                cells += (
                    [f"{found['seconds']:.3f} s", f"{found['peak_mib']:.0f} MiB"]
                    if found
                    else ["", ""]
                )
            cells += (
                [f"{row['ratio']:.0f} ×", f"{row['error']:.0e}"] if "ratio" in row else ["", ""]
            )
            table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    main()
