"""What dictionaries are learned from: activations and gradients of each node layer, kept in memory.

A gradient says what the next node layer reads: J v at an activation, with v normal over the next
one's coordinates. As activations are sums of few directions that were written, so gradients are
sums of few that are read, and both are of the latents that are active.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.kept_activations import KeptActivations
from libgraph.accumulate.memory import memory_budget
from libgraph.backend.data import Data
from libgraph.bases.learned.coordinates import Coordinates
from libgraph.bases.learned.options import LAYER_BYTES, PROBES, SAMPLES
from libgraph.errors import NumericalError
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.sections import Section


@dataclass(frozen=True)
class LayerSamples:
    """Of one node layer, a row for each sample and position; samples are those of other layers.

    Args:
        x: activations `(n, s, d)`, in the precision of the data.
        u: the same in the coordinates of the dictionary, in single precision.
        gradients: `(n, s, r, m)`, of mean square 1 in all; None where nothing follows that could
            tell directions apart, or the next layer does not read this one.
    """

    x: Float[Tensor, "n s d"]
    u: Float[Tensor, "n s m"]
    gradients: Float[Tensor, "n s r m"] | None


def layer_samples(
    network: Network,
    places: Mapping[str, Coordinates],
    lib: Bases,
    data: Data,
    *,
    probes: bool,
    generator: torch.Generator,
) -> dict[str, LayerSamples]:
    """Samples of all node layers that have coordinates.

    Args:
        network: as for every method.
        places: coordinates by node layer.
        lib: whose features of the next node layer gradients are of, whatever is measured in.
        data: its first samples are taken, as many as memory allows and `SAMPLES` positions have.
        probes: whether gradients are wanted.
        generator: draws what they are of.
    """
    activations = KeptActivations(network, data)
    found: dict[str, LayerSamples] = {}
    last = len(network.node_layers) - 1
    for index in reversed(range(len(network.node_layers))):
        place = places.get(network.node_layers[index].name)
        if place is None:
            continue
        with torch.no_grad():
            x = torch.cat([compute() for compute in activations.at(index)])
            u = (x.double() @ place.into.to(x.device)).float()
        gradients = None
        if probes and index < last:
            following = lib[network.node_layers[index + 1].name]
            section = _still(network.sections[index])
            gradients = _gradients(section, x, following.encoder.to(x), place, generator)
        found[place.layer.name] = LayerSamples(x, u, gradients)
    return {name: found[name] for name in places}


def most_samples(data: Data, positions: int, size: int) -> int:
    """Samples that are kept: all that are asked for, if memory holds them.

    Args:
        data: whose first samples they are.
        positions: of a sample, at most.
        size: coordinates of the widest node layer.
    """
    free = data.memory if data.memory is not None else memory_budget(data.device)
    room = min(LAYER_BYTES, free // 4)
    fitting = room // (positions * size * (8 + 4 * (1 + PROBES)))
    return max(1, min(data.limit or SAMPLES, SAMPLES // positions, fitting))


@torch.enable_grad()
def _gradients(
    section: Section, x: Tensor, encoder: Tensor, place: Coordinates, generator: torch.Generator
) -> Tensor | None:
    """Σ_t J_ts v_t in the coordinates u, v drawn anew for every sample, position and probe."""
    parts = []
    out = place.out.to(x)
    for batch in x.split(max(1, 4096 // x.shape[1])):
        x_in = batch.detach().requires_grad_()
        y = section(x_in) @ encoder
        rows = []
        for probe in range(PROBES):
            v = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
            (gradient,) = torch.autograd.grad(y, x_in, v, retain_graph=probe + 1 < PROBES)
            rows.append((gradient @ out.T).float())
        parts.append(torch.stack(rows, dim=2))
    gradients = torch.cat(parts).detach()
    if not bool(gradients.isfinite().all()):
        raise NumericalError(
            f"Gradients at node layer '{place.layer.name}' are NaN or infinite: check the weights."
        )
    size = gradients.square().sum(-1).mean().sqrt()
    return gradients / size if float(size) > 0 else None


def _still(section: Section) -> Section:
    """The section, or a copy whose parameters gather no gradients."""
    if any(parameter.requires_grad for parameter in section.parameters()):
        return deepcopy(section).requires_grad_(False)
    return section
