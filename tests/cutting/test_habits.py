"""Habits of people's own models that cutting has to see through, or to refuse in one sentence."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import libgraph as lg
from libgraph.cutting.capture import doubled, outputs_of
from libgraph.testing import check_section

CHEAP = ("forward", "linearize", "jacobian_gram", "interactions")


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Formula(nn.Module):
    """A function, with a linear layer before."""

    def __init__(self, function, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.function = nn.Linear(width, width), function

    def forward(self, x):
        return self.function(x, self.linear(x))


def attention(masked):
    return Formula(lambda x, q: x + masked(q @ x.mT, torch.ones(4, 4).tril()).softmax(-1) @ x)


def turned(x, q):
    angles = torch.outer(torch.arange(4.0), torch.tensor([1.0, 0.1, 0.01]))
    pairs = torch.view_as_complex(q.transpose(1, 2).reshape(-1, 3, 2, 4).permute(0, 3, 1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def emptied(x, y):
    y = functional.relu(y)
    y[..., 0] = 0.0
    return y


OUTSIDE = normal(6)
"""In single precision, and of no module that could be cast."""


class Kept(nn.Module):
    """Keeps what it last computed, and constants in lists."""

    def __init__(self):
        super().__init__()
        self.linear, self.others = nn.Linear(6, 4), {"weights": [normal(3, 4)]}
        self(normal(2, 6))

    def forward(self, x):
        self.last = torch.tanh(self.linear(x))
        return functional.linear(self.last, self.others["weights"][0])


def old_weight_norm():
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2))


def tokens():
    return torch.randint(0, 9, (4, 5), generator=torch.Generator().manual_seed(1))


STREAM = normal(5, 4, 6)
CASES = {
    "filled with zero": (
        lambda: attention(lambda a, m: a.masked_fill(m == 0, torch.tensor(0.0))),
        STREAM,
        3,
    ),
    "zero elsewhere": (lambda: attention(lambda a, m: torch.where(m.bool(), a, 0.0)), STREAM, 3),
    "hidden where": (
        lambda: attention(lambda a, m: torch.where(m == 0, torch.tensor(-torch.inf), a)),
        STREAM,
        0,
    ),
    "complex rotation": (lambda: Formula(turned), STREAM, None),
    "written in place": (lambda: Formula(emptied), STREAM, 0),
    "root unsqueezed": (
        lambda: Formula(lambda x, y: x * (y * y).mean(-1).add(1e-6).rsqrt()[..., None]),
        STREAM,
        None,
    ),
    "norm unsqueezed": (
        lambda: Formula(lambda x, y: y * (y * y).mean(-1).add(1e-6).rsqrt().unsqueeze(-1)),
        STREAM,
        0,
    ),
    "norm by einsum": (
        lambda: Formula(
            lambda x, y: y * (torch.einsum("...d,...d->...", y, y) + 1.0)[..., None] ** -0.5
        ),
        STREAM,
        0,
    ),
    "kept tensors": (Kept, normal(5, 6), 0),
    "tensors of the file": (
        lambda: Formula(lambda x, y: torch.relu(y * OUTSIDE) @ torch.tensor([[0.5]] * 6)),
        normal(5, 6),
        0,
    ),
    "casts between": (
        lambda: Formula(lambda x, y: x + y.softmax(-1, dtype=torch.float32) @ OUTSIDE.diag()),
        normal(5, 6),
        None,
    ),
    "weight norm as it was": (old_weight_norm, normal(5, 6), 0),
    "wrapped twice": (
        lambda: nn.DataParallel(torch.compile(nn.DataParallel(nn.Linear(6, 2)))),
        normal(5, 6),
        0,
    ),
    "bags": (lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Tanh(), nn.Linear(4, 2)), tokens(), 0),
    "bags with padding": (
        lambda: nn.Sequential(nn.EmbeddingBag(9, 4, padding_idx=2, mode="sum"), nn.Tanh()),
        tokens(),
        0,
    ),
}
"""A model, its inputs, and how many sections are known to automatic differentiation, if few."""


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("name", CASES)
def test_what_people_write_is_cut(name):
    make, x, functions = CASES[name]
    torch.manual_seed(0)
    model = make()
    network = lg.cut(model, x)
    given = x.double() if x.is_floating_point() else x
    # Other data than it was cut with.
    given = given.flip(1)
    with torch.no_grad():
        expected = outputs_of(doubled(model), (given,))
        actual = network.last.to_value(network(given))
        assert float((actual - expected).abs().max()) < 1e-9 * float(expected.abs().max())
        if functions is not None:
            assert [row.how for row in network.rows].count("autodiff") == functions, str(network)
        for rows, (a, b, section) in zip(
            network.activations(given[:2]), network.pairs, strict=False
        ):
            check_section(section, rows, name=f"{a.name}->{b.name}", checks=CHEAP)


class Concatenated(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, y], -1).tanh()


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (Formula(lambda x, y: y - y.mean(0)), normal(1, 6), "for a sample alone"),
        (Formula(lambda x, y: y - y.mean(0)), torch.ones(4, 6), "for a sample alone"),
        (nn.Identity(), normal(4, 3), "gives what it takes, unchanged"),
        (Concatenated(), (normal(4, 3), normal(4, 2)), "samples in several inputs"),
    ],
)
def test_what_is_no_function_of_each_sample_is_refused(model, inputs, message):
    with pytest.raises(lg.BackendError, match=message):
        lg.cut(model, inputs)


def test_what_something_is_divided_by_is_isolated():
    """Left out it would be zero, and all infinite."""
    network = lg.cut(Formula(lambda x, y: functional.normalize(y, dim=-1)), STREAM)
    isolated = {layer.name: layer.isolated for layer in network.node_layers}
    assert isolated["function.clamp_min" if "function.clamp_min" in isolated else "clamp_min"]
