"""Bases with a cross-layer transcoder: its latents at their own node layer, and on the way from it.

Each writes into MLPs of later blocks as well, and is a feature of all node layers up to the last of
them. Blocks that are no part of the analysis have no latents: what these write is in errors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.memory import memory_budget
from libgraph.backend.data import Data
from libgraph.dictionaries.weights import CrossLayerWeights, DictionaryWeights
from libgraph.errors import BackendError, TooLarge, UsageError
from libgraph.files.limits import in_bytes
from libgraph.network.basis import Bases, Basis
from libgraph.network.cross_layer import crossing, with_carried
from libgraph.network.network import Network
from libgraph.network.transcoder import Transcoder
from libgraph.sections.linear import Linear

log = logging.getLogger("libgraph")


def check_cross_layer(
    by_layer: Mapping[str, DictionaryWeights], network: Network
) -> dict[str, CrossLayerWeights]:
    """The node layers of a cross-layer transcoder, in order; none where there is no such thing.

    Says which blocks write into the analysis and are no part of it.

    Args:
        by_layer: dictionaries by the node layer that they belong to.
        network: whose node layers these are.

    Raises:
        UsageError: if other dictionaries are beside it, or it lacks blocks that are analysed.
        BackendError: if a node layer on the way has no constant, beside which latents could go.
    """
    found = {
        layer.name: weights
        for layer in network.node_layers
        if isinstance(weights := by_layer.get(layer.name), CrossLayerWeights)
    }
    if not found:
        return {}
    blocks = [*found.values()]
    first, last, folder = blocks[0], blocks[-1], blocks[0].path.parent
    for weights in by_layer.values():
        if weights.path.parent != folder or not isinstance(weights, CrossLayerWeights):
            raise UsageError(
                f"'{folder}' is a cross-layer transcoder, and '{weights.path}' is beside it: give "
                "a folder with one of them."
            )
    missing = [
        layer.name
        for layer in network.node_layers
        if layer.passage is not None and layer.name not in found
    ]
    if missing:
        raise UsageError(
            f"'{folder}' has blocks 0 to {first.blocks - 1}, none of them at {', '.join(missing)}: "
            "it is of another model, or fewer blocks are to be analysed, such as with "
            f"layers={first.block}:{first.blocks}."
        )
    for layer in network.node_layers[1:]:
        if not layer.constant and layer.name != network.node_layers[-1].name:
            raise BackendError(
                f"Node layer '{layer.name}' has no constant, beside which latents of "
                f"'{folder}' could go on."
            )
    for name, weights in found.items():
        later = [other for other, each in found.items() if each.block > weights.block]
        if later:
            log.info("%s: its latents write into %s too.", name, ", ".join(later))
    if first.block:
        log.warning(
            "Latents of blocks before %s, %d of them, write into the MLPs of this analysis and are "
            "no part of it: what they write counts as error.",
            next(iter(found)),
            first.block,
        )
    if last.block + 1 < last.blocks:
        log.info(
            "What latents write into the MLPs of %d blocks after %s is no part of this analysis.",
            last.blocks - last.block - 1,
            [*found][-1],
        )
    return found


def check_size(
    network: Network,
    latents: Mapping[str, int],
    data: Data,
    others: Mapping[str, int] | None = None,
) -> None:
    """Raise unless edges fit into memory: two numbers of 8 bytes for each, and a batch's own.

    Args:
        network: whose layer pairs they are of.
        latents: how many features there are where some are latents, by node layer.
        data: with the budget.
        others: how many there are elsewhere, where they are not as many as coordinates.

    Raises:
        TooLarge: naming the node layer with most latents.
    """
    sizes = {layer.name: layer.size for layer in network.node_layers}
    sizes |= {**(others or {}), **latents}
    taken = sum(24 * sizes[a.name] * sizes[b.name] for a, b, _ in network.pairs)
    budget = data.memory if data.memory is not None else memory_budget(data.device)
    if taken > budget:
        largest = max(latents, key=lambda name: latents[name])
        raise TooLarge(
            f"Edges between latents ({sizes[largest]} are active at {largest}) take "
            f"{in_bytes(taken)}, more than the memory budget of {in_bytes(budget)}: use a "
            "larger memory=, fewer node layers, or a smaller dictionary."
        )


@dataclass(frozen=True)
class _Going:
    """Latents of one block that go on.

    Args:
        block: its number.
        writes: what they write, into its own MLP and those after it.
        power: by node layer where they write, the mean square of what that does after it.
    """

    block: int
    writes: Float[Tensor, "k b m"]
    power: Mapping[str, Float[Tensor, " k"]]


def with_cross_layer(
    network: Network,
    bases: Bases,
    weights: Mapping[str, CrossLayerWeights],
    squares: Mapping[str, Float[Tensor, " k"]],
    data: Data,
) -> dict[str, Basis]:
    """Bases with the latents of earlier blocks carried, wherever they still write something.

    Importance of a carried latent is what it does where it writes, at a node layer on the way what
    it has still to do: Σ_m E z² ‖D_m C'‖².

    Args:
        network: without latents.
        bases: of all its node layers, transcoders with latents of their own alone among them.
        weights: by node layer of these transcoders, in order.
        squares: mean squares of all latents of their files.
        data: with the memory budget.

    Raises:
        TooLarge: if edges between latents do not fit it.
    """
    _check_carried(network, bases, weights, data)
    seen = _seen(network, bases, weights)
    last = [*weights][-1]
    found, going, passed = dict(bases), list[_Going](), set[str]()
    for layer in network.node_layers:
        basis, own = bases[layer.name], weights.get(layer.name)
        if isinstance(basis, Transcoder) and own is not None:
            writes = [each.writes[:, own.block - each.block] for each in going]
            power = [each.power[layer.name] for each in going]
            nothing = basis.decoder.new_zeros(0, basis.decoder[:, basis.written].shape[1])
            found[layer.name] = crossing(
                basis,
                torch.cat([nothing, *writes]),
                torch.cat([nothing.new_zeros(0), *power]),
                goes_on=layer.name != last,
            )
            going.append(_going(basis, own, squares[layer.name], weights, seen))
            passed.add(layer.name)
        elif going and last not in passed:
            still = [
                torch.stack([power for name, power in each.power.items() if name not in passed])
                for each in going
            ]
            found[layer.name] = with_carried(basis, torch.cat([power.sum(0) for power in still]))
    return found


def _going(
    basis: Transcoder,
    own: CrossLayerWeights,
    squares: Float[Tensor, " k"],
    weights: Mapping[str, CrossLayerWeights],
    seen: Mapping[str, Tensor],
) -> _Going:
    """The latents of a block that are features, in their order."""
    if basis.numbers is None:
        raise AssertionError("transcoders from files know their latents")
    writes = own.decoders()[basis.numbers.cpu()].to(basis.decoder)
    size = squares.to(writes)[basis.numbers]
    power = {
        name: size * (writes[:, later.block - own.block] @ seen[name]).square().sum(1)
        for name, later in weights.items()
        if later.block > own.block
    }
    return _Going(own.block, writes, power)


def _seen(
    network: Network, bases: Bases, weights: Mapping[str, CrossLayerWeights]
) -> dict[str, Float[Tensor, "m k_after"]]:
    """What the next node layer's features read of the written coordinates."""
    found = {}
    for layer, after, section in network.pairs:
        basis = bases[layer.name]
        if layer.name in weights and isinstance(basis, Transcoder) and isinstance(section, Linear):
            reading = section.matrix.to(basis.decoder) @ bases[after.name].encoder.to(basis.decoder)
            found[layer.name] = reading[basis.written]
    return found


def _check_carried(
    network: Network, bases: Bases, weights: Mapping[str, CrossLayerWeights], data: Data
) -> None:
    """Raise a `TooLarge` unless the edges of carried latents fit into memory too."""
    going, sizes = 0, {}
    last = [*weights][-1]
    for layer in network.node_layers:
        basis = bases[layer.name]
        sizes[layer.name] = len(basis) + going
        if layer.name in weights:
            going += len(basis) - basis.always
        if layer.name == last:
            going = 0
    latents = {name: sizes.pop(name) for name in weights}
    check_size(network, latents, data, sizes)
