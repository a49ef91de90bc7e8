"""What `libgraph.testing` finds in sections and backends that break their contract."""

from copy import deepcopy

import pytest
import torch
from helpers.jacobians import RULES, Shape, build
from helpers.networks import Toy, small_network
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS, random_section
from torch.func import jacrev

from libgraph.graph.features import FeatureLabel
from libgraph.sections import Attention, Function, Linear, SkipMLP
from libgraph.sections.estimate import Estimate
from libgraph.testing import CHECKS, Jacobians, check_backend, check_section
from libgraph.testing.comparison import require_close

SHAPE = Shape(3, 2, 3, 3, 2, 4, 2, 2)


def changed(cls, name, change):
    """A class of which one method's result is changed."""
    method = getattr(cls, name)
    return type(
        f"Changed{cls.__name__}",
        (cls,),
        {name: lambda self, *arguments: change(method(self, *arguments))},
    )


def fails_with(message, section, x, **options):
    with pytest.raises(AssertionError, match=message):
        check_section(section, x, name="it", **options)


def scaled(by):
    return lambda result: by * result


def later(change):
    """Changes what the function that is returned returns."""
    return lambda function: lambda *arguments: change(function(*arguments))


@pytest.mark.parametrize(
    ("kind", "method", "change", "message"),
    [
        ("attention", "jacobian_gram", scaled(1 + 1e-11), "jacobian_gram differs .* by 1.0e-11"),
        ("attention", "jacobian_gram", torch.Tensor.float, "jacobian_gram is summed up in .*32"),
        ("gelu", "interactions", scaled(1 + 1e-11), r"interactions \(gradient\) differ .* 1.0e-11"),
        ("gelu", "interactions", torch.Tensor.float, r"interactions is summed up in torch.float32"),
        ("gelu", "interactions", lambda e: e.T, r"interactions .*: shape \(4, 2\), not \(2, 4\)"),
        ("gelu", "linearize", later(scaled(1.001)), "linearize differs .* by 1.0e-03 of the larg"),
        ("attention", "effects", later(scaled(1.001)), r"effects \(gradient\) differ .* 1.0e-03"),
        ("attention", "signed_effects", later(scaled(2)), r"signed_effects \(gradient\) differ"),
        ("gelu", "seen", lambda seen: (seen[0], seen[1].T), r"seen gives factors .*\(2, 4\)"),
        ("attention", "diagonal_product", scaled(1.001), "diagonal_product differs .* 1.0e-03"),
        ("linear", "masked", scaled(1.001), "masked differs from leaving inputs out: by 1.0e-03"),
        ("gelu", "masked", scaled(1.001), "masked differs from leaving inputs out: by 1.0e-03"),
    ],
)
def test_a_closed_form_that_is_wrong_is_named(kind, method, change, message):
    section, x = build(kind, SHAPE)
    check_section(section, x, quadratures=RULES, features=4)
    section.__class__ = changed(type(section), method, change)
    fails_with(f"^it: {message}", section, x, quadratures=RULES, features=4)


def test_an_estimate_is_of_the_draws_or_exact():
    section, x = build("gelu", SHAPE)
    total = lambda estimate: Estimate(1.001 * estimate.total, estimate.variance)  # noqa: E731
    for change, passes in (
        (total, False),
        (lambda estimate: Estimate.exact(estimate.total), False),
        (lambda estimate: Estimate(estimate.total, 1.001 * estimate.variance), False),
        (lambda estimate: Estimate(estimate.total, estimate.variance.float()), False),
        (lambda estimate: estimate, True),
    ):
        section.__class__ = changed(SkipMLP, "estimate", change)
        if passes:
            check_section(section, x)
        else:
            fails_with(r"^it: estimate", section, x)


def test_a_rebase_that_is_wrong_is_named():
    class Scaled(Linear):
        def transform(self, left, right):
            return Linear(2 * right(left(self.matrix)))

    class Forgetful(Linear):
        def transform(self, left, right):
            return Linear(left(self.matrix))

    matrix, x = normal(seeded(0), 3, 2), normal(seeded(1), 2, 3, 3)
    checks = ["rebase"]
    fails_with("other coordinates: rebase changes the map", Scaled(matrix), x, checks=checks)
    fails_with(r"rebase makes a section of sizes \(4, 2\)", Forgetful(matrix), x, checks=checks)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda x: x - x.mean(0), {}, "samples see each other, or order matters"),
        (lambda x: x - x.mean(1, keepdim=True), {"positionwise": True}, "says it is positionwise"),
        (lambda x: x[..., :2], {}, r"maps \(2, 4, 3\) to \(2, 4, 2\), but says .* positions, 3\)"),
        (lambda x: x.flatten(1), {}, r"maps \(2, 4, 3\) to \(2, 12\), but says that it maps"),
    ],
)
def test_a_map_that_is_no_section_is_told(function, options, message):
    section = Function(function, 3, 3, **options).double()
    fails_with(message, section, normal(seeded(0), 2, 4, 3), checks=["forward"])


