"""The modular-addition backend: planted Fourier terms, the split, weights and the network."""

import math

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph import load_backend
from libgraph.errors import BackendError, NumericalError, UsageError
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.data import all_pairs
from libgraph_backends.modular_addition.labels import fourier_labels, fourier_terms
from libgraph_backends.modular_addition.network import PARAMETERS, check
from libgraph_backends.modular_addition.options import ModularAdditionOptions, TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights

P = 13
phases = st.floats(-3, 3)
frequencies = st.integers(1, P // 2)
few = settings(deadline=None, max_examples=20)


def wave(kx=0, ky=0, phase=0.0, p=P):
    """cos(kx·x + ky·y + phase), frequencies in units of 2π/p, as `(p, p)` with x in rows."""
    x, y = torch.meshgrid(torch.arange(p).double(), torch.arange(p).double(), indexing="ij")
    return torch.cos(2 * math.pi * (kx * x + ky * y) / p + phase)


def assert_terms(found, expected):
    assert list(found) == list(expected)
    for term, (share, frequency) in expected.items():
        assert found[term] == (pytest.approx(share), frequency)


@given(k=frequencies, a=phases, b=phases, mean=phases)
@few
def test_a_wave_in_each_number(k, a, b, mean):
    values = wave(kx=k, phase=a) + wave(ky=k, phase=b) + mean
    assert_terms(fourier_terms(values), {f"cos({k}x) + cos({k}y)": (1, str(k))})


@given(k=frequencies, phase=phases, scale=st.floats(1e-6, 1e6))
@few
def test_waves_of_the_sum_and_of_the_difference(k, phase, scale):
    for sign, term in ((1, f"cos({k}x + {k}y)"), (-1, f"cos({k}x - {k}y)")):
        assert_terms(fourier_terms(scale * wave(k, sign * k, phase)), {term: (1, str(k))})


@given(k=frequencies, m=frequencies, a=phases, b=phases)
@few
def test_products(k, m, a, b):
    values = wave(kx=k, phase=a) * wave(ky=m, phase=b)
    frequency = str(k) if k == m else None
    assert_terms(fourier_terms(values), {f"cos({k}x) * cos({m}y)": (1, frequency)})


def test_waves_of_two_frequencies_belong_to_none():
    assert_terms(fourier_terms(wave(2, -4, 0.3)), {"cos(2x - 4y)": (1, None)})
    assert_terms(fourier_terms(wave(4, 2, 0.3)), {"cos(4x + 2y)": (1, None)})


def test_shares_are_those_of_the_variance_largest_first():
    values = wave(1, 1) + 2 * wave(3, 3) + 0.05 * wave(kx=6) + wave(kx=2) + wave(ky=2)
    total = (1 + 4 + 0.05**2 + 2) / 2
    assert_terms(
        fourier_terms(values),
        {
            "cos(3x + 3y)": (2 / total, "3"),
            "cos(2x) + cos(2y)": (1 / total, "2"),
            "cos(1x + 1y)": (0.5 / total, "1"),
        },
    )


@given(seed=st.integers(0, 1000))
@few
def test_shares_of_any_function_sum_to_at_most_one(seed):
    terms = fourier_terms(normal(seeded(seed), P, P))
    assert 0.8 < sum(share for share, _ in terms.values()) <= 1 + 1e-9
    assert min(share for share, _ in terms.values()) >= 0.005


def test_sum_and_difference_of_unlike_strength_stay_apart():
    terms = fourier_terms(wave(5, 5) + 0.3 * wave(5, -5))
    assert list(terms) == ["cos(5x + 5y)", "cos(5x - 5y)"]
    product = fourier_terms(wave(5, 5) + 0.6 * wave(5, -5))
    assert list(product) == ["cos(5x) * cos(5y)"]


@pytest.mark.parametrize("value", [0.0, 3.7, -1e6])
def test_a_constant_has_no_terms(value):
    values = torch.full((P, P), value)
    assert fourier_terms(values) == {}
    (label,) = fourier_labels(values[..., None, None])
    assert (label.text, dict(label.concepts)) == ("constant", {})


@pytest.mark.parametrize("p", [8, 12])
def test_shares_of_an_even_modulus_sum_to_one(p):
    (share, _), *_ = fourier_terms(wave(kx=p // 2, p=p) + wave(ky=p // 2, p=p)).values()
    assert share == pytest.approx(1)


def test_labels_add_up_positions_and_concepts():
    single = torch.stack([wave(3, 3), wave(4, 4), wave() * 0], dim=-1)
    values = torch.stack([single, 2 * single.roll(1, -1)], dim=2)
    labels = fourier_labels(values)
    assert [label.text for label in labels] == [
        "100% cos(3x + 3y)",
        "80% cos(3x + 3y) | 20% cos(4x + 4y)",
        "100% cos(4x + 4y)",
    ]
    assert labels[1].concepts == {"3": pytest.approx(0.8), "4": pytest.approx(0.2)}


def test_concepts_leave_out_terms_of_two_frequencies():
    values = wave(3, 3) + wave(kx=3) + wave(2, 5)
    (label,) = fourier_labels(values[..., None, None])
    assert label.concepts == {"3": pytest.approx(2 / 3)}
    assert "33% cos(2x + 5y)" in label.text


def tiny_weights(p=7, seed=0, **options):
    """Random weights in the types and shapes of a trained model."""
    sizes = {"modulus": p, "d_model": 6, "d_mlp": 10, "heads": 2}
    shapes = initial_weights(TrainingOptions(**{**sizes, **options}))
    generator = seeded(seed)
    return {name: normal(generator, *weight.shape) for name, weight in shapes.items()}


def tiny(**options):
    return ModularAddition(ModularAdditionOptions(**options), weights=tiny_weights())


@pytest.mark.parametrize("frac_train", [0.3, 0.77])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_split_is_as_documented(frac_train, seed):
    backend = tiny(frac_train=frac_train, split_seed=seed)
    pairs = [(x, y, 7) for x in range(7) for y in range(7)]
    order = torch.randperm(49, generator=seeded(seed)).tolist()
    count = int(frac_train * 49)
    for split, chosen in (("train", order[:count]), ("test", order[count:])):
        batches = list(backend.batches(split, 10))
        inputs = torch.cat([batch.inputs for batch in batches])
        targets = torch.cat([batch.targets for batch in batches])
        assert [tuple(row) for row in inputs.tolist()] == [pairs[i] for i in chosen]
        assert targets.tolist() == [sum(pairs[i][:2]) % 7 for i in chosen]
        assert backend.samples(split) == len(chosen)
        assert all(len(batch.inputs) <= 10 for batch in batches)


def test_pairs_are_row_major():
    pairs = all_pairs(5)
    assert pairs.shape == (25, 3)
    assert pairs[7].tolist() == [1, 2, 5]


def test_the_score_is_one_where_the_largest_logit_is_the_sum():
    outputs = torch.tensor([[[0.0, 2.0, 1.0]], [[5.0, 2.0, 1.0]]])
    assert tiny().score(outputs, torch.tensor([1, 2])).tolist() == [1, 0]


def transformer(w, tokens):
    """The model written out for one input, from TransformerLens's definitions."""
    residual = w["embed.W_E"][tokens] + w["pos_embed.W_pos"]
    attention = w["blocks.0.attn.b_O"].clone()
    for h in range(len(w["blocks.0.attn.W_Q"])):
        q, k, v = (
            residual @ w[f"blocks.0.attn.W_{which}"][h] + w[f"blocks.0.attn.b_{which}"][h]
            for which in "QKV"
        )
        weights = torch.softmax(k @ q[-1] / math.sqrt(len(q[-1])), dim=0)
        attention = attention + weights @ v @ w["blocks.0.attn.W_O"][h]
    middle = residual[-1] + attention
    hidden = torch.relu(middle @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"])
    last = middle + hidden @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"]
    return [residual, middle[None], last[None], (last @ w["unembed.W_U"] + w["unembed.b_U"])[None]]


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_the_network_is_the_transformer(heads):
    weights = tiny_weights(heads=heads)
    network = ModularAddition(weights=weights).network()
    inputs = all_pairs(7)[::5]
    layers = zip(*(transformer(weights, tokens) for tokens in inputs), strict=True)
    for layer, found, expected in zip(
        network.node_layers, network.activations(inputs), map(torch.stack, layers), strict=True
    ):
        assert found.shape[-1] == layer.size
        if layer.constant:
            assert torch.equal(found[..., -1], torch.ones(found.shape[:-1]).double())
            found = found[..., :-1]
        assert_close(found, expected)
    assert [layer.name for layer in network.node_layers] == ["ln1.0", "ln2.0", "unembed", "output"]
    assert [layer.rotated for layer in network.node_layers] == [True, True, True, False]


def test_labels_find_planted_features():
    backend = tiny()

    def encode(inputs):
        x, y = (2 * math.pi * inputs[:, i].double() / 7 for i in (0, 1))
        wave = torch.stack([torch.ones_like(x), torch.cos(2 * (x + y)), x.sin() * y.cos()], -1)
        return {"ln2.0": wave.unsqueeze(1), "ln1.0": wave[:, None, :2].expand(-1, 3, -1)}

    labels = backend.labels(encode, {})
    texts = ["constant", "100% cos(2x + 2y)", "100% cos(1x) * cos(1y)"]
    assert [label.text for label in labels["ln2.0"]] == texts
    assert [label.text for label in labels["ln1.0"]] == texts[:2]


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_missing_parameter_is_named(name):
    weights = tiny_weights()
    del weights[name]
    with pytest.raises(BackendError, match=f"here: there is no parameter '{name}'"):
        check(weights, "here")


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("change", ["one row more", "one dimension more", "a number"])
def test_a_parameter_of_the_wrong_shape_is_named(name, change):
    weights = tiny_weights()
    right = weights[name]
    weights[name] = {
        "one row more": torch.cat([right, right[:1]]),
        "one dimension more": right[None],
        "a number": torch.tensor(1.0),
    }[change]
    with pytest.raises(BackendError, match=r"here: parameter '.*' should be .* not ") as error:
        check(weights, "here")
    # The first parameter of a size sets it: a wrong embedding shows where the next one disagrees.
    first = {"embed.W_E": "unembed.W_U", "blocks.0.attn.W_Q": "blocks.0.attn.W_K"}
    expected = first.get(name, name) if change == "one row more" else name
    expected = {"blocks.0.mlp.W_in": name}.get(name, expected)
    assert f"'{expected}'" in str(error.value)


def test_a_wrong_shape_says_what_it_should_be():
    weights = tiny_weights()
    weights["unembed.W_U"] = weights["unembed.W_U"][:, :-1]
    with pytest.raises(BackendError, match=r"'unembed\.W_U' should be 6 × 8, not 6 × 7"):
        check(weights, "here")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_is_not_finite_names_its_node_layer(name, value):
    weights = tiny_weights()
    weights[name].view(-1)[-1] = value
    layer = PARAMETERS[name][1]
    with pytest.raises(NumericalError, match=f"'{name}', which makes node layer '{layer}'"):
        check(weights, "here")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_shapes_the_node_layer_it_is_said_to(name):
    """A NaN in a parameter shows first in the activations of its node layer."""
    weights = tiny_weights()
    network = ModularAddition(weights=weights).network()
    weights[name].fill_(math.nan)
    spoilt = ModularAddition(weights=tiny_weights())
    spoilt.weights = weights
    for layer, x in zip(
        network.node_layers, spoilt.network().activations(all_pairs(7)), strict=True
    ):
        if not bool(x.isfinite().all()):
            assert layer.name == PARAMETERS[name][1]
            return
    raise AssertionError(f"'{name}' does not matter")


def test_check_keeps_the_parameters_alone():
    weights = {**tiny_weights(), "blocks.0.attn.mask": torch.ones(3, 3)}
    assert list(check(weights, "here")) == list(PARAMETERS)


def test_weights_are_read_from_either_format(tmp_path):
    weights, path = tiny_weights(), tmp_path / "model.pt"
    torch.save(weights, path)
    backend = load_backend("modular-addition", weights=str(path))
    assert backend.modulus == 7
    assert all(torch.equal(backend.weights[name], weights[name]) for name in PARAMETERS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frac_train": "0"}, "'frac_train'"),
        ({"frac_train": "1"}, "'frac_train'"),
        ({"split_seed": "-1"}, "'split_seed'"),
        ({"split_seed": "one"}, "'split_seed'.*'one'"),
        ({"fraction": "0.3"}, "no option 'fraction'.*'frac_train'"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(UsageError, match=said):
        load_backend("modular-addition", **options)


def test_options_are_read_from_strings():
    backend = load_backend("modular-addition", frac_train="0.5", split_seed="3")
    assert (backend.options.frac_train, backend.options.split_seed) == (0.5, 3)
    assert ModularAdditionOptions().frac_train == 0.3
