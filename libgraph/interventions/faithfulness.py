"""Is the graph faithful: how much of what the network does its largest interactions do alone.

A circuit keeps the k largest edges of all layer pairs together, every other edge at a baseline.
f(k) = (m(C_k) − m(∅)) / (m(N) − m(∅)), m the mean score, N the network, ∅ the circuit without
edges. CPR = ∫ f dk says how much is recovered, CMD = ∫ |1 − f| dk how far from the network that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from libgraph.edges.interactions import Edges
from libgraph.interventions.apart import Apart, cut_apart
from libgraph.interventions.circuits import Circuits, EdgePool
from libgraph.interventions.edge_orders import edge_order, random_order
from libgraph.interventions.options import FaithfulnessOptions
from libgraph.interventions.subject import Subject
from libgraph.progress import Foretold, Progress, silent

NOTHING = 1e-12
"""Relative to the score: a network that is no further from its empty circuit has no f."""


@dataclass(frozen=True)
class Restored:
    """A circuit to which random subsets of the edges that it drops are added.

    Args:
        share: of all edges that the circuit keeps.
        faithfulness: its f.
        with_more: f with each of the subsets.
    """

    share: float
    faithfulness: float
    with_more: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The f that is furthest from 1."""
        return max(self.with_more, key=lambda f: abs(1 - f))


@dataclass(frozen=True)
class Curve:
    """Faithfulness in one basis.

    Args:
        available: edges there are, those of isolated features not counted.
        shares: of them that circuits keep, rising.
        counts: how many edges that are.
        whole: m(N), mean score of the network.
        empty: m(∅), that of the circuit without edges.
        scores: m(C_k) by share.
        random: the same of as many random edges, a row for each draw.
        restored: a circuit with more edges, if asked for.
        apart: layer pairs cut one at a time and all together, if asked for.
    """

    available: int
    shares: tuple[float, ...]
    counts: tuple[int, ...]
    whole: float
    empty: float
    scores: tuple[float, ...]
    random: tuple[tuple[float, ...], ...] = ()
    restored: Restored | None = None
    apart: Apart | None = None

    @cached_property
    def faithfulness(self) -> tuple[float, ...]:
        """f by share; NaN where the network does no better or worse than nothing."""
        return recovered(self.scores, self.empty, self.whole)

    @cached_property
    def random_faithfulness(self) -> tuple[tuple[float, ...], ...]:
        """f of random edges, a row for each draw."""
        return tuple(recovered(scores, self.empty, self.whole) for scores in self.random)

    @property
    def cpr(self) -> float:
        """∫ f dk from the smallest share to the largest, larger is better; NaN of one share."""
        return area(self.shares, self.faithfulness)

    @property
    def cmd(self) -> float:
        """∫ |1 − f| dk likewise; smaller is better."""
        return area(self.shares, _distance(self.faithfulness))

    @property
    def log_cpr(self) -> float:
        """The mean of f over log k, in which small circuits count as much as large ones."""
        return log_mean(self.shares, self.faithfulness)

    @property
    def log_cmd(self) -> float:
        """The mean of |1 − f| over log k."""
        return log_mean(self.shares, _distance(self.faithfulness))

    @property
    def random_cpr(self) -> tuple[float, ...]:
        """CPR of each draw of random edges."""
        return tuple(area(self.shares, f) for f in self.random_faithfulness)

    @property
    def random_cmd(self) -> tuple[float, ...]:
        """CMD of each draw of random edges."""
        return tuple(area(self.shares, _distance(f)) for f in self.random_faithfulness)


def recovered(scores: Sequence[float], empty: float, whole: float) -> tuple[float, ...]:
    """f = (m − m(∅)) / (m(N) − m(∅)); NaN where m(N) = m(∅), up to rounding."""
    span = whole - empty
    if not abs(span) > NOTHING * max(abs(whole), abs(empty)):
        return (math.nan,) * len(scores)
    return tuple((score - empty) / span for score in scores)


def area(shares: Sequence[float], values: Sequence[float]) -> float:
    """By the trapezoid rule over the shares as they are, from the first to the last of several."""
    if len(shares) < 2:
        return math.nan
    points = pairwise(zip(shares, values, strict=True))
    return sum((b - a) * (u + v) / 2 for (a, u), (b, v) in points)


def log_mean(shares: Sequence[float], values: Sequence[float]) -> float:
    """By the trapezoid rule over the logarithm of the shares, divided by its range."""
    logs = [math.log(share) for share in shares]
    return area(logs, values) / ((logs[-1] - logs[0]) or 1)


