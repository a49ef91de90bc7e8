"""Every basis on every problem, several times: one table with what is known to be right."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.backend.state import own_state
from libgraph.bases.lib import lib
from libgraph.bases.statistics import node_statistics
from libgraph.benchmark.contenders import TRUNCATION, Bench
from libgraph.benchmark.frequencies import frequencies, keeping_to_concepts
from libgraph.benchmark.known import Known
from libgraph.benchmark.options import BenchmarkOptions
from libgraph.benchmark.planted import Design, chance_of_edges, planted
from libgraph.benchmark.scores import (
    average_precision,
    largest_cosines,
    length_ratios,
    match,
    matched_edges,
    module_agreement,
)
from libgraph.benchmark.toy_models import TOY_MODELS, toy_model
from libgraph.benchmark.variables import PROGRAMS, compiled, edges_of_variables
from libgraph.edges.interactions import interactions
from libgraph.network.basis import Bases
from libgraph.network.dictionary import Dictionary
from libgraph.progress import Foretold, Progress, silent
from libgraph.runs.tables import print_table
from libgraph.screen import PlainTable, Screen
from libgraph.sections.quadrature import Quadrature

ACTIVE = {5: 1, 40: 3}
"""Latents of toy models that are active at once, by the number of features."""

MEANING = {
    "MCC": "MCC, mean cosine with the known features, one to one",
    "MMCS": "MMCS, mean over known features of the largest cosine",
    "length ratio": "length of a known feature read and written, of its own",
    "variance missed": "share of variance missed, in LIB's coordinates",
    "edge precision": "average precision of the known edges",
    "ARI of modules": "ARI of modules against the known ones; by chance 0",
    "purity": "purity, share of a feature's variance that is of one frequency",
    "interactions within": "share of interactions within one frequency",
    "homogeneity of modules": "homogeneity of modules, 1: one frequency each",
}
"""What tables say of a measure."""


@dataclass(frozen=True)
class Score:
    """One measure of one basis on one problem, over seeds.

    Args:
        problem: name.
        basis: name.
        measure: such as MCC.
        where: node layer or layer pair; empty where it is of all.
        values: one for each seed.
    """

    problem: str
    basis: str
    measure: str
    where: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Benchmark:
    """All scores: `print` shows them as tables, a problem each.

    Args:
        scores: in the order in which they were measured.
        options: that they were measured with.
        seconds: in all.
    """

    scores: tuple[Score, ...]
    options: BenchmarkOptions
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """The same for scripts."""
        return {
            "options": self.options.model_dump(mode="json"),
            "seconds": round(self.seconds, 1),
            "scores": [
                {
                    "problem": score.problem,
                    "basis": score.basis,
                    "measure": score.measure,
                    "where": score.where or None,
                    "values": [None if math.isnan(v) else v for v in score.values],
                }
                for score in self.scores
            ],
        }

    def print(self, screen: Screen) -> None:
        """A table for each problem and measure: bases down, places across."""
        for problem, measure in dict.fromkeys((s.problem, s.measure) for s in self.scores):
            chosen = [s for s in self.scores if (s.problem, s.measure) == (problem, measure)]
            places = list(dict.fromkeys(score.where for score in chosen))
            headings = [place.replace("->", " → ") or "all" for place in places]
            table = PlainTable(["basis", *headings])
            for basis in dict.fromkeys(score.basis for score in chosen):
                cells = {s.where: s for s in chosen if s.basis == basis}
                table.add_row(basis, *(_cell(cells.get(place)) for place in places))
            print_table(screen, f"{problem}: {MEANING.get(measure, measure)}", table)


def _cell(score: Score | None) -> str:
    if score is None or math.isnan(score.mean):
        return "-"
    if len(score.values) == 1:
        return f"{score.mean:.3f}"
    return f"{score.mean:.3f} ± {score.spread:.3f}"


@own_state()
def benchmark(progress: Progress = silent, **options: Any) -> Benchmark:
    """Measure bases on networks whose answers are known.

    Args:
        progress: told at the start and after every basis.
        options: see `BenchmarkOptions`.

    Raises:
        UsageError: for wrong options.
    """
    parsed = parse_options(BenchmarkOptions, options, "the benchmark")
    began = time.monotonic()
    found: dict[tuple[str, str, str, str], list[float]] = {}
    cases = list(_cases(parsed))
    done, total = 0, len(cases) * len(parsed.bases)
    told = Foretold(progress, "fewer seeds=…, samples=… or steps=… cost less")
    told("benchmark", done, total)
    for make, seed in cases:
        known = make()
        bench = _bench(known, parsed, seed)
        truth = "planted edges" if known.edges else ""
        if truth:
            found.setdefault((known.name, "chance", "edge precision", ""), []).append(
                chance_of_edges(known)
            )
        for name in parsed.bases:
            for measure, by_place in measured(bench, bench.bases(name)).items():
                for place, value in by_place.items():
                    found.setdefault((known.name, name, measure, place), []).append(value)
            done += 1
            told("benchmark", done, total, f"{known.name}, {name}")
    scores = tuple(Score(*key, values=tuple(values)) for key, values in found.items())
    return Benchmark(scores, parsed, time.monotonic() - began)


def _cases(options: BenchmarkOptions) -> Iterator[tuple[Any, int]]:
    for number in range(options.seeds):
        seed = options.seed + number
        for problem in ("planted", "separate", "random"):
            if problem in options.problems:
                design = Design(
                    features=options.features,
                    dimensions=options.features if problem == "separate" else options.dimensions,
                    probability=options.probability,
                    samples=options.samples,
                    read=options.read,
                    learned=problem != "random",
                    seed=seed,
                )
                yield (lambda design=design: planted(design)), seed
        if "toy" in options.problems:
            for model in TOY_MODELS:
                seeded = replace(model, seed=seed, samples=options.samples)
                yield (lambda seeded=seeded: toy_model(seeded)), seed
        if "tracr" in options.problems:
            for program in PROGRAMS:
                yield (lambda program=program: compiled(program)), seed
        if "frequencies" in options.problems:
            yield frequencies, seed


def _bench(known: Known, options: BenchmarkOptions, seed: int) -> Bench:
    data = Data(known.backend(), "train", 2000)
    stats = node_statistics(known.network, data)
    start = lib(known.network, stats, data, TRUNCATION, silent)
    count = max(map(len, known.features.values()), default=0)
    active = options.active if known.edges else ACTIVE.get(count, options.active)
    return Bench(known, data, stats, start, active, options, seed)


def measured(bench: Bench, bases: Bases) -> dict[str, dict[str, float]]:
    """Every measure of a basis, by place."""
    known = bench.known
    if known.labelled is not None:
        return keeping_to_concepts(known.network, known.labelled, bench.data, bases, bench.seed)
    if known.program is not None:
        return edges_of_variables(known.network, known.program, bench.data, bases)
    found: dict[str, dict[str, float]] = {}
    matches = {}
    for name, features in known.features.items():
        basis, size = bases[name], features.shape[1]
        matches[name] = match(features, basis, size)
        if known.edges:
            found.setdefault("MCC", {})[name] = float(matches[name].cosines.mean())
        else:
            mmcs = largest_cosines(features, basis, size)
            found.setdefault("MMCS", {})[name] = float(mmcs.mean())
            ratios = length_ratios(features, basis, size)
            found.setdefault("length ratio", {})[name] = float(ratios.mean())
        if isinstance(basis, Dictionary):
            found.setdefault("variance missed", {})[name] = bench.missed(name, basis)
    if not known.edges:
        return found
    edges = interactions(known.network, {"it": bases}, bench.data, Quadrature.gradient())["it"]
    precision = {}
    for (a, b), truth in known.edges.items():
        scores = matched_edges(edges[a, b], matches[a], matches[b])
        precision[f"{a}->{b}"] = average_precision(scores, truth)
    found["edge precision"] = {**precision, "": float(np.mean(list(precision.values())))}
    agreement = module_agreement(known, bases, edges, matches, bench.seed)
    found["ARI of modules"] = {"": agreement}
    return found


def means(scores: Sequence[Score]) -> Mapping[tuple[str, str, str, str], float]:
    """Mean of each score by problem, basis, measure and place."""
    return {(s.problem, s.basis, s.measure, s.where): s.mean for s in scores}
