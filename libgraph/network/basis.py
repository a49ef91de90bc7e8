"""A basis of one node layer: two matrices.

The encoder C takes activations to features, f = x C, the decoder C⁺ takes features back, x ≈ f C⁺.
Features are sorted by importance, after the isolated ones (the constant first), which are features
of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from libgraph.sections.section import Section


@dataclass(frozen=True)
class Basis:
    """Features of one node layer.

    Args:
        encoder: C `(d, k)`, features are x C.
        decoder: C⁺ `(k, d)`, activations are f C⁺.
        importance: `(k,)`, what features are sorted by: Λ for LIB, variance for PCA and neurons.
        isolated: how many leading features are isolated (the constant, a LayerNorm variance).
        rotated: False where the node layer was left in its neuron basis.
    """

    encoder: Float[Tensor, "d k"]
    decoder: Float[Tensor, "k d"]
    importance: Float[Tensor, " k"]
    isolated: int
    rotated: bool = True

    def __len__(self) -> int:
        return self.encoder.shape[1]

    @property
    def linear(self) -> bool:
        """Whether features are x C; those of a `Dictionary` are not."""
        return True

    @property
    def always(self) -> int:
        """How many leading features have effects whatever they are; others only where active."""
        return len(self)

    def features(
        self, x: Float[Tensor, "*n d"], chosen: Tensor | slice = slice(None)
    ) -> Float[Tensor, "*n k"]:
        """What activations have of each feature, or of those that are chosen."""
        return x @ self.encoder[:, chosen]

    def activations(
        self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n d"]:
        """What other features than those of x, known before any gate, put in its place."""
        return pre @ self.decoder

    # What is read of activations, which may be more than their coordinates

    @property
    def reader(self) -> Float[Tensor, "r k"]:
        """What `read` is multiplied by."""
        return self.encoder

    def read(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n r"]:
        """What features, before any gate, are linear in."""
        return x

    def read_after(self, section: Section) -> Section:
        """The section before this node layer, to what features are linear in."""
        return section

    # Features that are linear, though these may not be: the error has all coordinates in its place

    def parts(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n p"]:
        """What activations are the sum of, times `part_decoder`."""
        return self.features(x)

    def parts_between(
        self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n p"]:
        """Parts with other features than those of x, known before any gate, and x's own error."""
        return pre

    def parts_of(self, f: Float[Tensor, "*n k"]) -> Float[Tensor, "*n p"]:
        """Features as parts, without an error."""
        return f

    @property
    def part_decoder(self) -> Float[Tensor, "p d"]:
        """What parts write."""
        return self.decoder

    def part_count(self, features: int) -> int:
        """How many parts the first so many features are."""
        return features

    def part_mask(self, keep: Bool[Tensor, "k m"]) -> Bool[Tensor, "p m"]:
        """A mask of features as one of parts."""
        return keep

    def to(self, *where: Any) -> Basis:
        """The same in another precision or on another device."""
        return Basis(
            self.encoder.to(*where),
            self.decoder.to(*where),
            self.importance.to(*where),
            self.isolated,
            self.rotated,
        )


Bases = Mapping[str, Basis]
"""One basis per node layer, by the layer's name."""
