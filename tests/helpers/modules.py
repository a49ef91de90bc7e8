"""Modules of all kinds that people bring: layers in any order, shared, hooked, wrapped."""

import random

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

ACTIVATIONS = (
    lambda inplace: nn.ReLU(inplace),
    lambda inplace: nn.LeakyReLU(0.3, inplace),
    lambda inplace: nn.ELU(0.7, inplace),
    lambda inplace: nn.SiLU(inplace),
    lambda inplace: nn.Mish(inplace),
    lambda inplace: nn.Hardtanh(-0.5, 0.4, inplace),
    lambda inplace: nn.ReLU6(inplace),
    lambda _: nn.GELU("tanh"),
    lambda _: nn.Softplus(2.0, 5.0),
    lambda _: nn.Tanh(),
    lambda _: nn.Identity(),
)


class Scaled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Leaky(nn.ReLU):
    """An activation with a forward of its own."""

    def forward(self, x):
        return functional.leaky_relu(x, 0.2)


class Backwards(nn.Sequential):
    """A Sequential that calls its parts from the last one on."""

    def forward(self, x):
        for part in reversed(self):
            x = part(x)
        return x


class Residual(nn.Sequential):
    """A Sequential that adds what came in."""

    def forward(self, x):
        y = super().forward(x)
        return x + y if x.shape == y.shape else 3 * y


class Plain(nn.Module):
    """A module around another, which does what it says."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


class Functional(Plain):
    """One that does something to the outputs that no module says."""

    def forward(self, x):
        return functional.relu(self.net(x))


class Normalized(Plain):
    """One with buffers for its inputs."""

    def __init__(self, net):
        super().__init__(net)
        self.register_buffer("mean", torch.tensor(0.3))

    def forward(self, x):
        return self.net(x - self.mean)


def random_module(seed, d_in=3):
    """A small module in double precision, as wild as the seed has it."""
    chance = random.Random(seed)  # noqa: S311
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts, shared, width = [], [], d_in
        for _ in range(chance.randint(1, 4)):
            square = [part for part in shared if part.in_features == part.out_features == width]
            if square and chance.random() < 0.4:
                parts.append(chance.choice(square))
            else:
                parts.append(_linear(chance, width))
                width = parts[-1].out_features
                shared.append(parts[-1])
            parts.extend(_between(chance, parts, width))
        module = _container(chance)(*parts)
        if chance.random() < 0.5:
            module = chance.choice([Plain, Plain, Plain, Functional, Normalized, nn.DataParallel])(
                module
            )
        if chance.random() < 0.2:
            _hook(chance, chance.choice(list(module.modules())))
    return module.double().train(chance.random() < 0.5)


def _linear(chance, width):
    kind = Scaled if chance.random() < 0.1 else nn.Linear
    d_out = chance.choice([width, width, chance.randint(1, 5)])
    layer = kind(width, d_out, bias=chance.random() < 0.8)
    wild = chance.random()
    if wild < 0.1:
        return parametrizations.weight_norm(layer)
    return parametrizations.orthogonal(layer) if wild < 0.15 else layer


def _between(chance, parts, width):
    kind = chance.random()
    old = [part for part in parts if isinstance(part, nn.ReLU)]
    if kind < 0.15 and old:
        return [chance.choice(old)]
    if kind < 0.18:
        return [chance.choice([nn.BatchNorm1d(width), nn.LayerNorm(width), Leaky()])]
    if kind < 0.4:
        return [nn.Dropout(0.5)]
    made = chance.choice(ACTIVATIONS)(chance.random() < 0.5)
    return [nn.Sequential(made)] if kind < 0.5 else [made]


def _container(chance):
    return chance.choice([*[nn.Sequential] * 6, Backwards, Residual])


def _hook(chance, part):
    if chance.random() < 0.5:
        part.register_forward_hook(lambda _, __, y: None)
    elif chance.random() < 0.5:
        part.register_forward_hook(lambda _, __, y: y + 0.1)
    else:
        part.register_forward_pre_hook(lambda _, x: (0.9 * x[0],))
