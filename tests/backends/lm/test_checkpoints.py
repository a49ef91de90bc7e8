"""Checkpoints as people have them: HookedTransformer's, and those under names of a wrapper."""

import json
from copy import deepcopy

import pytest
import torch
import transformers
from helpers import hooked
from helpers.language_models import CONFIGURATIONS
from helpers.numbers import assert_close
from safetensors.torch import save_file

from libgraph.errors import BackendError
from libgraph.testing import check_section
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.loading import load_model
from libgraph_backends.lm.options import LMOptions


def saved(folder, config, state):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(state, folder / "model.pt")
    return folder


@pytest.mark.parametrize("options", [{}, {"layers": "1:2", "skip_first": True, "cuts": "blocks"}])
@pytest.mark.parametrize("kind", hooked.KINDS)
def test_hooked_transformers(kind, options, ids, tmp_path):
    config = hooked.configuration(kind)
    state = hooked.random_parameters(config)
    folder = saved(tmp_path / "model", config, state)
    backend = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=9, **options))
    # The token before every row: the model has none of its own.
    backend.loaded.model.first = 0
    inputs = next(backend.batches("test", 5)).inputs
    first = torch.zeros(len(inputs), int("skip_first" in options), dtype=torch.int64)
    expected = hooked.logits(config, state, torch.cat([first, inputs], dim=1))
    with torch.no_grad():
        actual = backend.cut.head.logits(backend.network()(inputs))
    # Before and after the sections such a model computes in single precision.
    assert_close(actual, expected[:, first.shape[1] :], 1e-5 if options else 1e-9)
    backend.score(backend.network()(inputs), inputs)


@pytest.mark.parametrize("kind", ["no norms, attention alone", "no norms, parallel"])
def test_sections_of_models_without_norms(kind, ids, tmp_path):
    config = hooked.configuration(kind)
    folder = saved(tmp_path / "model", config, hooked.random_parameters(config))
    backend = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=5))
    network = backend.network()
    names = [layer.name for layer in network.node_layers]
    assert names == ["0.resid_pre", "1.resid_pre", "1.resid_post"]
    inputs = next(backend.batches("test", 2)).inputs
    for x, section in zip(network.activations(inputs), network.sections, strict=False):
        check_section(section, x)


