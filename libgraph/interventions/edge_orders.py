"""Orders in which a greedy circuit takes edges: by interaction, by effect, by both, at random.

The effect of an edge is what becomes of the score when it alone is cut: exact, by a forward pass of
its own from the node layer that it leads to, where edges are few; else to first order in what comes
after, the gradient of the score at the edge's output feature times how far that moves, which is
exact in the edge's own section.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.accumulate.halfway import steps
from libgraph.backend.contract import Batch
from libgraph.interventions.circuits import Circuits, EdgePool
from libgraph.interventions.intervene import AT_ONCE
from libgraph.progress import Progress, silent

Order = Literal["interaction", "share", "effect", "both"]
"""What says which edges a circuit takes first."""

MOST_EXACT = 2048
"""Edges up to which each is cut in a pass of its own."""


def edge_order(
    circuits: Circuits,
    pool: EdgePool,
    order: Order = "interaction",
    *,
    samples: int = 32,
    progress: Progress = silent,
) -> Int[Tensor, " e"]:
    """Places of the edges, those first that a circuit takes first.

    Interactions of different layer pairs are compared as they are: E is the mean square of what an
    input feature does to an output feature, in the units of that feature. By `share` each is
    divided by the sum over its layer pair, whatever the units. By `both`, an edge is as early as
    the better of its two ranks has it, by interaction or by effect.

    Args:
        circuits: the subject, and what an edge that is cut is at.
        pool: edges.
        order: by what.
        samples: that effects are measured on.
        progress: told about effects.
    """
    if order == "share":
        return descending(pool.shares)
    by_interaction = descending(pool.values)
    if order == "interaction":
        return by_interaction
    by_effect = descending(edge_effects(circuits, pool, samples=samples, progress=progress).abs())
    if order == "effect":
        return by_effect
    ranks = [torch.empty_like(by_effect) for _ in range(2)]
    for rank, places in zip(ranks, (by_interaction, by_effect), strict=True):
        rank[places] = torch.arange(pool.size)
    # Of two edges with the same better rank the one with the better other rank is first.
    lower, upper = torch.minimum(*ranks).double(), torch.maximum(*ranks).double()
    return (lower + upper / (pool.size + 1)).argsort(stable=True)


def descending(values: Float[Tensor, " e"]) -> Int[Tensor, " e"]:
    """Places from the largest value to the smallest, ties in the order of the row."""
    return values.argsort(descending=True, stable=True)


def random_order(size: int, seed: int, draw: int = 0) -> Int[Tensor, " e"]:
    """Places in an order of chance, another one for each draw."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 10_007 + draw))


def edge_effects(
    circuits: Circuits,
    pool: EdgePool,
    *,
    samples: int = 32,
    exact: bool | None = None,
    progress: Progress = silent,
) -> Float[Tensor, " e"]:
    """How much larger the score is when an edge alone is cut, for every edge, in the mean.

    Where the score has no gradient, as the accuracy has none, the logarithm of the probability of
    what the network itself predicts at the last position is taken in its place.

    For s samples and a layer pair of k inputs, k · s passes through its section, and one gradient;
    exactly, another pass through all that follows for each of its edges and each sample.

    Args:
        circuits: the subject, and what an edge that is cut is at.
        pool: edges.
        samples: the first so many are measured.
        exact: whether to run what follows for every edge; None where there are at most 2048.
        progress: told after every layer pair.
    """
    exact = pool.size <= MOST_EXACT if exact is None else exact
    seen, begun = 0, 0
    generator = torch.Generator().manual_seed(circuits.seed)
    pairs = len(pool.shapes)
    with steps("effects of edges") as kept:
        total = kept.state.get("total", torch.zeros(pool.size, dtype=torch.float64))
        for batch in circuits.subject.data:
            size = len(batch.inputs)
            donors = torch.randint(2**31, (size,), generator=generator)
            batch = Batch(batch.inputs[: samples - seen], batch.targets[: samples - seen])
            left = range(max(0, kept.done - begun), pairs)
            if left:
                measured = _Cuts(circuits, pool, batch, donors[: len(batch.inputs)], exact)
            for number in left:
                progress("effects of edges", number, pairs)
                total = total.clone()
                total[pool.parts[number]] += measured.effects(number)
                kept.note(begun + number + 1, {"total": total})
            begun += pairs
            seen += len(batch.inputs)
            if seen >= samples:
                break
    progress("effects of edges", pairs, pairs)
    return total / seen


