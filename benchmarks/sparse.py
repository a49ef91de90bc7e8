"""The sparse basis against LIB and PCA: where it helps, where it does not, and whether it is real.

    .venv/bin/python benchmarks/sparse.py                     # everything that there is data for
    .venv/bin/python benchmarks/sparse.py models starts       # some parts

`models`: edges needed and purity on every bundled model that the results do not have yet, and on
one given by `--reference`.
`starts`: LIB, principal components and random rotations to begin with, on held-out data as well.
`controls`: the same on networks that learned nothing. `planted`: planted modules found again.
`cost`: seconds over K, on an MLP of random weights.
Each part prints a table and adds its numbers to `benchmarks/results/sparse.json`; `figure` draws
those of `models` to `docs/images/sparse.png`.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.sparse.options import SparseOptions
from libgraph.bases.sparse.problem import Problem
from libgraph.bases.sparse.sparse import sparse, turned
from libgraph.bases.statistics import node_statistics
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.interactions import Edges, interactions
from libgraph.edges.score import Scoring
from libgraph.edges.sparsity import participation_ratio
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.network.basis import Bases
from libgraph.progress import silent
from libgraph.report.style import CURVES, FAINT
from libgraph.sections.quadrature import Quadrature
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights
from libgraph_cli.progress import ProgressDisplay

RESULTS = Path(__file__).parent / "results" / "sparse.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "sparse.png"
CIFAR = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
BASES = ("pca", "lib", "sparse")
LEADING = 12
"""Features whose purity is averaged, of each node layer."""

RELATIVE = Truncation.parse("rel:1e-10")
GRADIENT = Quadrature.gradient()


def read() -> dict[str, Any]:
    """What earlier runs have found."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def keep(part: str, found: dict[str, Any]) -> None:
    """Add the numbers of a part to those of the others."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(read() | {part: found}, indent=1) + "\n")


def needed(run: lg.Run, basis: str) -> dict[str, int | None]:
    """Edges needed at the first Δ, by layer pair."""
    required = run.metrics.bases[basis].edges_required
    return {pair: next(iter(counts.values())) for pair, counts in required.items()}


def purity(run: lg.Run, basis: str) -> dict[str, float]:
    """Mean share of variance in a single concept over the leading features of each node layer."""
    result = {}
    for layer in run.graph(basis).layers:
        some = (layer.labels or ())[layer.isolated : layer.isolated + LEADING]
        if layer.rotated and some and any(label.concepts for label in some):
            shares = (max(label.concepts.values(), default=0.0) for label in some)
            result[layer.name] = statistics.fmean(shares)
    return result


def figures(run: lg.Run, basis: str) -> dict[str, Any]:
    """What is kept of one basis of a run."""
    metrics = run.metrics.bases[basis]
    return {
        "edges": needed(run, basis),
        "effective": {
            pair: measures and measures.participation_ratio
            for pair, measures in metrics.sparsity.items()
        },
        "hoyer": metrics.sparsity_total and metrics.sparsity_total.hoyer,
        "features": {
            layer: next(iter(by_delta.values()))
            for layer, by_delta in metrics.features_required.items()
        },
        "purity": purity(run, basis),
        "modules": metrics.modules.count,
        "modularity": metrics.modules.modularity,
        "within": metrics.modules.within_concept,
    }


def models(console: Console, reference: Path | None) -> dict[str, Any]:
    """All bases on every model."""
    cases: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}
    if reference:
        cases["authors' model"] = (
            "modular-addition",
            {"weights": str(reference)},
            {"truncate": "abs:1e-15", "sparse_features": 30},
        )
    cases["modular addition"] = ("modular-addition", {}, {})
    cases["digits"] = ("mlp", {"task": "digits"}, {})
    if CIFAR.is_dir():
        cases["CIFAR-10, MLP"] = ("cifar", {"data": str(CIFAR), "arch": "mlp"}, {})
        cases["CIFAR-10, conv net"] = ("cifar", {"data": str(CIFAR)}, {})
    cases["characters"] = ("lm", {}, {})
    result = read().get("models", {})
    for name, (backend, given, options) in cases.items():
        if name in result:
            continue
        began = time.monotonic()
        with ProgressDisplay(quiet=True) as progress:
            run = lg.analyze(
                lg.load_backend(backend, **given),
                basis="sparse",
                beside=("pca", "lib"),
                progress=progress,
                **options,
            )
        result[name] = {basis: figures(run, basis) for basis in BASES}
        table = Table(*["", *BASES], title=f"{name}, {time.monotonic() - began:.0f} s", box=None)
        for row in _rows(result[name]):
            table.add_row(*row)
        console.print(table)
        keep("models", result)
    return result


def _rows(found: dict[str, Any]) -> Iterator[Sequence[str]]:
    for part in ("edges", "effective", "features", "purity"):
        for place in found["lib"][part]:
            yield (
                f"{part} {place}",
                *(_text(found[basis][part].get(place)) for basis in BASES),
            )
    for part in ("hoyer", "modules", "modularity", "within"):
        yield part, *(_text(found[basis][part]) for basis in BASES)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, int) else f"{value:.3f}"


# Is it real?


def measured(backend: lg.Backend, split: str, bases: dict[str, Bases], dtype: Any) -> Any:
    """Edges of several bases on one split."""
    data = Data(backend, split, batch_size=1024, dtype=dtype)  # type: ignore[arg-type]
    return interactions(backend.network().to(dtype), bases, data, GRADIENT)


def value(edges: Edges, bases: Bases, totals: dict[Any, float], count: int) -> float:
    """The objective, p = 1/4, of edges between leading features that are not isolated."""
    total = 0.0
    for (a, b), matrix in edges.items():
        rows = slice(bases[b].isolated, None if not bases[b].rotated else bases[b].isolated + count)
        columns = slice(bases[a].isolated, bases[a].isolated + count)
        total += float((matrix[rows, columns] / totals[a, b] + 1e-12).pow(0.25).sum())
    return total


def starts(console: Console, reference: Path | None) -> dict[str, Any]:
    """From LIB, principal components and random rotations; objective and edges on both splits."""
    given = {} if reference is None else {"weights": str(reference)}
    backend = lg.load_backend("modular-addition", **given)
    network = backend.network().double()
    data = Data(backend, "train", batch_size=1024)
    known = node_statistics(network, data)
    start = lib(network, known, data, RELATIVE, silent)
    found: dict[str, Bases] = {"lib": start}
    options = SparseOptions(features=30)
    some = replace(data, limit=1024)
    problem = Problem.of(network, start, some, replace(options, starts=5))
    for number, name in enumerate(("from LIB", "from PCA", "random 1", "random 2", "random 3")):
        with tempfile.TemporaryDirectory() as folder:
            _, best = problem.minimise(number, Path(folder), silent)
        found[name] = {k: turned(b, best[k]) if k in best else b for k, b in start.items()}
    for seed in (1, 2):
        found[f"from LIB, seed {seed}"] = sparse(
            network, known, data, RELATIVE, silent, replace(options, seed=seed), start
        )
    on = {split: measured(backend, split, found, torch.float64) for split in ("train", "test")}
    totals = {pair: float(e[1:, 1:].sum()) for pair, e in on["train"]["lib"].items()}
    result: dict[str, Any] = {}
    table = Table("start", "objective", "held out", "edges needed", "like from LIB", box=None)
    for name, bases in found.items():
        scores = Data(backend, "test", batch_size=8939, dtype=torch.float32)
        scoring = Scoring(backend.network().float(), backend, scores)
        ablated = ablate_edges(scoring, bases, on["train"][name], tolerances=(0.001,))
        alike = _alike(found["from LIB"], bases, known)
        result[name] = {
            "train": value(on["train"][name], bases, totals, 30),
            "test": value(on["test"][name], bases, totals, 30),
            "edges": [next(iter(each.required.values())) for each in ablated.values()],
            "alike": alike,
        }
        one = result[name]
        edges = ", ".join(map(str, one["edges"]))
        table.add_row(name, f"{one['train']:.1f}", f"{one['test']:.1f}", edges, f"{alike:.0%}")
    console.print(table)
    return result


def _alike(first: Bases, second: Bases, known: Any) -> float:
    """Share of the leading features that have a partner with |correlation| above 0.9."""
    close = count = 0
    for name, a in first.items():
        if not a.rotated:
            continue
        some = slice(a.isolated, a.isolated + LEADING)
        covariance = known[name].covariance
        both = [a.encoder[:, some], second[name].encoder[:, some]]
        both = [e / ((covariance @ e) * e).sum(0).sqrt() for e in both]
        correlation = (both[0].T @ covariance @ both[1]).abs()
        close += int((correlation.max(1).values > 0.9).sum())
        count += len(correlation)
    return close / count


def controls(console: Console, reference: Path | None) -> dict[str, Any]:
    """How much the objective falls where there is less, or nothing, to find."""
    cases: dict[str, Callable[[], lg.Backend]] = {
        "modular addition, trained": lambda: lg.load_backend("modular-addition"),
        "modular addition, untrained": _untrained,
        "digits, trained": lambda: lg.load_backend("mlp", task="digits"),
        "digits, shuffled labels": lambda: _digits(shuffled=True, steps=4000),
        "digits, untrained": lambda: _digits(shuffled=False, steps=0),
    }
    result = {}
    table = Table("network", "objective", "LIB → sparse", "fall", "effective edges", box=None)
    for name, make in cases.items():
        backend = make()
        network = backend.network().double()
        data = Data(backend, "train", batch_size=1024)
        known = node_statistics(network, data)
        start = lib(network, known, data, RELATIVE, silent)
        bases = {
            "lib": start,
            "sparse": sparse(network, known, data, RELATIVE, silent, start=start),
        }
        edges = {
            split: measured(backend, split, bases, torch.float64) for split in ("train", "test")
        }
        totals = {pair: float(e[1:, 1:].sum()) for pair, e in edges["train"]["lib"].items()}
        one = {
            split: [value(each[basis], start, totals, 64) for basis in bases]
            for split, each in edges.items()
        }
        effective = [
            sum(participation_ratio(each[1:, 1:].numpy()) for each in edges["test"][basis].values())
            for basis in bases
        ]
        result[name] = {**one, "effective": effective}
        first, last = one["test"]
        table.add_row(
            name,
            "held out",
            f"{first:.1f} → {last:.1f}",
            f"{1 - last / first:.0%}",
            f"{effective[0]:.1f} → {effective[1]:.1f}",
        )
    console.print(table)
    return result


def _untrained() -> lg.Backend:
    weights = initial_weights(TrainingOptions(seed=0))
    return ModularAddition(weights={name: w.detach() for name, w in weights.items()})


def _digits(*, shuffled: bool, steps: int) -> lg.Backend:
    """An MLP like the bundled one, with labels that mean nothing or no training at all."""
    backend = lg.load_backend("mlp", task="digits")
    batches = list(backend.batches("train", 10_000))
    x, y = torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])
    generator = torch.Generator().manual_seed(0)
    if shuffled:
        y = y[torch.randperm(len(y), generator=generator)]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        some = torch.randint(len(x), (256,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[some].float()), y[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return MLP(module=model, inputs=x, targets=y)


def planted(console: Console, reference: Path | None) -> dict[str, Any]:
    """Homogeneity of modules on planted networks, LIB beside sparse."""
    found: dict[str, list[float]] = {basis: [] for basis in BASES}
    edges: dict[str, list[float]] = {basis: [] for basis in BASES}
    for seed in (*range(20), 88):
        run = lg.analyze(
            lg.load_backend("mlp", seed=seed),
            basis="sparse",
            beside=("pca", "lib"),
            seeds=5,
            tolerances=(0.01,),
        )
        for basis in BASES:
            found[basis].append(agreement_with_concepts(run.graph(basis))["homogeneity"] or 0.0)
            counts = needed(run, basis).values()
            edges[basis].append(sum(count or 0 for count in counts))
    table = Table("basis", "homogeneity", "least", "seed 88", "edges needed", box=None)
    for basis in BASES:
        homogeneity = found[basis]
        table.add_row(
            basis,
            f"{statistics.fmean(homogeneity[:20]):.3f}",
            f"{min(homogeneity[:20]):.3f}",
            f"{homogeneity[20]:.3f}",
            f"{statistics.fmean(edges[basis][:20]):.1f}",
        )
    console.print(table)
    return {"homogeneity": found, "edges": edges}


def cost(console: Console, reference: Path | None) -> dict[str, Any]:
    """Seconds of 100 steps over K, two layer pairs of 320 hidden units turned."""
    torch.manual_seed(0)
    wide = nn.Sequential(
        nn.Linear(400, 320), nn.ReLU(), nn.Linear(320, 320), nn.ReLU(), nn.Linear(320, 10)
    )
    backend = MLP(module=wide, inputs=torch.randn(2000, 400), targets=torch.randint(10, (2000,)))
    network = backend.network().double()
    data = Data(backend, "train", batch_size=1024)
    known = node_statistics(network, data)
    start = lib(network, known, data, RELATIVE, silent)
    result = {}
    table = Table("K", "100 steps", box=None)
    for count in (30, 64, 128, 300):
        seconds = []
        # The first is for warming up; the second takes what comes before the first step.
        for steps in (1, 0, 100):
            began = time.monotonic()
            options = SparseOptions(features=count, steps=steps)
            sparse(network, known, data, RELATIVE, silent, options, start)
            seconds.append(time.monotonic() - began)
        result[str(count)] = seconds[2] - seconds[1]
        table.add_row(str(count), f"{result[str(count)]:.1f} s")
    console.print(table)
    return result


def figure(console: Console, reference: Path | None) -> dict[str, Any]:
    """Edges needed of every layer pair, a panel a model."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    found = read()["models"]
    colours = {"pca": FAINT, "lib": "#2e6eb8", "sparse": "#e26f2c"}
    # Models of many layer pairs stand to the right and take the whole height.
    deep = {name for name, bases in found.items() if len(bases["lib"]["edges"]) > 8}
    rows = -(-(len(found) - len(deep)) // 3)
    with rc_context(CURVES):
        size = (9 + 4 * len(deep), 2.6 * rows)
        drawn = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = drawn.add_gridspec(rows, 3 + len(deep), width_ratios=[1] * 3 + [1.5] * len(deep))
        cells = iter([grid[row, column] for row in range(rows) for column in range(3)])
        columns = iter([grid[:, 3 + column] for column in range(len(deep))])
        for name, bases in found.items():
            axes = drawn.add_subplot(next(columns if name in deep else cells))
            pairs = list(bases["lib"]["edges"])
            for row, pair in enumerate(pairs):
                ends = [bases[basis]["edges"][pair] for basis in ("lib", "sparse")]
                if None not in ends:
                    axes.plot(ends, [row, row], color=colours["sparse"], lw=1.4)
            for basis, colour in colours.items():
                counts = [bases[basis]["edges"][pair] for pair in pairs]
                axes.plot(counts, range(len(pairs)), "o", color=colour, ms=5, label=basis.upper())
            axes.set_yticks(range(len(pairs)), [pair.replace("->", " → ") for pair in pairs])
            axes.tick_params(axis="y", labelsize=6.5)
            axes.set_ylim(len(pairs) - 0.5, -0.5)
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 200 * low else (1,)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(name, loc="left")
            axes.set_xlabel("edges needed")
        drawn.axes[0].legend(frameon=False, fontsize=7, loc="lower left")
        drawn.savefig(PICTURE, dpi=150, metadata={"Software": None})
    console.print(f"Written to {PICTURE}.")
    return {}


PARTS: dict[str, Callable[[Console, Path | None], dict[str, Any]]] = {
    "models": models,
    "starts": starts,
    "controls": controls,
    "planted": planted,
    "cost": cost,
    "figure": figure,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option(
    "--reference",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A state dict of modular addition that is measured too, at the published truncation.",
)
def main(parts: Sequence[str], reference: Path | None) -> None:
    """Measure, print, keep."""
    console = Console(width=110)
    for part in parts or PARTS:
        console.rule(part)
        found = PARTS[part](console, reference)
        if found:
            keep(part, found)


if __name__ == "__main__":
    main()