def test_against_the_library_that_is_left(tmp_path):
    """Of what HookedTransformer could, its successor has this much."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.conversion_utils import convert_tl_checkpoint
    from transformer_lens.model_bridge import TransformerBridge

    config = hooked.configuration("plain")
    state = hooked.random_parameters(config)
    names = ("n_layers", "d_model", "d_head", "n_heads", "n_ctx", "d_vocab", "d_mlp", "act_fn")
    native = TransformerBridge.boot_native(
        TransformerBridgeConfig(
            **{name: config[name] for name in names},
            normalization_type="LN",
            positional_embedding_type="standard",
            architecture="TransformerLensNative",
        )
    )
    converted = convert_tl_checkpoint(state, native.cfg)
    bias = converted.pop("unembed.bias")
    native.load_state_dict(converted, strict=False)
    tokens = torch.arange(18).reshape(2, 9)
    model = load_model(str(saved(tmp_path / "model", config, state)), None).model
    with torch.no_grad():
        assert_close(model.logits(tokens), native(tokens) + bias, 1e-5)


def as_file(folder, config, state):
    """The weights by any name, the configuration by the same."""
    torch.save(state, folder / "final.pth")
    (folder / "final.json").write_text(json.dumps(config))
    return folder / "final.pth"


def beside_notes(folder, config, state):
    """What goes by the file's name may be something else, and the index of shards is JSON too."""
    (folder / "final.json").write_text('["loss", 1.5]')
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "a.safetensors")
    index = {"weight_map": dict.fromkeys(state, "a.safetensors")}
    (folder / "final.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "final.index.json"


def in_a_checkpoint(folder, config, state):
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": wrapped, "epoch": 3}, folder / "model.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def of_a_lightning_module(folder, config, state):
    state = {f"net.{name}": tensor.clone() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


@pytest.mark.parametrize("save", [as_file, beside_notes, in_a_checkpoint, of_a_lightning_module])
def test_hooked_transformers_in_files_of_every_form(save, tmp_path):
    config = hooked.configuration("plain")
    state = hooked.random_parameters(config)
    model = load_model(str(save(tmp_path, config, state)), None).model
    tokens = torch.arange(9)[None]
    assert_close(model.logits(tokens), hooked.logits(config, state, tokens), 1e-5)


WRONG = {
    "no section": ({"act_fn": "solu_ln"}, {}, "says the activation 'solu_ln', for which there is"),
    "positions": ({"positional_embedding_type": "alibi"}, {}, "positions of the kind 'alibi'"),
    "experts": ({"num_experts": 4}, {}, "says a mixture of experts"),
    "both directions": ({"attention_dir": "bidirectional"}, {}, "attention in both directions"),
    "classes": ({"d_vocab_out": 7}, {}, "7 outputs for 30 tokens, which are no next tokens"),
    "norms": ({"normalization_type": "Batch"}, {}, "no configuration .*'normalization_type'"),
    "a number": ({"d_head": "four"}, {}, "no configuration of a HookedTransformer: 'd_head': a"),
    "heads": ({"n_heads": 4}, {}, r"'blocks.0.attn.W_Q' should be 4 × 8 × 4, not 2 × 8 × 4"),
    "folded": ({"normalization_type": "LNPre"}, {}, r"'blocks.0.ln1.w' has no place"),
    "more": ({}, {"blocks.2.ln1.w": torch.ones(8)}, r"'blocks.2.ln1.w' has no place"),
    "less": ({}, {"blocks.1.mlp.W_in": None}, "there is no parameter 'blocks.1.mlp.W_in'"),
    "local": ({"use_local_attn": True}, {}, "local attention without attn_types"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_hooked_transformers_that_are_not_what_they_say(what, tmp_path):
    changed, parameters, message = WRONG[what]
    config = hooked.configuration("plain")
    state = hooked.random_parameters(config) | parameters
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    folder = saved(tmp_path / "model", config | changed, state)
    with pytest.raises(BackendError, match=message):
        load_model(str(folder), None)


def test_a_hooked_transformer_with_a_parameter_that_is_not_finite(run, ids, tmp_path):
    config = hooked.configuration("plain")
    state = hooked.random_parameters(config)
    state["blocks.1.attn.W_V"][0, 0, 0] = torch.nan
    folder = saved(tmp_path / "model", config, state)
    code, _, err = run(
        "analyze", "lm", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 5
    assert "'blocks.1.attn.W_V' holds NaN or infinite values" in err


def test_weights_alone(tmp_path):
    torch.save({"embed.W_E": torch.ones(2, 3)}, tmp_path / "weights.pt")
    with pytest.raises(BackendError, match=r"no 'config.json' beside .*cfg.to_dict\(\)"):
        load_model(str(tmp_path / "weights.pt"), None)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(BackendError, match="is damaged, or no configuration"):
        load_model(str(tmp_path / "weights.pt"), None)
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(BackendError, match="cannot be read as a configuration"):
        load_model(str(tmp_path / "weights.pt"), None)


# Hugging Face's models


def prefixed(prefix):
    def save(folder, model):
        state = {f"{prefix}{name}": tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        return folder

    return save


def nested(folder, model):
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "pytorch_model.bin")
    return folder


def by_another_name(folder, model):
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"model_state_dict": state, "optimizer": {"lr": 0.1}}, folder / "step-100.ckpt")
    return folder / "step-100.ckpt"


def untied(folder, model):
    """Without the head that is the embedding, wrapped."""
    state = {f"model.{name}": t.clone() for name, t in model.state_dict().items()}
    state.pop("model.lm_head.weight")
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


SAVES = {
    "module": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "lightning": prefixed("net."),
    "nested": nested,
    "by another name": by_another_name,
    "untied": untied,
}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("form", SAVES)
def test_wrapped_models_of_hugging_face(form, kind, tmp_path):
    torch.manual_seed(0)
    config = deepcopy(CONFIGURATIONS[kind])
    config.tie_word_embeddings = True
    model = transformers.AutoModelForCausalLM.from_config(config).half().eval()
    with quiet():
        model.config.save_pretrained(tmp_path)
    place = SAVES[form](tmp_path, model)
    tokens = torch.arange(9)[None]
    loaded = load_model(str(place), None).model
    assert loaded.tokens().dtype == torch.float16
    with torch.no_grad():
        assert_close(loaded.logits(tokens), model.float()(tokens).logits, 1e-5)


def test_a_wrapped_model_that_is_another_one(tmp_path):
    model = transformers.AutoModelForCausalLM.from_config(deepcopy(CONFIGURATIONS["gpt2"]))
    with quiet():
        model.config.save_pretrained(tmp_path)
    state = {f"module.{name}": t.clone() for name, t in model.state_dict().items()}
    state.pop("module.transformer.h.1.mlp.c_fc.weight")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(BackendError, match=r"no parameter 'transformer.h.1.mlp.c_fc.weight'"):
        load_model(str(tmp_path / "weights.safetensors"), None)
