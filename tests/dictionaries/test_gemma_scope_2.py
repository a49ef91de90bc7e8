"""Dictionaries of Gemma Scope 2 against plain computations of what it defines."""

import json

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file

from libgraph.dictionaries.matching import dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.dictionaries.weights import TranscoderWeights
from libgraph.errors import UsageError
from libgraph.network.network import NodeLayer

D, K = 6, 16


def saved(folder, drop=(), skip=False, **changes):
    generator = seeded(1)
    w = {
        "w_enc": normal(generator, D, K),
        "b_enc": normal(generator, K),
        "w_dec": normal(generator, K, D),
        "b_dec": normal(generator, D),
        "threshold": normal(generator, K).abs(),
    }
    if skip:
        w["affine_skip_connection"] = normal(generator, D, D)
    save_file({n: t for n, t in w.items() if n not in drop}, folder / "params.safetensors")
    cfg = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "hf_hook_point_in": "model.layers.3.output",
        "width": K,
        "l0": 20,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(cfg))
    return w


def test_latents_are_those_of_the_formats_definition(tmp_path):
    w = saved(tmp_path)
    layer = NodeLayer("4.resid_pre", D + 1, hooks=("layers.3",))
    basis = dictionary_of_layer(
        layer, matched(read_dictionaries(tmp_path), [layer])[layer.name], torch.ones(1)
    )
    h = normal(seeded(2), 40, D)
    x = torch.cat([h, torch.ones(40, 1).double()], dim=1)
    pre = h @ w["w_enc"] + w["b_enc"]
    z = pre * (pre > w["threshold"])
    assert 0.05 < float((z > 0).double().mean()) < 0.5
    assert_close(basis.latents(x)[:, basis.isolated :], z)
    assert_close((basis.latents(x) @ basis.decoder)[:, :-1], z @ w["w_dec"] + w["b_dec"])


@pytest.mark.parametrize("skip", [True, False])
def test_transcoders_read_and_write_around_the_mlp(tmp_path, skip):
    w = saved(
        tmp_path,
        skip=skip,
        affine_connection=skip,
        hf_hook_point_in="model.layers.3.pre_feedforward_layernorm.output",
        hf_hook_point_out="model.layers.3.post_feedforward_layernorm.output",
    )
    (found,) = read_dictionaries(tmp_path)
    assert isinstance(found, TranscoderWeights)
    assert (found.hook, found.output) == ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
    if skip:
        # h S, not its transpose.
        assert torch.equal(found.skip, w["affine_skip_connection"])


MISTAKES = {
    "architecture": ({"architecture": "topk"}, "architecture 'topk': jump_relu is known"),
    "threshold": ({"drop": ["threshold"]}, "holds no 'threshold'"),
    "width": ({"width": 7}, "says 7 latents, but w_enc has 16"),
    "skip": ({"skip": True}, "says affine_connection=False, and .* has an 'affine_skip"),
    "no skip": ({"affine_connection": True}, "has no 'affine_skip_connection'"),
    "skip of itself": ({"skip": True, "affine_connection": True}, "is no transcoder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(tmp_path, mistake):
    how, expected = MISTAKES[mistake]
    saved(tmp_path, **how)
    with pytest.raises(UsageError, match=expected):
        read_dictionaries(tmp_path)


def test_places_without_a_node_layer_keep_their_name(tmp_path):
    saved(tmp_path, hf_hook_point_in="model.layers.3.self_attn.o_proj.input")
    (found,) = read_dictionaries(tmp_path)
    assert found.hook == "model.layers.3.self_attn.o_proj.input"
