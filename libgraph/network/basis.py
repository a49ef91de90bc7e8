"""A basis of one node layer: two matrices.

The encoder C takes activations to features, f = x C, the decoder C⁺ takes features back, x ≈ f C⁺.
Features are sorted by importance, after the isolated ones (the constant first), which are features
of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor


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

    def features(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        """What activations have of each feature."""
        return x @ self.encoder

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
