"""The sections are the transformer, and parameters that do not fit are named."""

import math

import pytest
import torch
from helpers.modular_addition import small_weights
from helpers.numbers import assert_close

from libgraph.errors import BackendError, NumericalError
from libgraph.testing import check_backend
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.data import all_pairs
from libgraph_backends.modular_addition.network import PARAMETERS, check


def test_the_contract_is_kept():
    check_backend(ModularAddition(weights=small_weights()))


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
    weights = small_weights(heads=heads)
    network = ModularAddition(weights=weights).network()
    inputs = all_pairs(7)[::5]
    layers = zip(*(transformer(weights, tokens) for tokens in inputs), strict=True)
    for layer, x, expected in zip(
        network.node_layers, network.activations(inputs), map(torch.stack, layers), strict=True
    ):
        assert x.shape[-1] == layer.size
        if layer.constant:
            assert torch.equal(x[..., -1], torch.ones(x.shape[:-1]).double())
            x = x[..., :-1]
        assert_close(x, expected)
    assert [layer.name for layer in network.node_layers] == ["ln1.0", "ln2.0", "unembed", "output"]
    assert [layer.rotated for layer in network.node_layers] == [True, True, True, False]


# Parameters that do not fit


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_missing_parameter_is_named(name):
    weights = small_weights()
    del weights[name]
    with pytest.raises(BackendError, match=f"here: there is no parameter '{name}'"):
        check(weights, "here")


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("change", ["one row more", "one dimension more", "a number"])
def test_a_parameter_of_the_wrong_shape_is_named(name, change):
    weights = small_weights()
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
    weights = small_weights()
    weights["unembed.W_U"] = weights["unembed.W_U"][:, :-1]
    with pytest.raises(BackendError, match=r"'unembed\.W_U' should be 6 × 8, not 6 × 7"):
        check(weights, "here")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_that_is_not_finite_names_its_node_layer(name, value):
    weights = small_weights()
    weights[name].view(-1)[-1] = value
    layer = PARAMETERS[name][1]
    with pytest.raises(NumericalError, match=f"'{name}', which makes node layer '{layer}'"):
        check(weights, "here")


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_shapes_the_node_layer_it_is_said_to(name):
    """A NaN in a parameter shows first in the activations of its node layer."""
    weights = small_weights()
    network = ModularAddition(weights=weights).network()
    weights[name].fill_(math.nan)
    spoilt = ModularAddition(weights=small_weights())
    spoilt.weights = weights
    for layer, x in zip(
        network.node_layers, spoilt.network().activations(all_pairs(7)), strict=True
    ):
        if not bool(x.isfinite().all()):
            assert layer.name == PARAMETERS[name][1]
            return
    raise AssertionError(f"'{name}' does not matter")


def test_check_keeps_the_parameters_alone():
    weights = {**small_weights(), "blocks.0.attn.mask": torch.ones(3, 3)}
    assert list(check(weights, "here")) == list(PARAMETERS)


EXTRAS = {
    "a second block": {"blocks.1.mlp.b_out": torch.ones(6)},
    "a norm": {"blocks.0.ln1.w": torch.ones(6)},
    "a final norm": {"ln_final.w": torch.ones(6)},
    "rotary positions": {"blocks.0.attn.rotary_sin": torch.ones(3, 2)},
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_what_another_model_has_is_refused(kind):
    (name,) = EXTRAS[kind]
    with pytest.raises(BackendError, match=f"here: '{name}' is no parameter of a one-layer"):
        check({**small_weights(), **EXTRAS[kind]}, "here")


def test_buffers_of_other_kinds_of_attention_are_refused():
    right = torch.ones(3, 3, dtype=torch.bool).tril()
    buffers = {"blocks.0.attn.mask": right, "blocks.0.attn.IGNORE": torch.tensor(-1e5)}
    assert list(check({**small_weights(), **buffers}, "here")) == list(PARAMETERS)
    local = right & ~right.tril(-2)
    with pytest.raises(BackendError, match="does not attend to all of them"):
        check({**small_weights(), "blocks.0.attn.mask": local}, "here")


def test_names_of_a_model_within_another():
    weights = {f"model.{name}": weight for name, weight in small_weights().items()}
    assert list(check(weights, "here")) == list(PARAMETERS)
    assert list(check({**weights, "head.weight": torch.ones(2, 2)}, "here")) == list(PARAMETERS)
    with pytest.raises(BackendError, match=r"'head\.weight' is no parameter of a one-layer"):
        check({**small_weights(), "head.weight": torch.ones(2, 2)}, "here")


def test_weights_in_eight_bits_become_single_precision():
    weights = small_weights()
    weights["embed.W_E"] = weights["embed.W_E"].to(torch.float8_e4m3fn)
    assert check(weights, "here")["embed.W_E"].dtype == torch.float32