def _distance(values: Sequence[float]) -> list[float]:
    return [abs(1 - value) for value in values]


def faithfulness(
    subject: Subject,
    edges: Edges,
    options: FaithfulnessOptions | None = None,
    *,
    whole: float | None = None,
    most: int | None = None,
    progress: Progress = silent,
) -> Curve:
    """Keep ever more of the largest edges of all layer pairs together, and score what is left.

    A circuit is one pass over the data in which every output feature has its own inputs: about as
    dear as a trial of edge ablation in every layer pair at once. There are one for each share and
    for the empty one, and as many for each draw of random edges.

    Args:
        subject: network, data and basis.
        edges: interactions in this basis, by layer pair.
        options: which circuits; its limit has been applied to the subject.
        whole: score of the whole network, where it is known already.
        most: edges that shares are of; by default those that there are, which are kept at most.
        progress: told after every circuit.

    Raises:
        UsageError: if the edges are not those of the subject's basis.
        DataError: if samples have different lengths where means or other samples are asked for.
    """
    options = FaithfulnessOptions() if options is None else options
    progress = Foretold(progress, "fewer shares=… or draws=…, or limit=… samples, cost less")
    measured = _Measured(subject, edges, options, progress)
    available = measured.pool.size
    counts = [min(round(share * (most or available)), available) for share in options.shares]
    empty = measured.of(measured.pool.largest(measured.order, 0))
    whole = measured.circuits.score({}) if whole is None else whole
    scores = [measured.kept(measured.order, count) for count in counts]
    orders = [random_order(measured.pool.size, options.seed, draw) for draw in range(options.draws)]
    random = tuple(tuple(measured.kept(order, count) for count in counts) for order in orders)
    restored = None
    if options.restored:
        f = recovered([measured.at_share(options.restored_at), *measured.more()], empty, whole)
        restored = Restored(options.restored_at, f[0], f[1:])
    apart = None
    if options.apart:
        apart = cut_apart(
            measured.circuits, measured.pool, measured.order, options.shares, progress=progress
        )
    return Curve(
        available=available,
        shares=options.shares,
        counts=tuple(counts),
        whole=whole,
        empty=empty,
        scores=tuple(scores),
        random=random,
        restored=restored,
        apart=apart,
    )


class _Measured:
    """Circuits of one basis, each of which is scored once."""

    def __init__(
        self, subject: Subject, edges: Edges, options: FaithfulnessOptions, progress: Progress
    ) -> None:
        self.options, self.progress = options, progress
        self.circuits = Circuits(subject, options.baseline, options.seed)
        if options.baseline == "mean":
            # A pass that is kept by itself, which it is not within a circuit.
            _ = subject.usual
        self.pool = EdgePool.of(subject, edges)
        self.order = edge_order(
            self.circuits,
            self.pool,
            options.order,
            samples=options.effect_samples,
            progress=progress,
        )
        self.done = 0
        self.expected = 1 + len(options.shares) * (1 + options.draws)
        self.expected += options.restored + bool(options.restored)
        # All edges, and none, are the same in whatever order they are taken.
        self._known: dict[int, float] = {}

    def of(self, kept: Tensor) -> float:
        """Score of the circuit of these edges."""
        count = int(kept.sum())
        trivial = count in (0, self.pool.size)
        self.progress("circuits", self.done, self.expected)
        if trivial and count in self._known:
            score = self._known[count]
        else:
            score = self.circuits.score(self.pool.circuit(kept))
        if trivial:
            self._known[count] = score
        self.done += 1
        self.progress("circuits", self.done, self.expected)
        return score

    def kept(self, order: Tensor, count: int) -> float:
        """Score with the first so many edges of an order."""
        return self.of(self.pool.largest(order, count))

    def at_share(self, share: float) -> float:
        """Score of the circuit of a share of the edges."""
        return self.kept(self.order, round(share * self.pool.size))

    def more(self) -> list[float]:
        """Scores of that circuit with random subsets of the edges it drops, of random sizes."""
        count = round(self.options.restored_at * self.pool.size)
        dropped = self.order[count:]
        generator = torch.Generator().manual_seed(self.options.seed)
        scores = []
        for _ in range(self.options.restored):
            size = int(torch.randint(1, max(2, len(dropped)), (1,), generator=generator))
            chosen = dropped[torch.randperm(len(dropped), generator=generator)[:size]]
            kept = self.pool.largest(self.order, count)
            kept[chosen] = True
            scores.append(self.of(kept))
        return scores