def test_weights_are_what_forward_multiplies_by():
    x = normal(seeded(0), 2, 4, 3)
    section = random_section("gated", 3, 2)
    section.readers = ("inner",)
    fails_with(
        r"readers and writers are \['inner', 'outer'\], .* \['gate', 'inner', 'ou", section, x
    )

    class Other(SkipMLP):
        def factor(self, name):
            return 2 * super().factor(name) if name == "outer" else super().factor(name)

        def product(self, x, name):
            z = x @ getattr(self, name)
            return z if self.watcher is None else self.watcher(self, name, x, z)

    section = random_section("gelu", 3, 2)
    section.__class__ = Other
    fails_with("product is not what the factor 'outer' makes of its input: by 5", section, x)

    class Unlike(SkipMLP):
        def forward(self, x):
            return super().forward(x) * (1 if self.watcher is None else 2)

    section.__class__ = Unlike
    fails_with("maps otherwise while it is watched: by 1.0e\\+00", section, x)


def test_only_known_checks_are_made():
    section, x = build("gelu", SHAPE)
    section.__class__ = changed(SkipMLP, "jacobian_gram", scaled(2))
    check_section(section, x, checks=set(CHECKS) - {"jacobian_gram", "rebase"})
    with pytest.raises(ValueError, match="There are no checks gram: take forward, weights, lin"):
        check_section(section, x, checks=["gram"])


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_too_large_to_hold_are_not_held(kind, monkeypatch):
    monkeypatch.setattr("libgraph.testing.jacobians.DENSE_ELEMENTS", 1)
    monkeypatch.setattr(
        "libgraph.testing.jacobians._dense", lambda section, x: pytest.fail("Jacobians were held.")
    )
    section, x = build(kind, SHAPE)
    check_section(section, x, quadratures=RULES)


@pytest.mark.parametrize("method", ["jacobian_gram", "interactions"])
def test_closed_forms_of_large_sections_are_checked(method, monkeypatch):
    monkeypatch.setattr("libgraph.testing.jacobians.DENSE_ELEMENTS", 1)
    section, x = build("attention", SHAPE)
    section.__class__ = changed(Attention, method, scaled(1 + 1e-11))
    fails_with(f"it: {method} .*1.0e-11 of the largest entry", section, x)


@pytest.mark.parametrize("kind", ["mixing", "attention-last", "gelu"])
def test_jacobians_are_derivatives(kind):
    """Those of torch, a sample at a time, and differences of outputs."""
    section, x = build(kind, SHAPE)
    jacobians = Jacobians(section, x)
    decoder, encoder = normal(seeded(4), 5, 3), normal(seeded(5), 2, 4)
    for point in (1.0, 0.5):
        for sample, expected in zip(x, jacobians.at(point), strict=True):
            full = jacrev(lambda x: section(x.unsqueeze(0)).squeeze(0))(point * sample)
            assert_close(full.permute(0, 2, 3, 1), expected)
            seen = jacobians.rebased(decoder).rebased(encoder=encoder).at(point)
            assert seen.shape[-2:] == (5, 4)
    tangents, step = normal(seeded(6), 2, 1, 3, 3), 1e-6
    moved = section(x + step * tangents[:, 0]) - section(x - step * tangents[:, 0])
    assert_close(jacobians.derivative(tangents)[:, 0], moved / (2 * step), 1e-7)
    assert_close(
        jacobians.rebased(decoder, encoder).at(), decoder @ jacobians.at() @ encoder, 1e-14
    )


def test_jacobians_of_a_point_are_taken_once(monkeypatch):
    section, x = build("gelu", SHAPE)
    taken = []
    from libgraph.testing import jacobians

    dense = jacobians._dense
    monkeypatch.setattr(jacobians, "_dense", lambda *given: taken.append(1) or dense(*given))
    check_section(section, x, quadratures=RULES)
    # α is 1, 0, ½, and the two points of Gauss and Legendre.
    assert len(taken) == 5


