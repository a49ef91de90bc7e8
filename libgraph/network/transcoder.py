"""A transcoder as the basis of a node layer that holds an MLP's input and output: see `Passage`.

Latents are read off what goes in, z = σ(x_in W + b), and write into what comes out. What passes
them by, the stream and what a skip connection adds to it, has linear features of its own, which
stand before them and have no gate; the error is what the imitation misses of the MLP's output.
Source: docs/math.md §10.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.network.basis import Basis
from libgraph.network.dictionary import Dictionary
from libgraph.network.size import Normalised
from libgraph.sections.section import Section


@dataclass(frozen=True, kw_only=True)
class Transcoder(Dictionary):
    """Isolated features, those of what passes by (`carried`), then latents: o = s + z D + c + ε.

    Args:
        base: B `(d, m)`: x B = s + c is what stands at the written coordinates without latents.
        written: coordinates o that latents, and the part that they imitate, write into.
        passing: coordinates that hold what stands there without that part.
        numbers: which of the file's latents are features, in their order; None if not known.
        normalised: what latents read, where that is divided by its own size; None as it is.
    """

    base: Float[Tensor, "d m"]
    written: slice
    passing: slice
    numbers: Int[Tensor, " k"] | None = None
    normalised: Normalised | None = None

    @property
    def reader(self) -> Float[Tensor, "r k"]:
        """The encoder, and what latents read of what is divided, if it is."""
        if self.normalised is None:
            return self.encoder
        return torch.cat([self.encoder, self.normalised.read])

    def read(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n r"]:
        """Activations, with what latents read beside them if it is divided by its size."""
        return x if self.normalised is None else self.normalised.beside(x)

    def read_after(self, section: Section) -> Section:
        """The section, and what latents read of what it gives if that is divided."""
        return section if self.normalised is None else self.normalised.after(section)

    def to(self, *where: Any) -> Self:
        """The same on another device or in another precision."""
        normalised = None if self.normalised is None else self.normalised.to(*where)
        return replace(super().to(*where), base=self.base.to(*where), normalised=normalised)

    def of(self, chosen: Tensor, importance: Float[Tensor, " m"]) -> Self:
        """Some of the latents alone, which go by the numbers that they had."""
        numbers = self.numbers
        if numbers is not None:
            numbers = numbers[chosen.to(numbers.device)]
        normalised = self.normalised
        if normalised is not None:
            first = torch.arange(self.always).to(chosen)
            normalised = normalised.of(torch.cat([first, self.always + chosen]))
        return replace(super().of(chosen, importance), numbers=numbers, normalised=normalised)

    def activations(
        self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n d"]:
        """Other features than those of x in its place; what the part reads is as it is at x."""
        return self._with(x, super().activations(pre, x)[..., self.written])

    def left(self, x: Float[Tensor, "*n d"], f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n d"]:
        """What features leave of what is written; nothing reads the other coordinates."""
        there = self.written
        return self._with(torch.zeros_like(x), x[..., there] - f @ self.decoder[:, there])

    def missed(self, x: Float[Tensor, "*n d"], f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n m"]:
        """The part's output less the imitation, whatever features keep of what passes by."""
        return x[..., self.written] - self._imitation(x, f)

    def aim(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n m"]:
        """The part's output."""
        return x[..., self.written] - x[..., self.passing]

    def imitated(self, x: Float[Tensor, "*n d"], f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n d"]:
        """The activation with the transcoder in place of the part."""
        return self._with(x, self._imitation(x, f))

    def without(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The activation where the part puts out nothing."""
        return self._with(x, x[..., self.passing])

    def carrying(self, stream: Basis, seen: Float[Tensor, "m k_after"]) -> Transcoder:
        """With other features of what passes by, and importance as the next node layer has it.

        Args:
            stream: of what passes by and the constant, with a constant of its own.
            seen: what the next node layer's features read of the written coordinates.
        """
        there, first, alone = self.written, self.always, self.isolated
        latents = slice(first, None)
        into = self.encoder[:, alone:first] @ stream.encoder[:-1, 1:]
        into[-1] += stream.encoder[-1, 1:]
        out = self.decoder.new_zeros(len(stream) - 1, self.decoder.shape[1])
        out[:, there] = stream.decoder[1:, :-1]
        before = self.decoder[:alone].clone()
        before[0, there] += stream.decoder[0, :-1]
        # Mean squares of latents, from those of what they write.
        lengths = self.decoder[latents].square().sum(1)
        squares = self.importance[latents] / lengths.masked_fill(lengths == 0, 1)
        importance = squares * (self.decoder[latents, there] @ seen).square().sum(1)
        order = importance.argsort(descending=True, stable=True)
        sorted_ = self.of(order, importance[order])
        normalised = sorted_.normalised
        if normalised is not None:
            read = normalised.read
            none = read.new_zeros(len(read), first + len(stream) - 1 - self.carried)
            normalised = replace(normalised, read=torch.cat([none, read[:, latents]], dim=1))
        return replace(
            sorted_,
            encoder=torch.cat([sorted_.encoder[:, :alone], into, sorted_.encoder[:, latents]], 1),
            decoder=torch.cat([before, out, sorted_.decoder[latents]]),
            importance=torch.cat(
                [
                    sorted_.importance[:alone],
                    stream.importance[1:].to(importance),
                    sorted_.importance[latents],
                ]
            ),
            carried=len(stream) - 1,
            normalised=normalised,
        )

    def _imitation(self, x: Tensor, f: Tensor) -> Float[Tensor, "*n m"]:
        latents = slice(self.always, None)
        return x @ self.base + f[..., latents] @ self.decoder[latents, self.written]

    def _with(self, x: Tensor, written: Tensor) -> Float[Tensor, "*n d"]:
        changed = x.clone()
        changed[..., self.written] = written
        return changed
