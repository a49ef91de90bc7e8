"""Edge ablation: how few of a basis's edges the model's score really needs.

It keeps the k largest edges of one layer pair and recomputes every output feature from its kept
inputs alone; the edges from the constant are always kept and not counted. The smallest k that
keeps the score is found by bisection, and ε, the smallest kept edge, is what counts as an
interaction from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Backend, Batch
from libgraph.backend.data import Data
from libgraph.edges.interactions import Edges
from libgraph.edges.score import base_score, mean_score
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

REUSE_BYTES = 2**30
"""Inputs of a layer pair are kept for the next number of edges if they take less than this, and
outputs of earlier numbers likewise if one number's do."""


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
    network: Network,
    backend: Backend,
    bases: Bases,
    edges: Edges,
    data: Data,
    *,
    tolerances: Sequence[float],
    curves: bool = False,
    stage: str = "edge ablation",
    progress: Progress = silent,
) -> dict[tuple[str, str], EdgeAblation]:
    """Bisect the number of edges that each layer pair needs (docs/math.md §4).

    Args:
        network: in the dtype of `data`.
        backend: scores the outputs.
        bases: one basis per node layer.
        edges: interactions by layer pair.
        data: usually the test split.
        tolerances: Δ, how much worse than the whole model's the score may be.
        curves: whether powers of two are tried as well, so that curves can be compared.
        stage: name under which progress is reported.
        progress: told after every number of edges tried, of about log2(d_in·d_out) per layer pair.
    """
    whole = base_score(network, backend, data)
    sign = 1.0 if backend.higher_is_better else -1.0
    totals = [a.size * b.size for a, b, _ in network.pairs]
    expected = (1 + curves) * sum(total.bit_length() for total in totals)
    done, results = 0, {}
    for index, ((a, b, _), total) in enumerate(zip(network.pairs, totals, strict=True)):
        trial = _Trial(
            network, backend, index, bases[a.name], bases[b.name], edges[a.name, b.name], data
        )
        scores: dict[int, float] = {}

        def score(kept: int, trial: _Trial = trial, scores: dict[int, float] = scores) -> float:
            nonlocal done
            kept = min(kept, trial.available)
            if kept not in scores:
                scores[kept] = trial.score(kept)
                done += 1
                progress(stage, min(done, expected), expected)
            return scores[kept]

        progress(stage, min(done, expected), expected)
        required = {
            tolerance: bisect(
                lambda kept, score=score, enough=sign * whole - tolerance: (  # type: ignore[misc]
                    sign * score(kept) >= enough
                ),
                total,
                trial.available,
            )
            for tolerance in tolerances
        }
        if curves:
            for power in range(trial.available.bit_length()):
                score(2**power)
            score(trial.available)
        first = required[tolerances[0]]
        results[a.name, b.name] = EdgeAblation(
            trial.available, dict(sorted(scores.items())), required, trial.smallest(first)
        )
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
    found = min(total - kept_all, available)
    return found if kept_all > 0 or sufficient(total) else None


@dataclass
class _Trial:
    """One layer pair under edge ablation: scores for any number of kept edges.

    Each output feature keeps its own largest inputs, so what it becomes depends on how many of
    them are kept alone. Of two numbers of edges tried one after the other most outputs keep the
    same inputs, and are not computed again.
    """

    network: Network
    backend: Backend
    index: int
    source: Basis
    target: Basis
    edges: Float[Tensor, "out in"]
    data: Data
    available: int = field(init=False)

    def __post_init__(self) -> None:
        dtype = self.data.dtype
        self.source, self.target = self.source.to(dtype), self.target.to(dtype)
        section = self.network.sections[self.index]
        self.section = section.rebase(self.source.decoder, self.target.encoder)
        # Only the constant is always kept: it carries means and biases.
        constant = int(self.network.node_layers[self.index].constant)
        candidates = self.edges[:, constant:]
        self.available = candidates.numel()
        self.order = candidates.flatten().argsort(descending=True, stable=True)
        self.sorted = candidates.flatten()[self.order]
        self.constant = constant
        # By batch: features of the source layer, and which inputs the latest trials kept with what
        # came out of them.
        self.sources: dict[int, Tensor] = {}
        self.latest: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def smallest(self, kept: int | None) -> float | None:
        """The smallest of the largest `kept` edges, if it is positive."""
        if not kept:
            return None
        value = float(self.sorted[kept - 1])
        return value if value > 0 else None

    def score(self, kept: int) -> float:
        """Mean score with the largest `kept` edges."""
        mask = torch.zeros(self.available, dtype=torch.bool, device=self.edges.device)
        mask[self.order[:kept]] = True
        keep = torch.ones_like(self.edges, dtype=torch.bool)
        keep[:, self.constant :] = mask.reshape(len(self.edges), -1)
        numbers = itertools.count()

        def measure(batch: Batch) -> Sums:
            features = self._ablated(next(numbers), batch, keep.T)
            outputs = self.network.from_layer(self.index + 1, features @ self.target.decoder)
            scores = self.backend.score(outputs, batch.targets)
            return {"score": scores.sum(), "count": torch.tensor(len(scores))}

        return mean_score(accumulate(self.data, measure))

    def _ablated(self, number: int, batch: Batch, keep: Tensor) -> Float[Tensor, "n t out"]:
        """Output features of one batch, from the inputs that each of them keeps."""
        x = self.sources.get(number)
        if x is None:
            x = self.network.activations_at(self.index, batch.inputs) @ self.source.encoder
            if self._fits(x):
                self.sources[number] = x
        known = self.latest.get(number, [])
        stale = torch.ones(keep.shape[1], dtype=torch.bool, device=keep.device)
        result: Tensor | None = None
        for before, outputs in known:
            same = stale & (before == keep).all(0)
            result = outputs.clone() if result is None else result
            result[..., same] = outputs[..., same]
            stale &= ~same
        if result is None:
            result = self.section.masked(x, keep)
        elif bool(stale.any()):
            part = self.section.transform(lambda m: m, lambda m: m[..., stale])
            result[..., stale] = part.masked(x, keep[:, stale])
        # A bisection goes on between its last sufficient and its last insufficient number.
        if self._fits(result):
            self.latest[number] = [(keep, result), *known[:2]]
        return result

    def _fits(self, one: Tensor) -> bool:
        """Whether such tensors of all batches may be kept."""
        return len(self.data) * one.numel() * one.element_size() < REUSE_BYTES
