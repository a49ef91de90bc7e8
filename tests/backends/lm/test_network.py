"""Sections of language models compute what Hugging Face computes, and what they cannot is told."""

import numpy as np
import pytest
import torch
from helpers.language_models import CONFIGURATIONS, CONTEXT, language_model
from helpers.numbers import assert_close

from libgraph.errors import BackendError, UsageError
from libgraph.testing import check_backend
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.options import LMOptions

CUTS = [
    {},
    {"cuts": "sublayers"},
    {"cuts": "blocks"},
    {"cuts": "mlps"},
    {"layers": "1:2"},
    {"layers": "0:1", "cuts": "sublayers"},
    {"skip_first": True},
    {"skip_first": True, "layers": "1:", "cuts": "blocks"},
    {"skip_first": True, "cuts": "mlps"},
]


def rows(backend):
    (batch,) = backend.batches("test", 100)
    return batch.inputs


def logits(backend, network, inputs):
    """Through the sections that are a network and those that come after it."""
    with torch.no_grad():
        return backend.cut.head.logits(network(inputs))


@pytest.mark.parametrize("options", CUTS)
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_logits_are_those_of_hugging_face(kind, options, bridges, ids):
    backend = language_model(bridges[kind], ids, **options)
    inputs = rows(backend)
    hugging_face = bridges[kind].original_model.double()
    first = torch.zeros(len(inputs), int("skip_first" in options), dtype=torch.int64)
    with torch.no_grad():
        expected = hugging_face(torch.cat([first, inputs], dim=1)).logits[:, first.shape[1] :]
    # Rotary angles and GPT-Neo's scores are in single precision whatever the model is.
    assert_close(logits(backend, backend.network(), inputs), expected, 1e-5)
    hugging_face.float()


@pytest.mark.parametrize("kind", ["gpt2", "neo", "neox"])
def test_in_single_precision_too(kind, bridges, ids):
    backend = language_model(bridges[kind], ids)
    inputs = rows(backend)
    outputs = logits(backend, backend.network().float(), inputs)
    with torch.no_grad():
        expected = bridges[kind].original_model(inputs).logits
    assert outputs.dtype == torch.float32
    assert_close(outputs, expected, 1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gpt2", {}), ("neo", {"cuts": "sublayers"}), ("neox", {}), ("neox", {"skip_first": True})],
)
def test_the_contract_is_kept(kind, options, bridges, ids):
    check_backend(language_model(bridges[kind], ids, **options), samples=2)


def test_node_layers_are_named_like_hooks(bridges, ids):
    network = language_model(bridges["gpt2"], ids).network()
    names = [layer.name for layer in network.node_layers]
    assert names[:6] == [
        "0.resid_pre", "0.ln1.scale", "0.ln1.normalized", "0.resid_mid", "0.ln2.scale",
        "0.ln2.normalized",
    ]  # fmt: skip
    assert names[6:] == [
        "1.resid_pre", "1.ln1.scale", "1.ln1.normalized", "1.resid_mid", "1.ln2.scale",
        "1.ln2.normalized", "1.resid_post", "ln_final.scale", "ln_final.normalized",
    ]  # fmt: skip
    hooks = bridges["gpt2"].hook_dict
    for name in names:
        layer, _, kind = name.rpartition(".")
        prefix = "" if layer == "ln_final" else "blocks."
        assert f"{prefix}{layer}.hook_{kind}" in hooks


def test_activations_are_those_of_the_hooks(bridges, ids):
    backend = language_model(bridges["gpt2"], ids)
    inputs, network = rows(backend), backend.network()
    names = [layer.name for layer in network.node_layers]
    with torch.no_grad():
        _, hooks = bridges["gpt2"].run_with_cache(inputs)
        activations = dict(zip(names, network.activations(inputs), strict=True))
    for name in ("0.resid_pre", "0.resid_mid", "1.resid_pre", "1.resid_mid", "1.resid_post"):
        hook = f"blocks.{name[0]}.hook_{name[2:]}"
        assert_close(activations[name][..., :-1].float(), hooks[hook], 1e-5)
    variance = hooks["blocks.1.ln2.hook_scale"].square() - 1e-5
    assert_close(activations["1.ln2.scale"][..., :1].float(), variance, 1e-4)


