"""Interactions between the features of neighbouring node layers: the edges of the graph.

How strongly input feature j drives output feature i, by the Jacobian between them times the
feature's own size, squared and averaged over the data: exactly, or estimated from random signs. All
bases and all layer pairs are measured in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.pieces import Piece
from libgraph.accumulate.reached import AtPairs, Reached
from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.data import Data
from libgraph.edges.latent_pairs import LatentPairs
from libgraph.graph.arrays import Pair
from libgraph.network.basis import Bases, Basis
from libgraph.network.cross_layer import carrying
from libgraph.network.network import Network
from libgraph.progress import Progress, silent
from libgraph.sections.estimate import Estimate
from libgraph.sections.quadrature import Quadrature
from libgraph.sections.section import Section

LARGE = 2**26
"""Bytes of weights above which they are not held a second time."""


Edges = dict[Pair, Float[Tensor, "out in"]]
"""Interactions `[out, in]` by (input node layer, output node layer)."""


class Interactions(NamedTuple):
    """Interactions in every basis, and how sure they are.

    Args:
        edges: by name of the basis.
        errors: standard errors of the edges, in the same form; empty where edges are exact.
        missed: of layer pairs with dictionaries, by basis, how far interactions are from adding up
            to the change of pre-activations along the path: the root of the mean square, relative.
    """

    edges: dict[str, Edges]
    errors: dict[str, Edges]
    missed: Mapping[str, Mapping[Pair, float]] = MappingProxyType({})


def interactions(
    network: Network,
    bases: Mapping[str, Bases],
    data: Data,
    quadrature: Quadrature,
    progress: Progress = silent,
) -> dict[str, Edges]:
    """E_ij = (1/nT) Σ_x Σ_t (Σ_s f_sj ∫dα Ĵ_ts(αx)_ji)² for each of the named bases.

    T is the number of input positions. In float64, whatever the dtype of the data. Source:
    docs/math.md §3.
    """
    return estimate_interactions(network, bases, data, quadrature, 0, progress=progress).edges


def estimate_interactions(
    network: Network,
    bases: Mapping[str, Bases],
    data: Data,
    quadrature: Quadrature,
    signs: int,
    seed: int = 0,
    progress: Progress = silent,
) -> Interactions:
    """E_ij ≈ (1/nTR) Σ_x Σ_r (Σ_t φ_rt R_tji)², φ_rt = ±1 at random, with its standard error.

    The signs of a sample do not depend on the batches, and are the same in all bases. Layer pairs
    with no more output positions than draws are exact, at no more cost. Source: docs/math.md §3.

    Args:
        network: whose sections are measured.
        bases: by name.
        data: what is averaged over.
        quadrature: of the path from zero to the activation.
        signs: R, draws for each sample, at least 2; 0 to compute all layer pairs exactly.
        seed: of the signs.
        progress: told after every layer pair of a batch.
    """
    cast = {
        (name, layer): basis.to(data.dtype)
        for name, by_layer in bases.items()
        for layer, basis in by_layer.items()
    }
    # Latents of earlier node layers go beside the activations in bases that carry some.
    networks = {name: carrying(network, by_layer) for name, by_layer in bases.items()}
    carriers = {name: each for name, each in networks.items() if each is not network}
    latent = {
        (name, a.name): LatentPairs(section, cast[name, a.name], cast[name, b.name], quadrature)
        for name in bases
        for a, b, section in networks[name].pairs
        if _is_latent(cast[name, a.name]) or _is_latent(cast[name, b.name])
    }

    # Of one layer pair at a time where together they are a second, large model in each basis.
    @lru_cache(maxsize=len(bases) if network.weight_bytes > LARGE else None)
    def read_by(name: str, index: int) -> Section:
        _, b, section = network.pairs[index]
        return section.rebase(encoder=cast[name, b.name].encoder)

    chances = [_Signs(signs, data.batch_size, seed) for seed in _seeds(len(network.pairs), seed)]

    def measure(piece: Piece[Reached]) -> Sums:
        number, first, reached = piece
        a, b, _ = network.pairs[reached.index]
        x, y, *others = reached.activations
        phi = chances[reached.index].of(number, first, y)
        sums = {f"{a.name} samples": torch.tensor(x.shape[0] * x.shape[1], dtype=torch.float64)}
        with_latents = dict(zip(carriers, zip(others[::2], others[1::2], strict=True), strict=True))
        for name in bases:
            if (name, a.name) in latent:
                found = latent[name, a.name].sums(*with_latents.get(name, (x, y)))
                sums[f"{name} {a.name} {b.name}"] = found.edges
                sums[f"{name} {a.name} {b.name} missed"] = found.missed
                sums[f"{name} {a.name} {b.name} change"] = found.change
                continue
            basis, section = cast[name, a.name], read_by(name, reached.index)
            estimate = measured(section, x, basis.features(x), basis.decoder, quadrature, phi)
            sums[f"{name} {a.name} {b.name}"] = estimate.total
            if signs:
                sums[f"{name} {a.name} {b.name} variance"] = estimate.variance
        return sums

    steps = AtPairs(data, [network, *carriers.values()])
    sums = accumulate(steps, measure, stage="interactions", progress=progress)

    edges: dict[str, Edges] = {name: {} for name in bases}
    errors: dict[str, Edges] = {name: {} for name in bases if signs}
    missed: dict[str, dict[Pair, float]] = {}
    for a, b, _ in network.pairs:
        samples = sums[f"{a.name} samples"]
        for name in bases:
            edges[name][a.name, b.name] = sums[f"{name} {a.name} {b.name}"] / samples
            if (name, a.name) in latent:
                found, change = (
                    float(sums[f"{name} {a.name} {b.name} {part}"]) for part in ("missed", "change")
                )
                missed.setdefault(name, {})[a.name, b.name] = math.sqrt(found / (change or 1.0))
        for name in errors:
            variance = sums.get(f"{name} {a.name} {b.name} variance")
            edge = edges[name][a.name, b.name]
            errors[name][a.name, b.name] = (
                # Pairs of latents are exact.
                torch.zeros_like(edge) if variance is None else variance.sqrt() / samples
            )
    return Interactions(edges, errors, missed)


def _is_latent(basis: Basis) -> bool:
    """Whether some features have effects only where they are active."""
    return not basis.linear or basis.always < len(basis)


def measured(
    section: Section,
    x: Float[Tensor, "n s d_in"],
    features: Float[Tensor, "n s k"],
    decoder: Float[Tensor, "k d_in"],
    quadrature: Quadrature,
    signs: Float[Tensor, "r n t"],
) -> Estimate:
    """A section's interactions: estimated where that takes less than one draw a position."""
    draws, _, positions = signs.shape
    if 0 < draws < positions:
        return section.estimate(x, features, decoder, quadrature, signs)
    return Estimate.exact(section.interactions(x, features, decoder, quadrature))