@pytest.mark.parametrize(
    ("error", "condition", "agree"),
    [(1e-14, 1, True), (1e-11, 1, False), (1e-11, 100, True), (1e-9, 100, False),
     (1e-5, 1e12, False)],
)  # fmt: skip
def test_rounding_explains_more_where_the_condition_is_worse(error, condition, agree):
    arguments = (torch.ones(2).double() + error, torch.ones(2).double(), "result")
    if agree:
        require_close(*arguments, terms=1, condition=lambda: condition)
    else:
        with pytest.raises(AssertionError, match=f"result: by {error:.1e} of the largest"):
            require_close(*arguments, terms=1, condition=lambda: condition)


@pytest.mark.parametrize("rest", [1.0, 1e-2, 1e-4])
def test_the_condition_is_that_of_cancelling_terms(rest):
    """A map that takes back all but a part of what it adds."""
    inner, outer = normal(seeded(0), 3, 4), normal(seeded(1), 4, 2)
    section = SkipMLP((rest - 1) * inner @ outer, inner, outer, activation=lambda h: 1.0 * h)
    jacobians = Jacobians(section, normal(seeded(2), 2, 3, 3))
    assert 0.3 / rest < jacobians.condition(Jacobians.gram) < 30 / rest
    check_section(section, jacobians.x, checks=["jacobian_gram", "interactions"])


def test_not_a_number_is_no_agreement():
    with pytest.raises(AssertionError, match="result: by nan"):
        require_close(torch.full((2,), torch.nan), torch.ones(2), "result", terms=1)
    require_close(torch.zeros(0), torch.zeros(0), "nothing", terms=1)


class Keeping(Toy):
    """A backend that keeps the contract, as long as nothing is changed."""

    def __init__(self):
        super().__init__(*small_network())


def test_a_backend_that_keeps_the_contract():
    check_backend(Keeping())


def another_network(backend):
    network = backend._network
    backend.network = lambda: network.double()


def networks_that_differ(backend):
    networks = [small_network()[0], small_network(("tanh", "tanh", "linear"))[0]]
    backend.network = lambda: deepcopy(networks.pop())


def wrong_count(backend):
    backend.samples = lambda split: 13


def large_batches(backend):
    batches = backend.batches
    backend.batches = lambda split, size: batches(split, size + 3)


def missing_targets(backend):
    backend.targets = torch.cat([backend.targets, backend.targets[:2]])[: len(backend.inputs)]
    batches = backend.batches
    backend.batches = lambda split, size: (
        batch._replace(targets=batch.targets[1:]) for batch in batches(split, size)
    )


def order_of_chance(backend):
    batches = backend.batches
    turns = iter(range(10))

    def turned(split, size):
        turn = next(turns)
        return (batch._replace(inputs=batch.inputs.roll(turn, 0)) for batch in batches(split, size))

    backend.batches = turned


def no_constant(backend):
    backend._network.embed = ScaledOne(backend._network.embed)


class ScaledOne(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y = self.inner(x)
        return torch.cat([y[..., :-1], 2 * y[..., -1:]], dim=-1)


def one_score(backend):
    backend.score = lambda outputs, targets: outputs.mean()


def infinite_scores(backend):
    backend.score = lambda outputs, targets: outputs[:, 0, 0] / 0


def too_many_labels(backend):
    backend.labels = lambda encode, bases: {"l0": [FeatureLabel("a", {"a": 1.0})] * 3}


def strange_labels(backend):
    backend.labels = lambda encode, bases: {"l9": [FeatureLabel("a", {"a": 1.0})] * 2}


def wrong_section(backend):
    section = backend._network.sections[1]
    section.__class__ = changed(type(section), "jacobian_gram", scaled(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_network, "same object twice"),
        (networks_that_differ, "another network the second time"),
        (wrong_count, r"samples\('train'\) is 13, but batches have 12"),
        (large_batches, "the train split has a batch of 10 samples where 7 were asked for"),
        (missing_targets, "more inputs than targets"),
        (order_of_chance, "the train split comes in another order the second time"),
        (no_constant, "the last coordinate of node layer 'l0' is not 1: by 1.0e"),
        (wrong_section, "^l1->l2: jacobian_gram differs from automatic differentiation: by 1.0e"),
        (one_score, r"score returns shape \(\), not one score per sample"),
        (infinite_scores, "score returns NaN or infinity"),
        (too_many_labels, "3 labels for 2 features of node layer 'l0'"),
        (strange_labels, "labels are for 'l9', which is no rotated node layer"),
    ],
)
def test_a_backend_that_breaks_the_contract_is_told(change, message):
    backend = Keeping()
    change(backend)
    with pytest.raises(AssertionError, match=message):
        check_backend(backend)