@pytest.mark.parametrize("at_once", [2**25, 1])
@pytest.mark.parametrize("options", [{}, {"layers": "0:1"}])
def test_the_score_is_the_loss_of_the_next_token(options, at_once, bridges, ids, monkeypatch):
    # Whether logits are computed of all rows at a time or of each.
    monkeypatch.setattr("libgraph_backends.lm.head.LARGEST_LOGITS", at_once)
    backend = language_model(bridges["gpt2"], ids, **options)
    (batch,) = backend.batches("test", 100)
    with torch.no_grad():
        scores = backend.score(backend.network()(batch.inputs), batch.targets)
        tokens = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
        expected = [
            bridges["gpt2"].original_model(row[None], labels=row[None]).loss for row in tokens
        ]
    assert_close(scores.float(), torch.stack(expected), 1e-5)


# What sections cannot do


def test_a_model_that_is_not_like_it_says_is_refused(bridges, ids):
    """A model that claims to be like GPT-2 and computes something else."""
    bridge = bridges["gpt2-relu"]
    bridge.cfg.act_fn = "gelu"
    try:
        with pytest.raises(BackendError, match=r"other logits .* no section"):
            language_model(bridge, ids).network()
    finally:
        bridge.cfg.act_fn = "relu"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("positional_embedding_type", "alibi", "positions of the kind 'alibi'"),
        ("normalization_type", "DYT", "norms of the kind 'DYT'"),
        ("act_fn", "snake", "the activation 'snake'"),
        ("num_experts", 8, "mixture of experts"),
        ("use_qk_norm", True, "norms of queries and keys"),
        ("attn_scores_soft_cap", 50.0, "soft cap"),
        ("output_logits_soft_cap", 30.0, "soft cap"),
        ("rotary_adjacent_pairs", True, "rotary positions of a kind"),
    ],
)
def test_structures_without_a_section_are_named(name, value, message, bridges, ids, monkeypatch):
    bridge = bridges["neox"]
    monkeypatch.setattr(bridge.cfg, name, value, raising=False)
    with pytest.raises(BackendError, match=message):
        language_model(bridge, ids).network()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("add_cross_attention", True, "cross-attention"),
        ("scale_attn_by_inverse_layer_idx", True, "attention scaled otherwise"),
        ("scale_attn_weights", False, "attention scaled otherwise"),
    ],
)
def test_configurations_without_a_section_are_named(
    name, value, message, bridges, ids, monkeypatch
):
    config = bridges["gpt2"].original_model.config
    monkeypatch.setattr(config, name, value)
    with pytest.raises(BackendError, match=message):
        language_model(bridges["gpt2"], ids).network()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ctx": CONTEXT + 1}, f"more than the model's {CONTEXT} positions"),
        ({"n_ctx": CONTEXT, "skip_first": True}, f"{CONTEXT - 1} positions beside the first"),
        ({"layers": "1:3"}, "blocks 0 to 1"),
        ({"layers": "1:1"}, "blocks 0 to 1"),
    ],
)
def test_options_that_do_not_fit_the_model(options, message, bridges, ids):
    backend = LM(LMOptions(text=str(ids), **options), model=bridges["gpt2"])
    with pytest.raises(UsageError, match=message):
        backend.network()


def test_a_model_without_a_first_token(bridges, ids, monkeypatch):
    bridge = bridges["gpt2"]
    monkeypatch.setattr(bridge.original_model.config, "bos_token_id", None)
    monkeypatch.setattr(bridge, "tokenizer", None)
    with pytest.raises(BackendError, match="no begin-of-text token"):
        language_model(bridge, ids, skip_first=True).network()
    # Nobody asks for it where nothing stands before the rows.
    assert np.isfinite(rows(language_model(bridge, ids)).double().numpy()).all()