def draw_signs(
    draws: int, like: Float[Tensor, "n t d"], generator: torch.Generator
) -> Float[Tensor, "r n t"]:
    """±1 with equal chances, sample after sample: cut in batches or not, the signs are the same."""
    flips = torch.randint(0, 2, (len(like), draws, like.shape[1]), generator=generator)
    return (2 * flips - 1).transpose(0, 1).to(like)


class _Signs:
    """Signs of the samples of one layer pair, in the order of the data.

    Those of batches that other ranks measure, or that were measured before an interruption, are
    drawn and left out: the signs of a sample are always the same.

    Args:
        draws: for each sample.
        batch_size: samples in every batch but the last.
        seed: of the layer pair.
    """

    def __init__(self, draws: int, batch_size: int, seed: int) -> None:
        self.draws, self.batch_size = draws, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.next = 0
        self.latest: tuple[int, int] | None = None
        self.before = self.generator.get_state()

    def of(self, number: int, first: int, like: Float[Tensor, "n t d"]) -> Float[Tensor, "r n t"]:
        """Those of the batch of this number from its first-th sample on; both rise.

        What did not fit into memory is asked for again, in part, and gets the same.
        """
        if self.latest == (number, first):
            self.generator.set_state(self.before)
        while self.next < number and self.draws:
            shape = (self.batch_size, self.draws, like.shape[1])
            torch.randint(0, 2, shape, generator=self.generator)
            self.next += 1
        self.next = number + 1
        self.latest, self.before = (number, first), self.generator.get_state()
        return draw_signs(self.draws, like, self.generator)


def _seeds(count: int, seed: int) -> list[int]:
    """For each layer pair one of its own, as unlike as those of other seeds."""
    sequences = np.random.SeedSequence([seed, 0]).spawn(count)
    return [int(sequence.generate_state(1)[0]) for sequence in sequences]
