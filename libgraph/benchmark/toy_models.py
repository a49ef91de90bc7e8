"""Toy models of superposition: N features that a network passes through d < N dimensions.

x̂ = ReLU(x W Wᵀ + b), trained to give back sparse inputs (Elhage et al., 2022), with or without an
identity layer in the middle, as in the papers on parameter decomposition (arXiv 2501.14926,
2506.20790): features are on with probability 0.05 and uniform on [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.benchmark.known import Known
from libgraph.benchmark.planted import AppendOne
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Linear, Section, SkipMLP

PROBABILITY, RATE, DECAY = 0.05, 5e-3, 0.01


@dataclass(frozen=True)
class ToyModel:
    """What is trained.

    Args:
        features: N.
        dimensions: d.
        identity: whether an identity layer stands between.
        batch: of training.
        steps: of AdamW.
        samples: that are analysed.
        seed: of all of it.
    """

    features: int
    dimensions: int
    identity: bool
    batch: int
    steps: int = 10_000
    samples: int = 20_000
    seed: int = 0

    @property
    def name(self) -> str:
        """Such as 5 in 2, identity."""
        between = ", identity" if self.identity else ""
        return f"{self.features} in {self.dimensions}{between}"


TOY_MODELS = tuple(
    ToyModel(features, dimensions, identity, batch)
    for features, dimensions, batch in ((5, 2, 1024), (40, 10, 8192))
    for identity in (False, True)
)
"""The four of the papers."""


def toy_model(model: ToyModel) -> Known:
    """Train it, and say what is true of it: features are rows of W."""
    weights, bias = trained(model.features, model.dimensions, model.batch, model.steps, model.seed)
    count, size = weights.shape
    into = torch.zeros(count + 1, size + 1, dtype=torch.float64)
    into[:count, :size], into[-1, -1] = weights, 1
    names = ["hidden", *(["identity"] if model.identity else [])]
    sections: list[Section] = [Linear(into)]
    if model.identity:
        sections.append(Linear(torch.eye(size + 1, dtype=torch.float64)))
    inner = torch.cat([weights.T, bias.unsqueeze(0)])
    out = torch.eye(count, dtype=torch.float64)
    sections.append(SkipMLP(torch.zeros(size + 1, count, dtype=torch.float64), inner, out))
    layers = [
        NodeLayer("inputs", count + 1, rotated=False),
        *(NodeLayer(name, size + 1) for name in names),
        NodeLayer("outputs", count, constant=False, rotated=False),
    ]
    generator = torch.Generator().manual_seed(model.seed + 1)
    return Known(
        model.name,
        Network(AppendOne(), sections, layers),
        _inputs(model.samples, count, generator).double().unsqueeze(1),
        dict.fromkeys(names, weights),
    )


@lru_cache
def trained(
    features: int, dimensions: int, batch: int, steps: int, seed: int
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """W and b, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        weights = torch.empty(features, dimensions)
        nn.init.xavier_normal_(weights, generator=generator)
        weights.requires_grad_()
        bias = torch.zeros(features, requires_grad=True)
        optimizer = torch.optim.AdamW([weights, bias], lr=RATE, weight_decay=DECAY)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            x = _inputs(batch, features, generator)
            loss = (torch.relu(x @ weights @ weights.T + bias) - x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weights.detach().double(), bias.detach().double()


def _inputs(count: int, features: int, generator: torch.Generator) -> Tensor:
    on = torch.rand(count, features, generator=generator) < PROBABILITY
    return on * torch.rand(count, features, generator=generator)
