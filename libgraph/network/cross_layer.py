"""Cross-layer transcoders: latents that write into what later parts put out, and are carried there.

Node layers hold the whole state at their depth, so latents go on beside the activations, before
the constant, from their own node layer to the last that they write at. Each is a feature of all
node layers on the way. Source: docs/math.md §10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.network.basis import Bases, Basis
from libgraph.network.dictionary import Gate, Threshold
from libgraph.network.network import Network, NodeLayer
from libgraph.network.transcoder import Transcoder
from libgraph.sections.beside import Beside
from libgraph.sections.section import Section


@dataclass(frozen=True, kw_only=True)
class CrossLayer(Transcoder):
    """At a part's node layer: o = s + Σ z D + c + ε over its own latents and those carried there.

    Latents of its own come first, then the carried ones, each read off its own coordinate.

    Args:
        own: latents that are read here.
        kept: coordinates of latents: of those carried here, then of its own if they go on.
    """

    own: int
    kept: slice

    @property
    def own_latents(self) -> slice:
        """Where those are that are read here."""
        return slice(self.always, self.always + self.own)

    def activations(
        self, pre: Float[Tensor, "*n k"], x: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n d"]:
        """Other features than those of x in its place, also where they go on."""
        changed = super().activations(pre, x)
        changed[..., self.kept] = (pre * self.active(pre, x)) @ self.decoder[:, self.kept]
        return changed


@dataclass(frozen=True, kw_only=True)
class CarriedLatents(Basis):
    """At a node layer on the way: features of its activations, then the latents carried past it.

    Args:
        carried: how many these are.
    """

    carried: int

    @property
    def always(self) -> int:
        """Carried latents have effects only where they are active."""
        return len(self) - self.carried

    def to(self, *where: Any) -> CarriedLatents:
        """The same in another precision or on another device."""
        return CarriedLatents(**vars(super().to(*where)), carried=self.carried)


def threshold_of(gate: Gate) -> Float[Tensor, " k"]:
    """Above which latents of a cross-layer transcoder are active.

    Raises:
        TypeError: if the gate is of another kind.
    """
    if not isinstance(gate, Threshold):
        raise TypeError("A cross-layer transcoder has thresholds.")
    return gate.threshold.clamp(min=0)


def carrying(network: Network, bases: Bases) -> Network:
    """The network with the latents that bases carry beside its activations; mostly as it is.

    Args:
        network: of the model, without latents.
        bases: of some of its node layers, or all.
    """
    crossing = [
        place
        for place, layer in enumerate(network.node_layers)
        if isinstance(bases.get(layer.name), CrossLayer)
    ]
    if not crossing:
        return network
    counts = [0]
    for place, layer in enumerate(network.node_layers[1:], start=1):
        basis = bases.get(layer.name)
        # Where nothing is known of a node layer they go past it, to the last that reads them.
        past = counts[-1] if place < crossing[-1] else 0
        counts.append(past if basis is None else len(basis.encoder) - layer.size)
    layers = [
        replace(layer, size=layer.size + count, passage=None) if count else layer
        for layer, count in zip(network.node_layers, counts, strict=True)
    ]
    sections = [
        _beside(section, target, bases.get(target.name), before, after)
        for (_, target, section), before, after in zip(
            network.pairs, counts[:-1], counts[1:], strict=True
        )
    ]
    return Network(network.embed, sections, layers)


def _beside(
    section: Section, target: NodeLayer, basis: Basis | None, before: int, after: int
) -> Section:
    """A section with so many latents before and after it."""
    if not before and not after:
        return section
    like = _like(section)
    reading, threshold = like.new_zeros(section.d_out, 0), like.new_zeros(0)
    if isinstance(basis, CrossLayer) and after > before:
        state = [*range(target.size - 1), len(basis.encoder) - 1]
        reading = basis.encoder[state][:, basis.own_latents].to(like)
        threshold = threshold_of(basis.gate)[: basis.own].to(like)
    return Beside(section, before, reading, threshold, ends=after == 0)


def _like(section: Section) -> Tensor:
    """Something in the precision and on the device of a section, which may not have been cast."""
    tensors = (*section.parameters(), *section.buffers())
    return next(
        (each for each in tensors if each.numel() and each.is_floating_point()), tensors[0]
    ).detach()


def origins(bases: Bases) -> dict[str, list[tuple[str, int]]]:
    """Where carried latents are from: by node layer, the name and feature of each, in order.

    Args:
        bases: of all node layers, in order.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    going: list[tuple[str, int]] = []
    for name, basis in bases.items():
        if isinstance(basis, CarriedLatents | CrossLayer):
            found[name] = list(going)
        if isinstance(basis, CrossLayer):
            going += [(name, feature) for feature in range(*basis.own_latents.indices(len(basis)))]
    return found


