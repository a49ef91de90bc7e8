"""Small random sections of every kind, by name."""

import torch
from torch import Tensor, nn

from helpers.numbers import normal, seeded
from libgraph.sections import (
    Attention,
    AttentionMask,
    Chain,
    Convolution,
    Divided,
    Division,
    Function,
    GatedMLP,
    GroupSquare,
    Length,
    Linear,
    Parallel,
    Section,
    SkipMLP,
    Variance,
    windows,
)

ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
}
ATTENTIONS = {
    "attention": AttentionMask(),
    "attention-full": AttentionMask(causal=False),
    "attention-last": AttentionMask(last_only=True),
    "attention-local": AttentionMask(window=2),
    "attention-grouped": AttentionMask(causal=False),
    "attention-rotary": AttentionMask(),
    "attention-rotary-full": AttentionMask(causal=False),
    "attention-rotary-last": AttentionMask(last_only=True),
    "attention-prefix": AttentionMask(),
    "attention-rotary-prefix": AttentionMask(window=3),
    "attention-capped": AttentionMask(),
    "attention-rotary-capped": AttentionMask(window=2),
}
FUNCTIONS = ["positionwise", "mixing", "pooling"]
NORMS = ["variance", "division", "length", "divided"]
CHAINS = {
    "chain": ("tanh", "division", "gated"),
    "chain-mixing": ("variance", "attention", "tanh"),
}
PARALLELS = {
    "parallel": ("gelu", "attention-rotary", "linear"),
    "parallel-positionwise": ("tanh", "linear", "division"),
    "parallel-mixing": ("attention", "mixing"),
}
COMPOSITES = [*CHAINS, *PARALLELS]
KINDS = [
    "linear", *ACTIVATIONS, "gated", *NORMS, "group-square", *ATTENTIONS, *FUNCTIONS, "rebased",
    *COMPOSITES,
]  # fmt: skip


class AppendOne(nn.Module):
    """Inputs with the constant coordinate appended."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


class Mixed(nn.Module):
    """A map that no structured section knows; positions mix unless it is `positionwise`."""

    def __init__(self, kind: str, a: Tensor, b: Tensor, constant: bool) -> None:
        super().__init__()
        self.kind, self.constant = kind, constant
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mixing":
            x = x + x.cumsum(1).sin()
        elif self.kind == "pooling":
            x = x.square().sum(1, keepdim=True) + x[:, :1]
        y = torch.sin(x @ self.a) + x.square() @ self.b
        return AppendOne()(y[..., :-1]) if self.constant else y


def random_section(
    kind: str,
    d_in: int,
    d_out: int,
    *,
    seed: int = 0,
    heads: int = 2,
    width: int = 2,
    constant: bool = False,
) -> Section:
    """A section of one of `KINDS`, or a convolution of 3 positions.

    With `constant` it maps the last coordinate, 1, to itself.
    `width` is the size of a head, and that of a hidden layer.
    """
    section = _section(kind, d_in, d_out, seed, heads, width, constant)
    # Functions have no tensor of their own that would tell them their dtype.
    return section.double()


def _section(kind, d_in, d_out, seed, heads, width, constant) -> Section:
    generator = seeded(seed)

    def main() -> Tensor:
        matrix = normal(generator, d_in, d_out)
        if constant:
            matrix[:, -1] = 0
            matrix[-1, -1] = 1
        return matrix

    def side(rows: int) -> Tensor:
        matrix = normal(generator, rows, d_out)
        if constant:
            matrix[:, -1] = 0
        return matrix

    if kind == "linear":
        return Linear(main())
    if kind in ACTIVATIONS:
        inner = normal(generator, d_in, width)
        return SkipMLP(main(), inner, side(width), ACTIVATIONS[kind])
    if kind == "gated":
        inner, gate = (normal(generator, d_in, width) for _ in range(2))
        return GatedMLP(main(), inner, gate, side(width))
    if kind == "variance":
        return Variance(main(), normal(generator, d_in, width), side(1))
    if kind == "length":
        return Length(main(), normal(generator, d_in, width), side(1), 0.3)
    if kind == "divided":
        read, stream = (normal(generator, d_in, width) for _ in range(2))
        return Divided(main(), read, stream, side(width), 0.3)
    if kind == "group-square":
        parts = [normal(generator, d_in, width) for _ in range(2)]
        mean = normal(generator, d_in, d_out)
        if constant:
            mean[:, -1] = 0
        return GroupSquare(main(), mean, *parts, side(width))
    if kind == "division":
        # ε keeps what stands under the root positive whatever the input.
        variance = 0.1 * normal(generator, d_in, 1)
        return Division(main(), variance, normal(generator, d_in, width), side(width), 20.0)
    if kind in ATTENTIONS:
        mask, shared = ATTENTIONS[kind], heads if kind == "attention-grouped" else 1
        rotary = None
        if "rotary" in kind:
            width += width % 2
            rotary = normal(generator, width // 2)
        q, k, v = (normal(generator, d_in, heads * width // by) for by in (1, shared, shared))
        section = Attention(
            main(), q, k, v, side(heads * width), heads=heads, mask=mask, rotary=rotary,
            soft_cap=1.5 if "capped" in kind else None,
        )  # fmt: skip
        return section.with_prefix(normal(generator, 2, d_in)) if "prefix" in kind else section
    if kind == "convolution-of-3":
        reads = windows((3,), kernel=3, padding=1)
        skip = normal(generator, 3, d_in, d_out)
        if constant:
            # The middle offset is the one that is never outside, and carries the constant on.
            skip[:, :, -1] = 0
            skip[1, -1, -1] = 1
        inner = normal(generator, 3, d_in, width)
        return Convolution(skip, inner, side(width), reads)
    if kind in CHAINS:
        # Widths that differ, so that the narrowest place is inside; the constant survives all.
        sizes = [d_in, max(d_in - 1, 1), d_in + 1, d_out]
        sizes = [size + constant for size in sizes[:3]] + sizes[3:] if constant else sizes
        sizes[0] = d_in
        return Chain(
            [
                _section(part, a, b, seed + i, heads, width, constant)
                for i, (part, a, b) in enumerate(zip(CHAINS[kind], sizes, sizes[1:], strict=False))
            ]
        )
    if kind in PARALLELS:
        branches = [
            _section(part, d_in, d_out, seed + i, heads, width, constant)
            for i, part in enumerate(PARALLELS[kind])
        ]
        if constant:
            # One branch carries the constant on, the others leave it alone.
            rest = torch.eye(d_out).double()
            rest[-1, -1] = 0
            branches[1:] = [branch.double().rebase(encoder=rest) for branch in branches[1:]]
        return Parallel(branches)
    if kind == "rebased":
        inside = random_section("mixing", d_in, d_out, seed=seed, constant=constant)
        encoder = torch.eye(d_out) if constant else normal(generator, d_out, d_out)
        return inside.rebase(normal(generator, d_in, d_in), encoder.double())
    function = Mixed(kind, normal(generator, d_in, d_out), normal(generator, d_in, d_out), constant)
    return Function(function, d_in, d_out, positionwise=kind == "positionwise")
