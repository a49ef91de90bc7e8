"""What closed forms save: a transformer block that `lg.cut` recognised, against autodiff.

    .venv/bin/python benchmarks/cut.py [--positions 64] [--width 64]

For every section of the block the time of its Jacobian Gram and of its interactions, per sample, as
the section that was found and as a `Function` of the same map.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import libgraph as lg
from libgraph.sections import Function, Section


class Block(nn.Module):
    """A pre-norm block with an attention of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """Attention and MLP, each added to the stream."""
        n, t, d = x.shape
        q, k, v = self.read(self.first(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.write(z.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp(self.second(x))


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = Block(arguments.width, arguments.heads)
    x = torch.randn(arguments.samples, arguments.positions, arguments.width)
    network = lg.cut(model, x)
    print(network.table())
    quadrature = lg.Quadrature.gradient()

    def work(section: Section, x: Tensor) -> None:
        features = torch.randn(*x.shape[:2], x.shape[2], dtype=x.dtype)
        decoder = torch.eye(x.shape[2], dtype=x.dtype)
        section.jacobian_gram(x)
        section.interactions(x, features, decoder, quadrature)

    totals = [0.0, 0.0]
    print("section                           closed form  Function  times")
    with torch.no_grad():
        for x, (a, b, section) in zip(
            network.activations(x.double()), network.pairs, strict=False
        ):
            function = Function(section.forward, section.d_in, section.d_out).double()
            work(section, x)
            closed = seconds(lambda: work(section, x)) / len(x)  # noqa: B023
            derived = seconds(lambda: work(function, x[:1]))  # noqa: B023
            totals = [totals[0] + closed, totals[1] + derived]
            name = f"{a.name} → {b.name}"
            print(f"{name:33} {closed:9.4f} s {derived:8.2f} s {derived / closed:6.0f}")
    print(f"{'all':33} {totals[0]:9.4f} s {totals[1]:8.2f} s {totals[1] / totals[0]:6.0f}")


if __name__ == "__main__":
    main()
