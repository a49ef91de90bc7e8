"""Planted interactions between more features than there are dimensions.

Directions of features are spread apart, and hidden by a random invertible change of basis at every
node layer. A section reads each feature back, ReLU of the projection on its direction less a
threshold, and writes its targets' directions at the next node layer. The last one gives out what
it reads, a neuron for each feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.benchmark.known import Known
from libgraph.network.network import Network, NodeLayer
from libgraph.sections.skip_mlp import SkipMLP

STRETCH = 3.0
"""A change of basis stretches no direction by more than this, and shrinks none by more."""


@dataclass(frozen=True)
class Design:
    """What to plant.

    Args:
        features: N.
        dimensions: d < N; or N, for features that share none.
        layers: node layers with features.
        probability: of each feature at the first of them.
        targets: of each feature at the next node layer, within its module.
        modules: how many.
        threshold: below which a projection is nothing.
        samples: of the data.
        learned: False to give the sections random weights, in which nothing is to be found.
        read: whether the network ends with what is read of each feature.
        seed: of all of it.
    """

    features: int = 24
    dimensions: int = 12
    layers: int = 3
    probability: float = 0.05
    targets: int = 2
    modules: int = 4
    threshold: float = 0.35
    samples: int = 20_000
    learned: bool = True
    read: bool = True
    seed: int = 0


class AppendOne(nn.Module):
    """The constant after all coordinates."""

    def forward(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n s d_plus_1"]:
        """x, 1."""
        return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def planted(design: Design) -> Known:
    """A network of the design, in double precision."""
    generator = torch.Generator().manual_seed(design.seed)
    count, size = design.features, design.dimensions
    module = torch.arange(count) % design.modules
    layers = [NodeLayer(f"x{i}", size + 1) for i in range(design.layers)]
    directions = [spread_directions(count, size, generator) for _ in layers]
    changes = [_change(size, generator) for _ in layers]
    maps = [_targets(design, module, generator) for _ in layers[1:]]
    present = torch.rand(design.samples, count, generator=generator, dtype=torch.float64)
    sizes = 0.5 + torch.rand(design.samples, count, generator=generator, dtype=torch.float64)
    values = (present < design.probability) * sizes
    written = [w @ change for w, change in zip(directions, changes, strict=True)]
    sections = []
    for i in range(design.layers - 1 + design.read):
        last = i == design.layers - 1
        read = torch.linalg.solve(changes[i], directions[i].T)
        writes = torch.eye(count).double() if last else maps[i] @ written[i + 1]
        if not design.learned:
            read = _normal(read.shape, generator) * read.norm() / read.numel() ** 0.5
            writes = _normal(writes.shape, generator) * writes.norm() / writes.numel() ** 0.5
        inner = torch.cat([read, torch.full((1, count), -design.threshold).double()])
        outer = writes if last else torch.cat([writes, torch.zeros(count, 1).double()], dim=1)
        skip = torch.zeros(size + 1, outer.shape[1]).double()
        if not last:
            skip[-1, -1] = 1
        sections.append(SkipMLP(skip, inner, outer))
    names = [layer.name for layer in layers]
    if design.read:
        layers.append(NodeLayer("read", count, constant=False, rotated=False))
    shared = "planted" if count > size else "separate"
    return Known(
        shared if design.learned else "random weights",
        Network(AppendOne(), sections, layers),
        (values @ written[0]).unsqueeze(1),
        dict(zip(names, written, strict=True)),
        {(a, b): (m.T > 0).numpy() for a, b, m in zip(names, names[1:], maps, strict=False)},
        tuple(module.tolist()),
    )


def spread_directions(
    count: int, size: int, generator: torch.Generator, steps: int = 400
) -> Float[Tensor, "k d"]:
    """Unit vectors whose largest cosines have been made small; orthogonal if there is room."""
    if count <= size:
        orthogonal: Tensor = torch.linalg.qr(_normal((size, size), generator)).Q[:count]
        return orthogonal
    with torch.enable_grad():
        vectors = _normal((count, size), generator).requires_grad_()
        optimizer = torch.optim.Adam([vectors], lr=0.02)
        others = 1 - torch.eye(count).double()
        for _ in range(steps):
            unit = nn.functional.normalize(vectors, dim=1)
            loss = ((unit @ unit.T) * others).pow(6).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return nn.functional.normalize(vectors.detach(), dim=1)


def _change(size: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    left, right = (torch.linalg.qr(_normal((size, size), generator)).Q for _ in range(2))
    exponents = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
    change: Tensor = left * STRETCH**exponents @ right
    return change


def _targets(design: Design, module: Tensor, generator: torch.Generator) -> Float[Tensor, "k k"]:
    """M: a row for each feature, with a one for each of its targets."""
    chance = torch.rand(len(module), len(module), generator=generator, dtype=torch.float64)
    chance[module.unsqueeze(1) != module] = -1
    chosen = chance.topk(design.targets, dim=1).indices
    return torch.zeros_like(chance).scatter(1, chosen, 1.0)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chance_of_edges(known: Known) -> float:
    """Average precision of edges in no order."""
    return float(np.mean([edges.mean() for edges in known.edges.values()]))
