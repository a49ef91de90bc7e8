"""Small random networks, sections and backends, the command, and where the references are."""

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from libgraph.accumulate import Data
from libgraph.backend import Backend, Batch
from libgraph.network import Network, NodeLayer
from libgraph.sections import (
    Attention,
    Chain,
    Convolution,
    Division,
    Function,
    GatedMLP,
    Linear,
    Parallel,
    Section,
    SkipMLP,
    Variance,
    windows,
)
from libgraph_backends.modular_addition import TrainingOptions
from libgraph_backends.modular_addition_training import initial_weights
from libgraph_cli.main import main

ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
}
ATTENTIONS = {
    "attention": {"causal": True},
    "attention-full": {"causal": False},
    "attention-last": {"last_only": True},
    "attention-local": {"window": 2},
    "attention-grouped": {"causal": False},
    "attention-rotary": {},
    "attention-rotary-full": {"causal": False},
    "attention-rotary-last": {"last_only": True},
    "attention-prefix": {},
    "attention-rotary-prefix": {"window": 3},
}
FUNCTIONS = ["positionwise", "mixing", "pooling"]
NORMS = ["variance", "division"]
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
    "linear", *ACTIVATIONS, "gated", *NORMS, *ATTENTIONS, *FUNCTIONS, "rebased", *COMPOSITES
]  # fmt: skip


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference results that lies beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not path.is_dir():
        pytest.skip(f"the reference results are not at '{path}'")
    return path


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal shapes, and entries that agree relative to the largest."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach(), expected.detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    assert float((actual - expected).abs().max()) <= tolerance * (scale or 1.0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


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
    if kind == "division":
        # ε keeps what stands under the root positive whatever the input.
        variance = 0.1 * normal(generator, d_in, 1)
        return Division(main(), variance, normal(generator, d_in, width), side(width), 20.0)
    if kind in ATTENTIONS:
        shared = heads if kind == "attention-grouped" else 1
        rotary = None
        if "rotary" in kind:
            width += width % 2
            rotary = normal(generator, width // 2)
        q, k, v = (normal(generator, d_in, heads * width // by) for by in (1, shared, shared))
        section = Attention(
            main(), q, k, v, side(heads * width), heads=heads, rotary=rotary, **ATTENTIONS[kind]
        )
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


def random_network(
    kinds: list[str], sizes: list[int], *, seed: int = 0, rotated: bool = True
) -> Network:
    """Sections of these kinds between node layers `l0`, `l1`, … of these sizes plus a constant.

    With `rotated` off the last node layer has no constant and is not rotated, as logits are.
    """
    last = len(kinds)
    layers = [NodeLayer(f"l{i}", size + 1) for i, size in enumerate(sizes)]
    if not rotated:
        layers[last] = NodeLayer(f"l{last}", sizes[last], constant=False, rotated=False)
    sections = [
        random_section(kind, a.size, b.size, seed=100 * seed + i, width=4, constant=b.constant)
        for i, (kind, a, b) in enumerate(zip(kinds, layers, layers[1:], strict=False))
    ]
    return Network(AppendOne(), sections, layers)


class Toy(Backend):
    """Tensors in memory; by default the targets are what the network itself predicts."""

    name = "toy"

    def __init__(self, network: Network, inputs: Tensor, targets: Tensor | None = None) -> None:
        super().__init__()
        self._network, self.inputs = network, inputs
        self.targets = network(inputs)[:, -1].argmax(-1) if targets is None else targets

    def network(self) -> Network:
        return deepcopy(self._network)

    def samples(self, split):
        return len(self.inputs)

    def batches(self, split, batch_size):
        for inputs, targets in zip(
            self.inputs.split(batch_size), self.targets.split(batch_size), strict=True
        ):
            yield Batch(inputs, targets)

    def score(self, outputs, targets):
        return (outputs[:, -1].argmax(-1) == targets).to(outputs.dtype)


class ToyLoss(Toy):
    """The same, scored by cross-entropy."""

    score_name = "cross-entropy"
    higher_is_better = False

    def score(self, outputs, targets):
        return nn.functional.cross_entropy(outputs[:, -1], targets, reduction="none")


def toy_data(network: Network, inputs: Tensor, **options) -> Data:
    return Data(Toy(network, inputs), "train", **options)


TINY = TrainingOptions(modulus=7, d_model=8, heads=2, d_mlp=12)


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in initial_weights(TINY).items()}


@pytest.fixture
def model(tmp_path, weights) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in this process: `(exit code, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["libgraph", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def analyze(run, model, tmp_path):
    def call(*arguments: object, out: Path | None = None) -> tuple[int, str, str]:
        where = ("--out", out or tmp_path / "run")
        return run("analyze", "modular-addition", "-o", f"weights={model}", *where, *arguments)

    return call


def fails(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """The exit code, and one sentence with these parts in it; no traceback."""
    found, _, err = result
    assert found == code, err
    text = " ".join(err.split())
    assert "Traceback" not in text
    for part in parts:
        assert part in text