class _Cuts:
    """Every edge of one batch cut alone."""

    def __init__(
        self, circuits: Circuits, pool: EdgePool, batch: Batch, donors: Tensor, exact: bool
    ) -> None:
        self.circuits, self.pool, self.batch, self.exact = circuits, pool, batch, exact
        self.subject = circuits.subject
        with torch.no_grad():
            self.base = list(self.subject.network.activations(batch.inputs))
            self.others = circuits.others(donors) if circuits.baseline == "resample" else {}
            self.predicted = self.subject.logits(self.base[-1])[:, -1].argmax(-1)
            self.base_score = self.score(self.base[-1], self.batch.targets, self.predicted)

    def score(self, outputs: Tensor, targets: Tensor, predicted: Tensor) -> Float[Tensor, " n"]:
        """That of the backend, or what stands in where it has no gradient."""
        with torch.enable_grad():
            probe = self.base[-1][:1].detach().requires_grad_()
            smooth = self.subject.backend.score(probe, self.batch.targets[:1]).requires_grad
        if smooth:
            return self.subject.backend.score(outputs, targets)
        logits = self.subject.logits(outputs)[:, -1].log_softmax(-1)
        return logits.gather(1, predicted.unsqueeze(1)).squeeze(1)

    def effects(self, number: int) -> Float[Tensor, " e"]:
        """Of the edges of one layer pair, summed over the samples."""
        above, left = self.pool.isolated[number]
        outputs, inputs = self.pool.shapes[number]
        gradient = None if self.exact else self._gradient(number)[..., above:]
        x = self.base[number]
        size = x.numel() + self.base[number + 1].numel()
        at_once = max(1, AT_ONCE // (4 * size))
        parts = []
        with torch.no_grad():
            for start in range(left, inputs, at_once):
                moved = self._moved(number, range(start, min(start + at_once, inputs)))
                moved = moved[..., above:]
                if gradient is None:
                    parts.append(self._run(number, moved))
                else:
                    parts.append(torch.einsum("jnti,nti->ji", moved, gradient).double())
        effects = torch.cat(parts) if parts else torch.zeros(0, outputs - above)
        return effects.T.flatten().cpu().double()

    def _moved(self, number: int, chosen: range) -> Float[Tensor, "j n t k_out"]:
        """How output features move when one input feature is at its baseline for them."""
        subject, circuits = self.subject, self.circuits
        a, b, section = subject.network.pairs[number]
        basis, x = subject.cast[a.name], self.base[number]
        features = slice(chosen.start, chosen.stop)
        shift = -(x @ basis.encoder[:, features])
        if circuits.baseline == "mean":
            shift = shift + subject.usual[a.name].mean[features]
        elif circuits.baseline == "resample":
            shift = shift + self.others[a.name][..., features]
        by_feature = shift.movedim(-1, 0).unsqueeze(-1) * basis.decoder[features][:, None, None]
        y = section((x + by_feature).flatten(0, 1)).unflatten(0, (len(chosen), len(x)))
        moved: Tensor = (y - self.base[number + 1]) @ subject.cast[b.name].encoder
        return moved

    def _gradient(self, number: int) -> Float[Tensor, "n t k_out"]:
        """Of the summed score, by the output features of a layer pair."""
        subject = self.subject
        with torch.enable_grad():
            y = self.base[number + 1].detach().requires_grad_()
            outputs = subject.network.from_layer(number + 1, y)
            score = self.score(outputs, self.batch.targets, self.predicted).sum()
            (gradient,) = torch.autograd.grad(score, y)
        by_feature: Tensor = gradient @ subject.cast[subject.layers[number + 1]].decoder.T
        return by_feature

    def _run(self, number: int, moved: Float[Tensor, "j n t k"]) -> Float[Tensor, "j k"]:
        """The change of the score when one output feature moves, by a pass for each."""
        subject, targets = self.subject, self.batch.targets
        decoder = subject.cast[subject.layers[number + 1]].decoder[-moved.shape[-1] :]
        effects = moved.new_zeros(len(moved), moved.shape[-1], dtype=torch.float64)
        y = self.base[number + 1]
        at_once = max(1, AT_ONCE // (4 * max(x.numel() for x in self.base)))
        for j, by_output in enumerate(moved):
            for start in range(0, moved.shape[-1], at_once):
                some = slice(start, start + at_once)
                shift = by_output[..., some].movedim(-1, 0).unsqueeze(-1)
                changed = y + shift * decoder[some][:, None, None]
                outputs = subject.network.from_layer(number + 1, changed.flatten(0, 1))
                many = len(changed)
                repeated = targets.repeat(many, *[1] * (targets.ndim - 1))
                scores = self.score(outputs, repeated, self.predicted.repeat(many))
                changes = scores.unflatten(0, (many, -1)) - self.base_score
                effects[j, some] = changes.sum(1, dtype=torch.float64)
        return effects