def of_model(bases: Bases, layers: Sequence[NodeLayer]) -> dict[str, Basis]:
    """Bases in the coordinates that the model has, without those of latents beside them.

    Args:
        bases: of these node layers.
        layers: without latents.
    """
    found = dict(bases)
    for layer in layers:
        basis = bases[layer.name]
        if len(basis.encoder) > layer.size:
            there = [*range(layer.size - 1), len(basis.encoder) - 1]
            found[layer.name] = Basis(
                basis.encoder[there],
                basis.decoder[:, there],
                basis.importance,
                basis.isolated,
                basis.rotated,
            )
    return found


# Bases with latents beside them


def stretched(
    matrix: Float[Tensor, "a b"], rows: int, columns: int = 0
) -> Float[Tensor, "a_more b_more"]:
    """A matrix with so many rows of zeros before the last one, and columns before the last."""
    for axis, count in ((0, rows), (1, columns)):
        shape = list(matrix.shape)
        shape[axis] = count
        parts = matrix.split([matrix.shape[axis] - 1, 1], dim=axis)
        matrix = torch.cat([parts[0], matrix.new_zeros(shape), parts[1]], dim=axis)
    return matrix


def with_carried(basis: Basis, importance: Float[Tensor, " c"]) -> CarriedLatents:
    """A basis of a node layer on the way, with the latents carried past it.

    Args:
        basis: of its activations, whose last coordinate is the constant.
        importance: of these latents.
    """
    size, count = len(basis.encoder), len(importance)
    into = basis.encoder.new_zeros(size + count, count)
    into[size - 1 : -1] = torch.eye(count).to(into)
    return CarriedLatents(
        torch.cat([stretched(basis.encoder, count), into], dim=1),
        torch.cat([stretched(basis.decoder.T, count).T, into.T]),
        torch.cat([basis.importance, importance.to(basis.importance)]),
        basis.isolated,
        basis.rotated,
        carried=count,
    )


def crossing(
    basis: Transcoder,
    writes: Float[Tensor, "c m"],
    importance: Float[Tensor, " c"],
    *,
    goes_on: bool,
) -> CrossLayer:
    """A transcoder of its own latents, with those that are carried there.

    Args:
        basis: whose last coordinate is the constant, with thresholds.
        writes: what carried latents write.
        importance: of these.
        goes_on: whether its own latents write at later node layers too.
    """
    size, count, own = len(basis.encoder), len(writes), len(basis) - basis.always
    beside = count + own * goes_on
    kept = slice(size - 1, size - 1 + beside)
    into = basis.encoder.new_zeros(size + beside, count)
    into[kept][:count] = torch.eye(count).to(into)
    out = into.T.clone()
    out[:, basis.written] = writes.to(out)
    decoder = stretched(basis.decoder.T, beside).T.clone()
    if goes_on:
        decoder[basis.always :, kept][:, count:] = torch.eye(own).to(decoder)
    gate = Threshold(torch.cat([threshold_of(basis.gate), into.new_zeros(count)]))
    return CrossLayer(
        torch.cat([stretched(basis.encoder, beside), into], dim=1),
        torch.cat([decoder, out]),
        torch.cat([basis.importance, importance.to(basis.importance)]),
        basis.isolated,
        basis.rotated,
        gate=gate,
        dead=basis.dead,
        numbers=basis.numbers,
        carried=basis.carried,
        base=stretched(basis.base, beside),
        written=basis.written,
        passing=basis.passing,
        own=own,
        kept=kept,
    )
