"""Circuits: the network runs on some of the edges, and all others are at a baseline.

Every output feature of a layer pair sees its kept input features as they are, and each of the
others as it would be at the baseline: at its mean, at zero, or in another sample. What comes out
goes on to the next layer pair, so that a circuit is one forward pass with every section masked.

A section knows how to see some inputs alone, the others zero (`Section.masked`). The rest is a
change of coordinates, exact for every section: about a mean μ, f = (f − μ) + μ, where the last is
one more input that is always kept; in another sample f', the inputs are f and f' side by side, and
an output keeps the one where it does not keep the other. Latents of dictionaries pass what comes
out through their gates, and their errors are as they are in the whole network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.accumulate.halfway import steps
from libgraph.edges.interactions import Edges
from libgraph.errors import DataError, NumericalError, UsageError
from libgraph.interventions.subject import Subject
from libgraph.sections.section import Section

Baseline = Literal["mean", "zero", "resample"]
"""What the input of an edge that is not kept is at."""

BASELINES: tuple[Baseline, ...] = get_args(Baseline)

Circuit = Mapping[int, Bool[Tensor, "out in"]]
"""Kept edges by the number of the layer pair; where there is none the network is whole."""


@dataclass(frozen=True, eq=False)
class EdgePool:
    """The edges of all layer pairs in one row, of which circuits are chosen.

    Those from and to isolated features are none of them: a circuit always has these. The constant
    carries means and biases, and a variance is one number that a norm divides everything by.

    Args:
        shapes: features of each layer pair, out and in.
        isolated: the first so many of them, likewise.
        values: interactions, one after the other, `(e)`.
    """

    shapes: tuple[tuple[int, int], ...]
    isolated: tuple[tuple[int, int], ...]
    values: Float[Tensor, " e"]

    @classmethod
    def of(cls, subject: Subject, edges: Edges) -> EdgePool:
        """The edges of a subject's basis.

        Raises:
            UsageError: if a layer pair has none, or of other features.
        """
        bases = subject.bases
        pairs = list(itertools.pairwise(subject.layers))
        shapes = tuple((len(bases[b]), len(bases[a])) for a, b in pairs)
        isolated = tuple((bases[b].isolated, bases[a].isolated) for a, b in pairs)
        values = []
        for pair, shape, (above, left) in zip(pairs, shapes, isolated, strict=True):
            if pair not in edges or tuple(edges[pair].shape) != shape:
                raise UsageError(
                    f"Edges of {' → '.join(pair)} are not those of this basis, {shape[0]} × "
                    f"{shape[1]}: give the edges of the same run and basis."
                )
            values.append(edges[pair][above:, left:].flatten())
        pool = cls(shapes, isolated, torch.cat(values).to(torch.float64))
        if not pool.size:
            raise UsageError("There are no edges to choose from: all features are isolated.")
        return pool

    @property
    def size(self) -> int:
        """How many edges there are."""
        return len(self.values)

    @cached_property
    def parts(self) -> tuple[slice, ...]:
        """Places of each layer pair's edges in the row."""
        sizes = [(o - above) * (i - left) for (o, i), (above, left) in self._boxes()]
        ends = list(itertools.accumulate(sizes, initial=0))
        return tuple(slice(start, stop) for start, stop in itertools.pairwise(ends))

    @cached_property
    def shares(self) -> Float[Tensor, " e"]:
        """Each interaction as a share of all those of its layer pair."""
        values = self.values.clone()
        for part in self.parts:
            total = values[part].sum()
            values[part] /= total if total > 0 else 1
        return values

    def circuit(self, kept: Bool[Tensor, " e"]) -> dict[int, Bool[Tensor, "out in"]]:
        """The circuit of the edges that are marked, and of those that are always kept."""
        circuit = {}
        boxes = zip(self._boxes(), self.parts, strict=True)
        for number, ((shape, (above, left)), part) in enumerate(boxes):
            mask = torch.ones(shape, dtype=torch.bool)
            mask[above:, left:] = kept[part].reshape(shape[0] - above, shape[1] - left)
            circuit[number] = mask
        return circuit

    def largest(self, order: Int[Tensor, " e"], count: int) -> Bool[Tensor, " e"]:
        """Marks of the first so many edges of an order."""
        kept = torch.zeros(self.size, dtype=torch.bool)
        kept[order[:count]] = True
        return kept

    def _boxes(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        return zip(self.shapes, self.isolated, strict=True)


@dataclass
class Circuits:
    """A subject whose circuits are run, one at a time.

    Args:
        subject: its network, data and features.
        baseline: what the inputs of edges that are not kept are at. Means are over samples and
            positions of the reference. In another sample: for each sample one of the reference,
            for all edges the same.
        seed: of which sample that is, whatever the circuit.
    """

    subject: Subject
    baseline: Baseline = "mean"
    seed: int = 0
    _sections: dict[int, Section] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise UsageError(
                f"'{self.baseline}' is no baseline: choose one of {', '.join(BASELINES)}."
            )

    def score(self, circuit: Circuit) -> float:
        """Mean score over the data; of the whole network if no layer pair is given.

        Raises:
            NumericalError: if it is not finite.
        """
        score = float(self.scores(circuit).mean())
        if not math.isfinite(score):
            raise NumericalError(
                f"The score of a circuit is {score}, not a finite number: choose another baseline "
                f"than {self.baseline}, or a basis in which variances are features of their own."
            )
        return score

    def scores(self, circuit: Circuit) -> Float[Tensor, " n"]:
        """The score of every sample, in float64.

        Where a question keeps what is half done it goes on after the last batch that was kept.
        """
        score = self.subject.backend.score
        with torch.no_grad(), steps("circuit") as kept:
            scores = kept.state.get("scores", torch.zeros(0, dtype=torch.float64))
            outputs = self._outputs(circuit, kept.done)
            for done, (y, targets) in enumerate(outputs, start=kept.done + 1):
                scores = torch.cat([scores, score(y, targets).double().cpu()])
                kept.note(done, {"scores": scores})
        return scores

    def outputs(self, circuit: Circuit) -> Float[Tensor, "n t d"]:
        """What the network puts out for all samples."""
        with torch.no_grad():
            return torch.cat([outputs for outputs, _ in self._outputs(circuit)])

    def _outputs(self, circuit: Circuit, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """What the network puts out for all batches but the first ones, and their targets."""
        subject, generator = self.subject, torch.Generator().manual_seed(self.seed)
        for number, batch in enumerate(subject.data):
            donors = torch.randint(2**31, (len(batch.inputs),), generator=generator)
            if number < skipped:
                continue
            others = self.others(donors) if self.baseline == "resample" and circuit else {}
            yield self.run(subject.network.embed(batch.inputs), circuit, others), batch.targets

    def others(self, donors: Int[Tensor, " n"]) -> dict[str, Float[Tensor, "n s k"]]:
        """Features of the samples that stand in, by node layer."""
        pool = self.subject.donors
        return self.subject.features(pool[(donors % len(pool)).to(pool.device)])

    def run(
        self, x: Float[Tensor, "n s d"], circuit: Circuit, others: Mapping[str, Tensor]
    ) -> Float[Tensor, "n t d_out"]:
        """Activations of the first node layer to those of the last."""
        subject = self.subject
        # Of the whole network, where gates and errors are asked for.
        whole = x
        latent = any(not basis.linear for basis in subject.cast.values())
        parts: Tensor | None = None
        for number, (a, b, section) in enumerate(subject.network.pairs):
            source, target = subject.cast[a.name], subject.cast[b.name]
            whole = section(whole) if latent and circuit else whole
            if number in circuit:
                inputs = source.parts(x) if parts is None else parts
                pre = self.masked(number, inputs, circuit[number], others)
                parts = target.parts_between(pre, whole)
                continue
            if parts is not None:
                x, parts = parts @ source.part_decoder, None
            x = section(x)
        if parts is None:
            return x
        return parts @ subject.cast[subject.layers[-1]].part_decoder

    def masked(
        self,
        number: int,
        f: Float[Tensor, "n s p_in"],
        keep: Bool[Tensor, "k_out k_in"],
        others: Mapping[str, Tensor],
    ) -> Float[Tensor, "n t k_out"]:
        """Features behind a layer pair, each from the inputs that it keeps and the baseline.

        Before any gate, from parts (`Basis.parts`) before it.
        """
        layer = self.subject.layers[number]
        source = self.subject.cast[layer]
        section, keep = self._section(number), source.part_mask(keep.T.to(f.device))
        if self.baseline == "zero":
            return section.masked(f, keep)
        if self.baseline == "mean":
            mean = source.parts_of(self.subject.usual[layer].mean)
            one = f.new_ones(*f.shape[:2], 1)
            kept = torch.cat([keep, keep.new_ones(1, keep.shape[1])])
            return section.masked(torch.cat([f - mean, one], dim=-1), kept)
        other = source.parts_of(others[layer])
        if other.shape != f.shape:
            raise DataError(
                f"Samples that stand in need the length of those asked about: {other.shape[1]} "
                f"positions at {layer}, not {f.shape[1]}; choose baseline='zero'."
            )
        return section.masked(torch.cat([f, other], dim=-1), torch.cat([keep, ~keep]))

    def _section(self, number: int) -> Section:
        """The section between features, with further inputs for the baseline."""
        if number not in self._sections:
            subject = self.subject
            a, b, section = subject.network.pairs[number]
            source, target = subject.cast[a.name], subject.cast[b.name]
            decoder = source.part_decoder
            if self.baseline == "mean":
                mean = source.parts_of(subject.usual[a.name].mean)
                decoder = torch.cat([decoder, (mean @ decoder)[None]])
            elif self.baseline == "resample":
                decoder = torch.cat([decoder, decoder])
            self._sections[number] = target.read_after(section).rebase(decoder, target.reader)
        return self._sections[number]
