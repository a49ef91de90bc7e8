"""A dictionary of one node layer: latents of which few are active at a time, and what they miss.

Pre-activations p = x C are linear in the activation, whose constant coordinate carries the biases;
latents are z = p where active, and nothing elsewhere; x = z D + ε, with ε the error. The error is a
feature of its own: isolated, and of value |ε|. Where activations are divided by their own size n(x)
features are n z, and what they read has n beside x. Source: docs/math.md §10.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.network.basis import Basis
from libgraph.network.size import Size
from libgraph.sections.section import Section


class Gate(ABC):
    """Says which latents are active, from their pre-activations."""

    @abstractmethod
    def active(self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n k"]:
        """Those of `pre`, at the activations that they come from."""

    @abstractmethod
    def of(self, chosen: Tensor, encoder: Float[Tensor, "d k"]) -> Gate:
        """The same gate, asked about some of the latents alone, whose encoders these were."""

    def to(self, *where: Any) -> Gate:
        """The same on another device or in another precision."""
        return self


@dataclass(frozen=True)
class Threshold(Gate):
    """Latents above zero and above a threshold of their own: ReLU, JumpReLU, gated.

    Args:
        threshold: θ `(k)`.
    """

    threshold: Float[Tensor, " k"]

    def active(self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n k"]:
        """p > θ, and positive: a latent below zero is none."""
        return pre > self.threshold.clamp(min=0)

    def of(self, chosen: Tensor, encoder: Float[Tensor, "d k"]) -> Threshold:
        """Their own thresholds."""
        return Threshold(self.threshold[chosen])

    def to(self, *where: Any) -> Threshold:
        """With θ there."""
        return Threshold(self.threshold.to(*where))


@dataclass(frozen=True)
class TopK(Gate):
    """The k largest latents at each position, as far as they are positive.

    Args:
        k: how many.
        others: encoders `(d, m)` of latents that are no features, but compete.
    """

    k: int
    others: Float[Tensor, "d m"] | None = None

    def active(self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n k"]:
        """p > 0 and among the k largest; of equal ones at the border all."""
        all_of_them = pre if self.others is None else torch.cat([pre, x @ self.others], dim=-1)
        k = min(self.k, all_of_them.shape[-1])
        least = all_of_them.topk(k, dim=-1).values[..., -1:]
        return (pre >= least) & (pre > 0)

    def of(self, chosen: Tensor, encoder: Float[Tensor, "d k"]) -> TopK:
        """Those that are not chosen go on competing."""
        left = torch.ones(encoder.shape[1], dtype=torch.bool, device=encoder.device)
        left[chosen] = False
        others = [encoder[:, left]] + ([] if self.others is None else [self.others])
        return TopK(self.k, torch.cat(others, dim=1))

    def to(self, *where: Any) -> TopK:
        """With the competitors there."""
        return self if self.others is None else TopK(self.k, self.others.to(*where))


@dataclass(frozen=True)
class Dictionary(Basis):
    """A basis whose features are latents: `encoder` gives pre-activations, `gate` what is active.

    The last isolated feature is the error, of which `encoder` and `decoder` have zeros.

    Args:
        gate: of the features that are not isolated.
        dead: latents that were never active on the data looked at: they are no features.
        size: of activations that are divided by it; the last isolated feature before the error.
        carried: features without a gate after the isolated ones; the rest are latents.
    """

    gate: Gate = Threshold(torch.zeros(0))
    dead: int = 0
    size: Size | None = None
    carried: int = 0

    @property
    def linear(self) -> bool:
        """Latents are not linear in activations."""
        return False

    @property
    def always(self) -> int:
        """How many leading features have no gate."""
        return self.isolated + self.carried

    @property
    def own_latents(self) -> slice:
        """Where the latents are that are read at this node layer."""
        return slice(self.always, len(self))

    @property
    def latent(self) -> bool:
        """Whether it has latents, and not only an error beside linear features."""
        return self.always < len(self)

    @property
    def error_place(self) -> int:
        """Which feature is the error."""
        return self.isolated - 1

    def to(self, *where: Any) -> Self:
        """The same on another device or in another precision."""
        return replace(
            self,
            encoder=self.encoder.to(*where),
            decoder=self.decoder.to(*where),
            importance=self.importance.to(*where),
            gate=self.gate.to(*where),
            size=None if self.size is None else self.size.to(*where),
        )

    def of(self, chosen: Tensor, importance: Float[Tensor, " m"]) -> Self:
        """Some of the latents alone, in this order; those that are left out are dead.

        Args:
            chosen: their places among the latents.
            importance: of these.
        """
        first = self.always
        kept = torch.cat([torch.arange(first).to(chosen), first + chosen])
        return replace(
            self,
            encoder=self.encoder[:, kept],
            decoder=self.decoder[kept],
            importance=torch.cat([self.importance[:first], importance.to(self.importance)]),
            gate=self.gate.of(chosen, self.reader[:, first:]),
            size=None if self.size is None else self.size.of(kept),
            dead=self.dead + len(self) - first - len(chosen),
        )

    @property
    def reader(self) -> Float[Tensor, "r k"]:
        """The encoder, and what features read of the size of activations, if they do."""
        if self.size is None:
            return self.encoder
        return torch.cat([self.encoder, self.size.read.unsqueeze(0)])

    def read(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n r"]:
        """Activations, with their size as one coordinate more if it is read."""
        return x if self.size is None else self.size.beside(x)

    def read_after(self, section: Section) -> Section:
        """The section, and the size of what it gives if it is read."""
        return section if self.size is None else self.size.after(section)

    def active(self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n k"]:
        """Where features pass what comes in: those without a gate always, the error never."""
        first = self.always
        always = torch.ones_like(pre[..., :first], dtype=torch.bool)
        always[..., self.error_place] = False
        asked, read = pre[..., first:], self.read(x)
        if self.size is not None:
            # The size itself is a feature; gates are of what was divided by it.
            least = torch.finfo(pre.dtype).tiny
            asked = asked / pre[..., self.error_place - 1, None].clamp(min=least)
            read = read / read[..., -1:].clamp(min=least)
        return torch.cat([always, self.gate.active(asked, read)], dim=-1)

    def features(
        self, x: Float[Tensor, "*n d"], chosen: Tensor | slice = slice(None)
    ) -> Float[Tensor, "*n k"]:
        """Latents, and the length of the error; or those that are chosen."""
        f = self.latents(x)
        f[..., self.error_place] = self.missed(x, f).norm(dim=-1)
        return f[..., chosen]

    def activations(
        self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n d"]:
        """Through the gates, with the error that x has; competitors are as they are at x."""
        return (pre * self.active(pre, x)) @ self.decoder + self.error(x)

    def parts(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n p"]:
        """Latents, with all coordinates of the error in its place."""
        f = self.latents(x)
        return self._with_error(f, self.left(x, f))

    def parts_between(
        self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n p"]:
        """Through the gates, with the error that x has; competitors are as they are at x."""
        return self._with_error(pre * self.active(pre, x), self.error(x))

    def parts_of(self, f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n p"]:
        """Zeros where the error is."""
        return self._with_error(f, f.new_zeros(*f.shape[:-1], self.decoder.shape[1]))

    def _with_error(self, f: Tensor, error: Tensor) -> Float[Tensor, "*n p"]:
        place = self.error_place
        return torch.cat([f[..., :place], error, f[..., place + 1 :]], dim=-1)

    @property
    def part_decoder(self) -> Float[Tensor, "p d"]:
        """Decoders, and the identity where the error is."""
        place, eye = self.error_place, torch.eye(self.decoder.shape[1]).to(self.decoder)
        return torch.cat([self.decoder[:place], eye, self.decoder[place + 1 :]])

    def part_count(self, features: int) -> int:
        """All coordinates of the error count as one feature."""
        return features + (self.decoder.shape[1] - 1) * (features > self.error_place)

    def part_mask(self, keep: Bool[Tensor, "k m"]) -> Bool[Tensor, "p m"]:
        """The error's row for each of its coordinates."""
        place, size = self.error_place, self.decoder.shape[1]
        return torch.cat([keep[:place], keep[place].expand(size, -1), keep[place + 1 :]])

    def latents(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """Features with a zero in place of the error."""
        pre = self.read(x) @ self.reader
        return pre * self.active(pre, x)

    def error(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """ε: what the features leave of an activation."""
        return self.left(x, self.latents(x))

    def left(self, x: Float[Tensor, "*n d"], f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n d"]:
        """ε at an activation whose latents are known."""
        return x - f @ self.decoder

    # What latents are to explain, for figures

    def missed(self, x: Float[Tensor, "*n d"], f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n m"]:
        """How far what latents write is from what they are to explain."""
        return self.left(x, f)

    def aim(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n m"]:
        """What latents are to explain: the activation."""
        return x

    def imitated(self, x: Float[Tensor, "*n d"], f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n d"]:
        """The activation with what latents write in place of what they are to explain."""
        return f @ self.decoder


def with_rest(basis: Basis) -> Dictionary:
    """A linear basis with all that it leaves out of an activation as one more feature, an error.

    Whatever reads the activation sees it whole, as after a dictionary.

    Args:
        basis: whose features are linear.
    """
    place = basis.isolated
    none = basis.encoder.new_zeros(len(basis.encoder), 1)
    importance = basis.importance
    return Dictionary(
        torch.cat([basis.encoder[:, :place], none, basis.encoder[:, place:]], dim=1),
        torch.cat([basis.decoder[:place], none.T, basis.decoder[place:]]),
        torch.cat([importance[:place], importance.new_ones(1), importance[place:]]),
        place + 1,
        basis.rotated,
        gate=Threshold(basis.encoder.new_zeros(0)),
        carried=len(basis) - place,
    )
