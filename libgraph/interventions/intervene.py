"""Interventions: the network runs on with some features changed, and everything after is watched.

Many interventions are one batch: those that begin at a node layer join those that began before, so
that no section runs more often than it has to. What changes is compared with a run in which nothing
was done to the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.memory import memory_budget
from libgraph.backend.contract import Batch
from libgraph.errors import TooLarge, UsageError
from libgraph.interventions.changes import (
    Intervention,
    LayerChange,
    check_interventions,
    layer_changes,
)
from libgraph.interventions.subject import Subject
from libgraph.progress import Progress, silent

AT_ONCE = 2**25
"""Numbers of activations that are computed at a time, at most: 256 MiB of them."""

MOST_OUTPUTS = 2**27
"""Numbers of outputs that are kept, at most: 1 GiB."""


@dataclass(frozen=True)
class Moved:
    """How far m interventions move the features of a node layer, in the mean over samples.

    Args:
        mean: change of each feature, over positions too, `(m, k)`.
        rms: root of the mean square of the change, likewise.
    """

    mean: Float[Tensor, "m k"]
    rms: Float[Tensor, "m k"]


@dataclass(frozen=True)
class Intervened:
    """What m interventions do, measured on n samples.

    Args:
        names: of the interventions.
        base_scores: of each sample without any, `(n)`; absent where samples have no targets.
        scores: of each sample with each, `(m, n)`.
        moved: change of the features of every node layer from the first that is touched on.
        deviation: of the same features over the reference, `(k)`.
        base_outputs: of the network without any, `(n, t, d_out)`, if outputs were asked for.
        outputs: with each, `(m, n, t, d_out)`.
    """

    names: tuple[str, ...]
    base_scores: Float[Tensor, " n"] | None
    scores: Float[Tensor, "m n"] | None
    moved: Mapping[str, Moved]
    deviation: Mapping[str, Float[Tensor, " k"]] = field(default_factory=dict)
    base_outputs: Float[Tensor, "n t d"] | None = None
    outputs: Float[Tensor, "m n t d"] | None = None

    @property
    def base_score(self) -> float | None:
        """Mean score without any intervention."""
        return None if self.base_scores is None else float(self.base_scores.double().mean())

    @property
    def mean_scores(self) -> tuple[float, ...]:
        """Mean score with each intervention; empty where samples have no targets."""
        return () if self.scores is None else tuple(self.scores.double().mean(1).tolist())


def intervene(
    subject: Subject,
    interventions: Sequence[Intervention],
    inputs: Tensor | None = None,
    *,
    outputs: bool = False,
    watched: bool = True,
    seed: int = 0,
    progress: Progress = silent,
) -> Intervened:
    """Run the network with interventions, all of them on the same samples.

    Args:
        subject: whose features are changed, and whose data.
        interventions: what is done.
        inputs: raw inputs of samples of one's own, which have no score; the subject's data if None.
        outputs: whether to keep what the network puts out.
        watched: whether to take down how far later features move.
        seed: of which samples give the values that are resampled.
        progress: told after every batch.

    Raises:
        UsageError: if there is no such feature or position, or one is changed twice.
        TooLarge: if outputs are asked for that are too many to keep.
    """
    check_interventions(subject, interventions)
    batches = subject.data if inputs is None else [Batch(inputs, inputs)]
    keep = _Keep(
        subject, len(interventions), outputs=outputs, watched=watched, scored=inputs is None
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        progress("interventions", 0, len(batches))
        for number, batch in enumerate(batches):
            base = list(subject.network.activations(batch.inputs))
            keep.base(base, batch)
            donors = torch.randint(2**31, (len(batch.inputs),), generator=generator)
            lengths = dict(zip(subject.layers, (x.shape[1] for x in base), strict=True))
            changes = layer_changes(subject, interventions, lengths)
            passes = _Passes(subject, base, changes, donors)
            for chosen in _parts(interventions, base):
                passes.run(chosen, batch, keep)
            keep.finish_batch()
            progress("interventions", number + 1, len(batches))
    return keep.result(interventions)


def _parts(interventions: Sequence[Intervention], base: Sequence[Tensor]) -> list[slice]:
    """Interventions that are made together, few enough for the memory there is."""
    widest = max(x.numel() for x in base) or 1
    size = max(1, min(AT_ONCE, memory_budget("cpu") // 64) // widest)
    return [
        slice(start, min(start + size, len(interventions)))
        for start in range(0, len(interventions), size)
    ]


class _Passes:
    """The network run on one batch under some of the interventions."""

    def __init__(
        self,
        subject: Subject,
        base: Sequence[Float[Tensor, "n s d"]],
        changes: Mapping[str, LayerChange],
        donors: Tensor,
    ) -> None:
        self.subject, self.base, self.changes = subject, base, changes
        self._donors = donors
        self._donated: dict[str, Tensor] | None = None

    def donated(self, layer: str) -> Float[Tensor, "n s k"]:
        """Features of the samples that resampled values come from, one for each of the batch."""
        if self._donated is None:
            pool = self.subject.donors
            self._donated = self.subject.features(pool[self._donors % len(pool)])
        return self._donated[layer]

    def run(self, chosen: slice, batch: Batch, keep: _Keep) -> None:
        """From the first node layer that any of these touches to the end."""
        subject, count, size = self.subject, chosen.stop - chosen.start, len(batch.inputs)
        x: Tensor | None = None
        begun = torch.zeros(count, dtype=torch.bool)
        for place, layer in enumerate(subject.layers):
            change = self.changes.get(layer)
            touching = None if change is None else change.of(chosen)
            new = (
                torch.zeros_like(begun)
                if touching is None
                else touching.mask.ne(0).flatten(1).any(1).cpu() & ~begun
            )
            if x is not None:
                x = subject.network.sections[place - 1](x)
            if bool(new.any()):
                x = self._joined(x, begun, new, place)
                begun |= new
            if touching is not None and x is not None:
                active = x.unflatten(0, (-1, size))
                part = touching.of(begun.to(x.device))
                positions = self._at_positions(part, layer, active.shape[2])
                donated = partial(self.donated, layer)
                x = part.apply(active, subject.cast[layer], positions, donated).flatten(0, 1)
            if x is not None:
                keep.layer(layer, chosen, begun, x, self.base[place])
        ends = self.base[-1].repeat(count, 1, 1).unflatten(0, (count, size))
        if x is not None:
            ends = ends.clone()
            ends[begun.to(ends.device)] = x.unflatten(0, (-1, size))
        keep.ends(ends, batch)

    def _joined(
        self, x: Tensor | None, begun: Tensor, new: Tensor, place: int
    ) -> Float[Tensor, "mn s d"]:
        """Samples of the interventions that go on, and of those that begin here, in order."""
        base = self.base[place]
        if x is None:
            return base.repeat(int(new.sum()), 1, 1)
        size = len(base)
        joined = base.new_empty(len(begun), *base.shape)
        joined[begun.to(base.device)] = x.unflatten(0, (-1, size))
        joined[new.to(base.device)] = base
        return joined[(begun | new).to(base.device)].flatten(0, 1)

    def _at_positions(self, change: LayerChange, layer: str, length: int) -> Tensor | None:
        if not bool(change.at_positions.any()):
            return None
        means = self.subject.usual[layer].at_positions
        if len(means) < length:
            raise UsageError(
                f"Means at positions are known of {len(means)}, and this sample has {length} at "
                f"{layer}: choose mean, or a shorter one."
            )
        return means[:length]


class _Keep:
    """What is taken down of all batches."""

    def __init__(
        self, subject: Subject, many: int, *, outputs: bool, watched: bool, scored: bool
    ) -> None:
        self.subject, self.many = subject, many
        self.outputs, self.watched, self.scored = outputs, watched, scored
        self.base_scores: list[Tensor] = []
        self.base_outputs: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.ended: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._ended: list[Tensor] = []
        self._kept = 0
        self.mean: dict[str, Tensor] = {}
        self.square: dict[str, Tensor] = {}
        self.count: dict[str, int] = {}

    def base(self, base: Sequence[Tensor], batch: Batch) -> None:
        if self.scored:
            self.base_scores.append(self.subject.backend.score(base[-1], batch.targets))
        if self.outputs:
            self._refuse(base[-1])
            self.base_outputs.append(base[-1])
        for layer, x in zip(self.subject.layers, base, strict=True):
            self.count[layer] = self.count.get(layer, 0) + x.shape[0] * x.shape[1]

    def _refuse(self, more: Tensor) -> None:
        self._kept += more.numel()
        if self._kept > MOST_OUTPUTS:
            raise TooLarge(
                f"Outputs of all samples are more than {MOST_OUTPUTS:,} numbers: use a limit, or "
                "outputs=False."
            )

    def layer(self, layer: str, chosen: slice, begun: Tensor, x: Tensor, base: Tensor) -> None:
        """Changes of features of the interventions that have begun."""
        if not self.watched:
            return
        basis = self.subject.cast[layer]
        change = basis.features(x).unflatten(0, (-1, len(base))) - basis.features(base)
        mean = change.sum((1, 2), dtype=torch.float64)
        square = change.square().sum((1, 2), dtype=torch.float64)
        rows = torch.arange(chosen.start, chosen.stop)[begun].to(mean.device)
        for sums, values in ((self.mean, mean), (self.square, square)):
            if layer not in sums:
                sums[layer] = values.new_zeros(self.many, len(basis))
            sums[layer][rows] += values

    def ends(self, ends: Float[Tensor, "m n t d"], batch: Batch) -> None:
        """Scores and outputs of some of the interventions."""
        if self.scored:
            targets = batch.targets.repeat(len(ends), *[1] * (batch.targets.ndim - 1))
            scores = self.subject.backend.score(ends.flatten(0, 1), targets)
            self._scores.append(scores.unflatten(0, ends.shape[:2]))
        if self.outputs:
            self._refuse(ends)
            self._ended.append(ends)

    def finish_batch(self) -> None:
        if self._scores:
            self.scores.append(torch.cat(self._scores))
        if self._ended:
            self.ended.append(torch.cat(self._ended))
        self._scores, self._ended = [], []

    def result(self, interventions: Sequence[Intervention]) -> Intervened:
        moved = {
            layer: Moved(
                (self.mean[layer] / self.count[layer]).cpu(),
                (self.square[layer] / self.count[layer]).sqrt().cpu(),
            )
            for layer in self.mean
        }
        deviation = {layer: self.subject.usual[layer].deviation.cpu() for layer in moved}
        return Intervened(
            tuple(intervention.name for intervention in interventions),
            torch.cat(self.base_scores) if self.base_scores else None,
            torch.cat(self.scores, dim=1) if self.scores else None,
            moved,
            deviation,
            torch.cat(self.base_outputs) if self.base_outputs else None,
            torch.cat(self.ended, dim=1) if self.ended else None,
        )
