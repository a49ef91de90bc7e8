"""Edge ablation: how few of a basis's edges the model's score really needs.

It keeps the k largest edges of one layer pair and recomputes every output feature from its kept
inputs alone; the edges from the constant are always kept and not counted. The smallest k that
keeps the score is found by bisection, and ε, the smallest kept edge, is what counts as an
interaction from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.accumulate.pieces import Piece
from libgraph.accumulate.ranks import ranks, shared_out
from libgraph.accumulate.sums import Numbered, Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.edges.interactions import Edges
from libgraph.edges.score import Scoring, mean_score
from libgraph.graph.arrays import Pair
from libgraph.network.basis import Bases, Basis
from libgraph.progress import Progress, silent

Place = tuple[int, int, int]
"""Of some samples: number of their batch, where in it they begin, and how many they are."""

REUSE_BYTES = 2**30
"""Inputs of a layer pair are kept for the next number of edges if they take less than this, or a
share of the memory budget where one is given; outputs of earlier numbers likewise if one number's
do."""

TAKEN_OVER = 3
"""Numbers of edges whose outputs are kept."""


@dataclass(frozen=True)
class EdgeAblation:
    """What edge ablation found for one layer pair.

    Args:
        available: edges there are, those from the constant not counted.
        score: mean score by number of edges kept, for every number that was tried; numbers above
            `available` are all of them.
        required: by tolerance Δ, the number of edges that keep the score within Δ of the whole
            model's, or None where not even all of them do.
        epsilon: the smallest edge kept at the first Δ, or None.
    """

    available: int
    score: Mapping[int, float]
    required: Mapping[float, int | None]
    epsilon: float | None


def ablate_edges(
    scoring: Scoring,
    bases: Bases,
    edges: Edges,
    *,
    tolerances: Sequence[float],
    curves: bool = False,
    only: Collection[Pair] | None = None,
    stage: str = "edge ablation",
    progress: Progress = silent,
) -> dict[tuple[str, str], EdgeAblation]:
    """Bisect the number of edges that each layer pair needs (docs/math.md §4).

    Within a stage of a run that was interrupted it goes on after the last number of edges that was
    tried, and within that after the last batch.

    Args:
        scoring: the network, and what says how good its outputs are.
        bases: one basis per node layer.
        edges: interactions by layer pair.
        tolerances: Δ, how much worse than the whole model's the score may be.
        curves: whether powers of two are tried as well, so that curves can be compared.
        only: names of the layer pairs that are asked about; None for all.
        stage: name under which progress is reported.
        progress: told after every number of edges tried, of about log2(d_in·d_out) per layer pair.
    """
    scoring = scoring.carrying(bases)
    pairs = scoring.network.pairs
    names = [(a.name, b.name) for a, b, _ in pairs]
    asked = [index for index, name in enumerate(names) if only is None or name in only]
    sizes = [
        max(pairs[index][0].size * pairs[index][1].size, edges[names[index]].numel())
        for index in asked
    ]
    expected = (1 + curves) * sum(size.bit_length() for size in sizes)
    done = 0

    def tell(trials: int) -> None:
        nonlocal done
        done += trials
        progress(stage, min(done, expected), expected)

    def ablated(index: int) -> EdgeAblation:
        a, b, _ = pairs[index]
        found, label = edges[a.name, b.name], f"{stage}, {a.name}->{b.name}"
        trials = _PairTrials(scoring, index, bases[a.name], bases[b.name], found, label, tell)
        return trials.ablated(tolerances, curves=curves)

    results: dict[tuple[str, str], EdgeAblation] = {}
    # Known before, so that no rank has to ask the others for it while it is alone.
    _ = scoring.base_score
    together = 1 if scoring.shares_batches else ranks()[1]
    for start in range(0, len(asked), together):
        tell(0)
        chosen = asked[start : start + together]
        tasks = [partial(ablated, index) for index in chosen]
        found = [task() for task in tasks] if scoring.shares_batches else shared_out(tasks)
        results |= {names[index]: each for index, each in zip(chosen, found, strict=True)}
    return results


def bisect(sufficient: Callable[[int], bool], total: int, available: int) -> int | None:
    """Smallest number of edges that is sufficient, where a bisection ends.

    The interval is [0, total] in the number of edges *removed*, total that of the untruncated
    sizes, and midpoints are rounded down, as published; where the curve is not monotone another
    path could end elsewhere. More than `available` edges are all of them.
    """
    kept_all, removed_too_many = 0, total
    while removed_too_many - kept_all > 1:
        middle = (kept_all + removed_too_many) // 2
        if sufficient(total - middle):
            kept_all = middle
        else:
            removed_too_many = middle
    enough = min(total - kept_all, available)
    return enough if kept_all > 0 or sufficient(total) else None


@dataclass
class _PairTrials:
    """One layer pair under edge ablation: scores for any number of kept edges.

    Each output feature keeps its own largest inputs, so what it becomes depends on how many of
    them are kept alone. Of two numbers of edges tried one after the other most outputs keep the
    same inputs, and are not computed again. A trial of which less than half can be taken over is
    made afresh: whoever goes on after an interruption need not begin with the first one to come to
    the same bits.
    """

    scoring: Scoring
    index: int
    source: Basis
    target: Basis
    edges: Float[Tensor, "out in"]
    label: str
    tell: Callable[[int], None]
    available: int = field(init=False)
    scores: dict[int, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        network, dtype = self.scoring.network, self.scoring.data.dtype
        self.source, self.target = self.source.to(dtype), self.target.to(dtype)
        section = network.sections[self.index]
        self.section = self.target.read_after(section).rebase(
            self.source.part_decoder, self.target.reader
        )
        # Only the constant is always kept: it carries means and biases.
        constant = int(network.node_layers[self.index].constant)
        candidates = self.edges[:, constant:]
        self.available = candidates.numel()
        self.order = candidates.flatten().argsort(descending=True, stable=True)
        self.sorted = candidates.flatten()[self.order]
        self.constant = constant
        # Which inputs the trials since the last fresh one kept, that included.
        self.since: list[Tensor] = []
        # By batch, or part of one: parts of the source layer, activations of the target layer where
        # it has gates, and how many of these trials were made, with what came out of the latest.
        self.sources: dict[Place, Tensor] = {}
        self.targets: dict[Place, Tensor] = {}
        self.latest: dict[Place, tuple[int, list[Tensor]]] = {}

    def ablated(self, tolerances: Sequence[float], *, curves: bool) -> EdgeAblation:
        """What comes of it at these tolerances Δ."""
        required = {tolerance: self.required(tolerance) for tolerance in tolerances}
        if curves:
            self.try_powers_of_two()
        scores = dict(sorted(self.scores.items()))
        return EdgeAblation(
            self.available, scores, required, self.smallest(required[tolerances[0]])
        )

    def required(self, tolerance: float) -> int | None:
        """The number of edges that keep the score within this of the whole model's."""
        sign = 1.0 if self.scoring.backend.higher_is_better else -1.0
        enough = sign * self.scoring.base_score - tolerance
        a, b, _ = self.scoring.network.pairs[self.index]
        # As published, of the coordinates; of features where these are more.
        total = max(a.size * b.size, self.available)
        return bisect(lambda count: sign * self.score(count) >= enough, total, self.available)

    def try_powers_of_two(self) -> None:
        """Score them, and all edges."""
        for power in range(self.available.bit_length()):
            self.score(2**power)
        self.score(self.available)

    def smallest(self, count: int | None) -> float | None:
        """The smallest of so many largest edges, if it is positive."""
        if not count:
            return None
        edge = float(self.sorted[count - 1])
        return edge if edge > 0 else None

    def score(self, count: int) -> float:
        """Mean score with so many of the largest edges, or all; measured once."""
        count = min(count, self.available)
        if count not in self.scores:
            self.scores[count] = self._measured(count)
            self.tell(1)
        return self.scores[count]

    def _measured(self, count: int) -> float:
        mask = torch.zeros(self.available, dtype=torch.bool, device=self.edges.device)
        mask[self.order[:count]] = True
        keep = torch.ones_like(self.edges, dtype=torch.bool)
        keep[:, self.constant :] = mask.reshape(len(self.edges), -1)
        self._follow(self.source.part_mask(keep.T))
        network = self.scoring.network

        def measure(piece: Piece[Batch]) -> Sums:
            batch, place = piece.batch, (piece.number, piece.first, len(piece.batch.inputs))
            features = self._ablated(place, batch)
            y = self._unablated(place, batch, features)
            outputs = network.from_layer(self.index + 1, self.target.activations(features, y))
            scores = self.scoring.backend.score(outputs, batch.targets)
            return {"score": scores.sum(), "count": torch.tensor(len(scores))}

        label = f"{self.label}, {count} edges"
        return mean_score(accumulate(Numbered(self.scoring.data), measure, label=label))

    def _follow(self, keep: Bool[Tensor, "in out"]) -> None:
        """Take up the next trial."""
        known = torch.zeros(keep.shape[1], dtype=torch.bool, device=keep.device)
        for before in self.since[-TAKEN_OVER:] if self._reuses else ():
            known |= (before == keep).all(0)
        if 2 * int(known.sum()) < len(known) or not self._reuses:
            self.since.clear()
            self.latest.clear()
        self.since.append(keep)

    def _ablated(self, place: Place, batch: Batch) -> Float[Tensor, "n t out"]:
        """Output features of one batch, from the inputs that each of them keeps.

        Of a batch that the trials before were not made of, these are made up for.
        """
        x = self.sources.get(place)
        if x is None:
            network = self.scoring.network
            x = self.source.parts(network.activations_at(self.index, batch.inputs))
            if self._fits(x):
                self.sources[place] = x
        made, latest = self.latest.get(place, (0, []))
        for number in range(made, len(self.since)):
            latest = [self._outputs(x, number, latest), *latest[: TAKEN_OVER - 1]]
        if self._reuses:
            self.latest[place] = len(self.since), latest
        return latest[0]

    def _outputs(self, x: Tensor, number: int, latest: Sequence[Tensor]) -> Tensor:
        """Those of a trial; `latest` those of the trials before, the last one first."""
        keep = self.since[number]
        stale = torch.ones(keep.shape[1], dtype=torch.bool, device=keep.device)
        result: Tensor | None = None
        # A bisection goes on between its last sufficient and its last insufficient number.
        for back, outputs in enumerate(latest, start=1):
            same = stale & (self.since[number - back] == keep).all(0)
            result = outputs.clone() if result is None else result
            result[..., same] = outputs[..., same]
            stale &= ~same
        if result is None:
            return self.section.masked(x, keep)
        if bool(stale.any()):
            part = self.section.transform(lambda m: m, lambda m: m[..., stale])
            result[..., stale] = part.masked(x, keep[:, stale])
        return result

    @cached_property
    def _reuses(self) -> bool:
        """Whether outputs of all batches may be kept."""
        data = self.scoring.data
        single = next(iter(replace(data, limit=1, batch_size=1)))
        with torch.no_grad():
            y = self.scoring.network.activations_at(self.index + 1, single.inputs)
        size = y.shape[1] * len(self.edges) * y.element_size()
        samples = data.backend.samples(data.split)
        return min(samples, data.limit or samples) * size < self._room

    def _unablated(self, place: Place, batch: Batch, like: Tensor) -> Float[Tensor, "n t d"]:
        """Activations after the pair, where gates and errors are taken from them."""
        if self.target.linear:
            return like
        y = self.targets.get(place)
        if y is None:
            y = self.scoring.network.activations_at(self.index + 1, batch.inputs)
            if self._fits(y):
                self.targets[place] = y
        return y

    def _fits(self, tensor: Tensor) -> bool:
        """Whether such tensors of all batches may be kept."""
        size = tensor.numel() * tensor.element_size()
        return len(self.scoring.data) * size < self._room

    @property
    def _room(self) -> int:
        """Bytes for each of those that are kept: inputs, targets, and outputs of some numbers."""
        memory = self.scoring.data.memory
        return REUSE_BYTES if memory is None else min(REUSE_BYTES, memory // (2 + TAKEN_OVER))
