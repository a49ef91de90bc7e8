"""What questions are asked of: a network that runs, its data, and the features of one basis.

A graph is an average over data; whatever tests it needs the network again. Means of features, which
interventions and baselines are made from, are taken over the data that interactions came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Backend, Batch
from libgraph.backend.data import Data
from libgraph.errors import DataError, UsageError
from libgraph.network.basis import Bases, Basis
from libgraph.network.cross_layer import CrossLayer, carrying
from libgraph.network.network import Network, NodeLayer
from libgraph.sections.carrying import look_again

MOST_DONORS = 1024
"""Samples that resampled values come from, at most."""


@dataclass(frozen=True)
class Usual:
    """What the features of a node layer usually are, over samples.

    Args:
        mean: `(k)`, over positions too.
        at_positions: `(s, k)`.
        deviation: `(k)`, over samples and positions.
    """

    mean: Float[Tensor, " k"]
    at_positions: Float[Tensor, "s k"]
    deviation: Float[Tensor, " k"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its data and the features of one basis.

    Args:
        network: in the dtype and on the device of the data; with the latents that bases carry.
        backend: scores its outputs.
        bases: of its node layers, in any precision.
        data: samples that are asked about, usually the test split.
        reference: samples that means and resampled values are of, usually the train split.
    """

    network: Network
    backend: Backend
    bases: Bases
    data: Data
    reference: Data

    def __post_init__(self) -> None:
        look_again()
        object.__setattr__(self, "network", carrying(self.network, self.bases))
        missing = [layer for layer in self.layers if layer not in self.bases]
        if missing:
            raise UsageError(f"The bases have no node layer {', '.join(missing)}.")

    def require_linear(self, what: str) -> None:
        """Raise a `UsageError` if features are not linear in activations, which this needs."""
        latent = [name for name, basis in self.bases.items() if basis.always < len(basis)]
        if latent:
            raise UsageError(
                f"{what} needs features that are linear in activations, and those at "
                f"{', '.join(latent[:3])} are latents of dictionaries: "
                "ask in another basis with basis='…'."
            )

    def require_own_latents(self, what: str) -> None:
        """Raise a `UsageError` if latents are carried to other node layers than their own."""
        if any(isinstance(basis, CrossLayer) for basis in self.bases.values()):
            raise UsageError(
                f"{what} does not take latents of cross-layer transcoders: ask in another basis "
                "with basis='…'."
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the node layers."""
        return tuple(layer.name for layer in self.network.node_layers)

    @cached_property
    def cast(self) -> Mapping[str, Basis]:
        """Bases in the precision and on the device of the data."""
        dtype, device = self.data.dtype, torch.device(self.data.device)
        return {
            name: basis.to(device, dtype)
            for name, basis in self.bases.items()
            if name in self.layers
        }

    def named(self, layer: str) -> NodeLayer:
        """The node layer of a name."""
        return self.network.node_layers[self.layers.index(layer)]

    @cached_property
    def usual(self) -> Mapping[str, Usual]:
        """Means and deviations of all features over the reference, from one pass.

        Raises:
            DataError: if samples have different numbers of positions.
        """

        def measure(batch: Batch) -> Sums:
            sums: dict[str, Tensor] = {"count": torch.tensor(float(len(batch.inputs)))}
            for name, f in self.features(batch.inputs).items():
                sums[name] = f.double().sum(0)
                sums[f"{name} squares"] = f.double().square().sum(0)
            return sums

        try:
            sums = accumulate(self.reference, measure)
        except RuntimeError as error:
            raise DataError(
                "Means of features need samples of one length: those of the "
                f"{self.reference.split} split differ ({error})."
            ) from error
        count = float(sums["count"])
        usual = {}
        for name in self.layers:
            at_positions = sums[name] / count
            mean = at_positions.mean(0)
            square = sums[f"{name} squares"].mean(0) / count
            deviation = (square - mean.square()).clamp(min=0).sqrt()
            usual[name] = Usual(
                *(part.to(self.data.dtype) for part in (mean, at_positions, deviation))
            )
        return usual

    @cached_property
    def mean_activations(self) -> Mapping[str, Float[Tensor, "s d"]]:
        """Mean activation of every position at each node layer, over the reference."""

        def measure(batch: Batch) -> Sums:
            activations = self.network.activations(batch.inputs)
            sums = {
                name: x.double().sum(0) for name, x in zip(self.layers, activations, strict=True)
            }
            return {**sums, "count": torch.tensor(float(len(batch.inputs)))}

        sums = accumulate(self.reference, measure)
        return {
            name: (sums[name] / sums["count"].to(sums[name])).to(self.data.dtype)
            for name in self.layers
        }

    @cached_property
    def donors(self) -> Tensor:
        """Raw inputs that resampled values come from: the first of the reference."""
        return next(iter(replace(self.reference, batch_size=MOST_DONORS, limit=MOST_DONORS))).inputs

    def features(self, inputs: Tensor) -> dict[str, Float[Tensor, "n s k"]]:
        """Features of every node layer."""
        with torch.no_grad():
            return {
                layer.name: self.cast[layer.name].features(x)
                for layer, x in zip(
                    self.network.node_layers, self.network.activations(inputs), strict=True
                )
            }

    def logits(self, outputs: Float[Tensor, "n t d"]) -> Float[Tensor, "n t c"]:
        """What the backend makes of outputs: one number for each class or token."""
        return self.backend.logits(outputs)[..., : self.classes(outputs.shape[-1])]

    @property
    def continues(self) -> bool:
        """Whether outputs continue inputs, as with language models."""
        return type(self.backend).continued is not Backend.continued

    @property
    def has_logits(self) -> bool:
        """Whether logits are something else than outputs."""
        return type(self.backend).logits is not Backend.logits

    def classes(self, size: int) -> int | None:
        """How many of so many outputs are classes: none of them is the constant."""
        constant = self.network.node_layers[-1].constant
        return size - 1 if constant and not self.has_logits else None

    def class_names(self, numbers: Sequence[int]) -> list[str]:
        """What these classes or tokens are called, their numbers where they have no name."""
        return list(self.backend.class_names(numbers))
