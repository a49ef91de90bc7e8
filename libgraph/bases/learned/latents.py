"""One dictionary while it is learned: its latents, and what they miss of activations and gradients.

Latents read along the columns of the encoder and write along the rows of the decoder. Of an
activation the error is what latents do not write; of a gradient, what does not pass through them:
the same dictionary backwards, with the latents that the activation has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libgraph.bases.learned.coordinates import Weights

PARTS = ("encoder", "bias", "decoder", "centre")
"""What is learned of a dictionary."""


class Latents(NamedTuple):
    """Those that are active, at every row.

    Args:
        places: which, by falling activation; those that are not active among them are of value 0.
        values: activations.
        pre: pre-activations of all latents `(n, k)`.
    """

    places: Int[Tensor, "n a"]
    values: Float[Tensor, "n a"]
    pre: Float[Tensor, "n k"]

    @property
    def open(self) -> Bool[Tensor, "n a"]:
        """Whether each of `places` is active."""
        return self.values > 0


@dataclass(frozen=True)
class Learner:
    """The dictionary of a node layer.

    Args:
        parameters: leaves by the names in `PARTS`; decoder rows may have any length.
        active: latents at once.
    """

    parameters: Mapping[str, Tensor]
    active: int

    @property
    def encoder(self) -> Float[Tensor, "m k"]:
        """Columns are what latents read."""
        return self.parameters["encoder"]

    @property
    def decoder(self) -> Float[Tensor, "k m"]:
        """Rows of length 1 are what latents write."""
        return torch.nn.functional.normalize(self.parameters["decoder"], dim=1)

    def weights(self) -> Weights:
        """As they are now."""
        with torch.no_grad():
            return Weights(
                self.encoder.clone(),
                self.parameters["bias"].clone(),
                self.decoder,
                self.parameters["centre"].clone(),
            )

    def latents(self, u: Float[Tensor, "n m"]) -> Latents:
        """The k largest at each row, as far as they are positive."""
        pre = (u - self.parameters["centre"]) @ self.encoder + self.parameters["bias"]
        values, places = pre.topk(min(self.active, pre.shape[1]), dim=1)
        return Latents(places, values.relu(), pre)

    def written(self, latents: Latents) -> Float[Tensor, "n m"]:
        """What they add up to, without the centre."""
        if self.decoder.shape[0] <= 4 * latents.places.shape[1]:
            z = torch.zeros_like(latents.pre).scatter(1, latents.places, latents.values)
            return z @ self.decoder
        rows = torch.nn.functional.embedding(latents.places, self.decoder)
        return (latents.values.unsqueeze(1) @ rows).squeeze(1)

    def error(self, u: Float[Tensor, "n m"], latents: Latents) -> Float[Tensor, "n m"]:
        """ε."""
        return u - self.parameters["centre"] - self.written(latents)

    def unread(self, gradients: Float[Tensor, "n r m"], latents: Latents) -> Float[Tensor, "n r m"]:
        """g − Σ_i (D_i · g) C_i over active latents: what of gradients does not pass through them.

        Nothing is left where the gradient is a sum of active latents' encoders, and none of these
        latents writes what another one reads.
        """
        on = torch.zeros_like(latents.pre).scatter(1, latents.places, latents.open.to(latents.pre))
        passed = (gradients @ self.decoder.T) * on.unsqueeze(1)
        return gradients - passed @ self.encoder.T

    def revived(
        self, error: Float[Tensor, "n m"], latents: Latents, dead: Bool[Tensor, " k"]
    ) -> Float[Tensor, ""]:
        """Mean square of what dead latents leave of the error, if they alone may explain it."""
        count = min(self.active, int(dead.sum()))
        values, places = latents.pre.masked_fill(~dead, -torch.inf).topk(count, dim=1)
        z = torch.zeros_like(latents.pre).scatter(1, places, values.relu())
        return (error.detach() - z @ self.decoder).square().mean()
