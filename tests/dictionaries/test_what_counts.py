"""Whatever would change latents is honoured or refused by name, in every format."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.dictionaries import WIDTH, save_cross_layer, save_transcoder
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file

from libgraph.bases.dictionaries import method_of_folder
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.errors import UsageError
from libgraph.network.dictionary import TopK

D, K = 6, 9
VECTOR, SQUARE = torch.full((K,), 2.0), torch.ones(D, D)


def tensors(width=D):
    generator = seeded(1)
    return {
        "W_enc": normal(generator, width, K),
        "b_enc": normal(generator, K),
        "W_dec": normal(generator, K, width),
        "b_dec": normal(generator, width),
    }


def saelens(folder, architecture="standard", more=None, **changes):
    save_file({**tensors(), **(more or {})}, folder / "sae_weights.safetensors")
    cfg = {"architecture": architecture, "d_in": D, "d_sae": K, "k": 3, **changes}
    (folder / "cfg.json").write_text(json.dumps(cfg))


def transcoder(folder, architecture="transcoder", more=None, **changes):
    save_transcoder(folder, architecture, tensors=more, **changes)


def sparsify(folder, more=None, **changes):
    w = tensors()
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
    stored = {names.get(name, name): tensor for name, tensor in w.items()}
    stored["encoder.weight"] = w["W_enc"].T.contiguous()
    save_file({**stored, **(more or {})}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "k": 3, **changes}))


def learned(folder, more=None, **trainer):
    w = tensors()
    stored = {
        "encoder.weight": w["W_enc"].T,
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T,
        "bias": w["b_dec"],
    }
    torch.save({**stored, **(more or {})}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))


def circuit_tracer(folder, more=None, blocks=2, **changes):
    """Of so many blocks; `more` is in the first one's file alone."""
    for i in range(blocks):
        w = tensors()
        w["W_enc"] = w["W_enc"].T.contiguous()
        save_file({**w, **((more or {}) if i == 0 else {})}, folder / f"layer_{i}.safetensors")
    cfg = {
        "model_kind": "transcoder_set",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
        **changes,
    }
    (folder / "config.yaml").write_text("\n".join(f"{k}: {v}" for k, v in cfg.items() if v))


def cross_layer(folder, more=None, drop=(), **changes):
    def change(file, stored):
        stored = {**stored, **((more or {}) if file == "W_enc_1" else {})}
        return {name: tensor for name, tensor in stored.items() if name not in drop}

    save_cross_layer(folder, D, change=change)
    with (folder / "config.yaml").open("a") as file:
        file.writelines(f"{name}: {value}\n" for name, value in changes.items())


REFUSED = {
    "factors that are not there": (
        saelens,
        {"finetuning_scaling_factor": True},
        "holds no 'finetuning_scaling_factor'",
    ),
    "factors that nothing uses": (
        saelens,
        {"more": {"scaling_factor": VECTOR}},
        "does not say finetuning_scaling_factor",
    ),
    "factors of a transcoder": (
        transcoder,
        {"finetuning_scaling_factor": True},
        "finetuning_scaling_factor with the architecture 'transcoder'",
    ),
    "shift of a transcoder": (
        transcoder,
        {"apply_b_dec_to_input": True},
        "apply_b_dec_to_input with the architecture 'transcoder'",
    ),
    "lengths of thresholds": (
        saelens,
        {
            "architecture": "jumprelu",
            "more": {"threshold": VECTOR},
            "rescale_acts_by_decoder_norm": True,
        },
        "rescale_acts_by_decoder_norm with the architecture 'jumprelu'",
    ),
    "heads": (saelens, {"reshape_activations": "hook_z"}, "reads heads of attention"),
    "activation": (
        saelens,
        {
            "architecture": "jumprelu",
            "more": {"threshold": VECTOR},
            "activation_fn": "tanh-relu",
        },
        "activation 'tanh-relu': known are relu and topk",
    ),
    "a threshold of ReLU": (saelens, {"more": {"threshold": VECTOR}}, "holds 'threshold', which"),
    "a skip of none": (transcoder, {"more": {"W_skip": torch.ones(WIDTH, WIDTH)}}, "'W_skip'"),
    "logarithms": (
        saelens,
        {"architecture": "jumprelu", "more": {"threshold": VECTOR, "log_threshold": VECTOR + 1}},
        "holds 'log_threshold', which is not read here",
    ),
    "signed": (sparsify, {"signed": True}, "has signed, which is not read here"),
    "sides normalised": (sparsify, {"normalize_io": True}, "has normalize_io"),
    "product keys": (sparsify, {"encoder_pkm": True}, "has encoder_pkm"),
    "groups": (sparsify, {"activation": "groupmax"}, "activation 'groupmax': topk is known"),
    "an unsaid skip": (
        sparsify,
        {"more": {"W_skip": SQUARE}, "transcode": True},
        "does not say skip_connection",
    ),
    "norm of inputs": (sparsify, {"more": {"in_norm": VECTOR}}, "holds 'in_norm', which"),
    "class": (learned, {"dict_class": "CrossCoder"}, "is a CrossCoder, which is not read here"),
    "another class": (
        learned,
        {"dict_class": "GatedAutoEncoder"},
        r"its tensors are those of another class \(relu\)",
    ),
    "logarithms of blocks": (
        circuit_tracer,
        {"more": {"log_thresholds": VECTOR}},
        "holds 'log_thresholds', which is not read here",
    ),
    "thresholds of one block": (
        circuit_tracer,
        {"more": {"activation_function.threshold": VECTOR}},
        r"layer_1.safetensors' has no thresholds, and '.*layer_0.safetensors' has",
    ),
    "skip of one block": (
        circuit_tracer,
        {"more": {"W_skip": SQUARE}},
        "has no skip connection, and",
    ),
    "topk without k": (circuit_tracer, {"activation": "topk"}, "does not say how many k are on"),
    "thresholds of ReLU": (
        circuit_tracer,
        {"more": {"activation_function.threshold": VECTOR}, "activation": "relu", "blocks": 1},
        "has activation=relu, and .* has thresholds",
    ),
    "no thresholds": (circuit_tracer, {"activation": "jump_relu"}, "no 'activation_function.thr"),
    "activation of blocks": (circuit_tracer, {"activation": "tanh"}, "activation=tanh: known are"),
    "kind": (circuit_tracer, {"model_kind": "lorsa"}, "has model_kind=lorsa: known are"),
    "thresholds of some blocks": (
        cross_layer,
        {"drop": ["threshold_1"]},
        r"W_enc_1.safetensors' has no thresholds, and '.*W_enc_0.safetensors' has",
    ),
    "skip of some blocks": (
        cross_layer,
        {"more": {"W_skip_1": SQUARE}},
        "has no skip connection, and '.*W_enc_1",
    ),
    "unknown of a block": (cross_layer, {"more": {"scale_1": VECTOR}}, "holds 'scale_1', which"),
    "topk across layers": (cross_layer, {"activation": "topk", "k": 3}, "has activation=topk"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_honoured_is_refused_by_name(tmp_path, what):
    save, how, expected = REFUSED[what]
    save(tmp_path, **how)
    with pytest.raises(UsageError, match=expected):
        read_dictionaries(tmp_path)


HARMLESS = {
    "nothing said of norms": (saelens, {"normalize_activations": None}),
    "factors of 1": (saelens, {"more": {"scaling_factor": torch.ones(K)}}),
    "how it was trained": (saelens, {"l1_coefficient": 5, "prepend_bos": True}),
    "how it was trained, too": (sparsify, {"multi_topk": True, "normalize_decoder": True}),
    "a class by name": (learned, {"dict_class": "AutoEncoder"}),
    "names": (circuit_tracer, {"scan": "someone/scan", "activation": "relu"}),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_changes_nothing_is_read(tmp_path, what):
    save, how = HARMLESS[what]
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    save(tmp_path / "with", **how)
    save(tmp_path / "without")
    for one, other in zip(*map(read_dictionaries, tmp_path.iterdir()), strict=True):
        for part in ("encoder", "bias", "decoder", "shift"):
            assert torch.equal(getattr(one, part), getattr(other, part))


def test_factors_lengthen_what_latents_write(tmp_path):
    """Decoded are latents times a factor each: decoders so many times as long are the same."""
    factor = normal(seeded(7), K).abs()
    saelens(tmp_path, more={"scaling_factor": factor}, finetuning_scaling_factor=True)
    (found,) = read_dictionaries(tmp_path)
    w, z = tensors(), normal(seeded(8), 5, K)
    assert_close(z @ found.decoder, (z * factor) @ w["W_dec"])
    assert_close(found.encoder, w["W_enc"])


def test_the_largest_of_circuit_tracer(tmp_path):
    circuit_tracer(tmp_path, activation="topk", k=4)
    assert [each.gate for each in read_dictionaries(tmp_path)] == [TopK(4), TopK(4)]


def test_a_skip_connection_across_layers(tmp_path):
    """It is multiplied from the right, unlike that of transcoders of single blocks."""
    skips = {f"W_skip_{i}": normal(seeded(i), D, D) for i in range(3)}
    save_cross_layer(
        tmp_path,
        D,
        change=lambda file, stored: (
            {**stored, f"W_skip_{file[-1]}": skips[f"W_skip_{file[-1]}"]}
            if "enc" in file
            else stored
        ),
    )
    for i, found in enumerate(read_dictionaries(tmp_path)):
        assert torch.equal(found.skip, skips[f"W_skip_{i}"])


# Files that a configuration lists


def test_files_are_found_as_a_configuration_lists_them(tmp_path):
    """Those of a repository where they are in it, of Gemma Scope in its layout, block by block."""
    w = {**tensors(), "threshold": normal(seeded(3), K).abs()}
    second = {"w_enc": w["W_enc"], "w_dec": w["W_dec"], "affine_skip_connection": SQUARE.double()}
    second |= {name: w[name] for name in ("b_enc", "b_dec", "threshold")}
    (tmp_path / "layer_0" / "width_16k").mkdir(parents=True)
    (tmp_path / "scope-2" / "transcoder_all" / "layer_1").mkdir(parents=True)
    np.savez(
        tmp_path / "layer_0" / "width_16k" / "params.npz", **{n: t.numpy() for n, t in w.items()}
    )
    save_file(second, tmp_path / "scope-2" / "transcoder_all" / "layer_1" / "params.safetensors")
    lines = [
        "feature_input_hook: mlp.hook_in",
        "feature_output_hook: hook_mlp_out",
        "transcoders:",
        "  - hf://someone/scope/layer_0/width_16k/params.npz?revision=main",
        "  - hf://someone/scope-2/transcoder_all/layer_1/params.safetensors",
    ]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="has no skip connection, and"):
        read_dictionaries(tmp_path)
    del second["affine_skip_connection"]
    save_file(second, tmp_path / "scope-2" / "transcoder_all" / "layer_1" / "params.safetensors")
    found = read_dictionaries(tmp_path)
    assert [(each.hook, each.output) for each in found] == [
        (f"blocks.{i}.mlp.hook_in", f"blocks.{i}.hook_mlp_out") for i in range(2)
    ]
    for each in found:
        assert torch.equal(each.encoder, w["W_enc"])
        assert torch.equal(each.gate.threshold, w["threshold"])
    before = method_of_folder(tmp_path).digest
    (tmp_path / "config.yaml").write_text("\n".join(["scan: another", *lines]))
    assert method_of_folder(tmp_path).digest != before


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("hf://a/b/layer_9.safetensors", "which is not in its folder: put it at 'layer_9.safet"),
        ("../layer_0.safetensors", "which is not in its folder"),
        ("/layer_0.safetensors", "which is not in its folder"),
        ("hf://[a/b/layer_0.safetensors", "is no file: Invalid IPv6 URL"),
        ("a" * 5000, "cannot be read .File name too long"),
    ],
)
def test_files_that_are_not_there_are_named(tmp_path, entry, expected):
    circuit_tracer(tmp_path, transcoders=f'["{entry}"]')
    with pytest.raises(UsageError, match=expected):
        read_dictionaries(tmp_path)


def test_a_list_of_anything_else(tmp_path):
    circuit_tracer(tmp_path, transcoders="7")
    with pytest.raises(UsageError, match="should be a list of files"):
        read_dictionaries(tmp_path)


def test_files_are_found_where_the_path_of_the_folder_goes_up(tmp_path):
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
    circuit_tracer(tmp_path / "ours", transcoders='["layer_0.safetensors"]')
    (found,) = read_dictionaries(tmp_path / "other" / ".." / "ours")
    assert found.hook == "blocks.0.hook_resid_mid"


def test_a_configuration_counts_however_deep_what_it_lists_is(tmp_path):
    deep = tmp_path / "a" / "b" / "layer_0" / "width_16k" / "average_l0_5" / "more"
    deep.mkdir(parents=True)
    circuit_tracer(
        tmp_path, blocks=1, transcoders=f'["{deep.relative_to(tmp_path)}/w.safetensors"]'
    )
    (tmp_path / "layer_0.safetensors").rename(deep / "w.safetensors")
    before = method_of_folder(tmp_path).digest
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("\nactivation: relu")
    assert method_of_folder(tmp_path).digest != before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"subfolder": "../other"}, "subfolder=../other, which is not in its folder"),
        ({"subfolder": "OTHER"}, "which is not in its folder"),
        ({"subfolder": "a" * 5000}, "cannot be read .File name too long"),
        ({"subfolder": "[a]"}, "subfolder should be a text"),
        ({"model_kind": "[a]"}, "model_kind should be a text"),
        ({"activation": "[a]"}, "activation should be a text"),
        ({"transcoders": "abc"}, "should be a list of files"),
        ({"activation": "topk", "k": "0x" + "f" * 6000}, "a k that is larger than any"),
    ],
)
def test_values_that_lead_elsewhere_or_are_none(tmp_path, change, expected):
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
        change = {k: v.replace("OTHER", str(tmp_path / "other")) for k, v in change.items()}
        circuit_tracer(tmp_path / name, **(change if name == "ours" else {}))
    with pytest.raises(UsageError, match=expected):
        read_dictionaries(tmp_path / "ours")


def test_two_files_of_one_block(tmp_path):
    circuit_tracer(tmp_path)
    shutil.copy(tmp_path / "layer_1.safetensors", tmp_path / "layer_01.safetensors")
    with pytest.raises(UsageError, match="are both of block 1: keep one"):
        read_dictionaries(tmp_path)


def test_a_subfolder_has_the_weights(tmp_path):
    inside = tmp_path / "clt"
    cross_layer(inside)
    (inside / "config.yaml").unlink()
    lines = ["model_kind: cross_layer_transcoder", "subfolder: clt"]
    lines += ["feature_input_hook: hook_resid_mid", "feature_output_hook: hook_mlp_out"]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert [each.block for each in read_dictionaries(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("room", [True, False])
def test_gemma_scope_2_across_layers(tmp_path, room):
    """A file a block, whose decoders have room for the blocks before, or not."""
    w = save_cross_layer(tmp_path / "ours", D)
    lines = ["model_kind: cross_layer_transcoder", "feature_input_hook: hook_resid_mid"]
    lines += ["feature_output_hook: hook_mlp_out", "transcoders:"]
    (tmp_path / "theirs").mkdir()
    for i in range(3):
        decoder = w[f"W_dec_{i}"]
        if room:
            decoder = torch.cat([decoder.new_full((len(decoder), i, D), 7), decoder], dim=1)
        stored = {
            "w_enc": w[f"W_enc_{i}"].T.contiguous(),
            "w_dec": decoder,
            "b_enc": w[f"b_enc_{i}"],
            "b_dec": w[f"b_dec_{i}"],
            "threshold": w[f"threshold_{i}"],
        }
        save_file(stored, tmp_path / "theirs" / f"params_layer_{i}.safetensors")
        lines.append(f"  - hf://someone/scope/params_layer_{i}.safetensors")
    (tmp_path / "theirs" / "config.yaml").write_text("\n".join(lines))
    for one, other in zip(
        *(read_dictionaries(tmp_path / f) for f in ("ours", "theirs")), strict=True
    ):
        assert (one.hook, one.output, one.block) == (other.hook, other.output, other.block)
        for part in ("encoder", "bias", "decoder", "shift"):
            assert torch.equal(getattr(one, part), getattr(other, part))
        assert torch.equal(one.decoders(), other.decoders())
        assert torch.equal(one.gate.threshold, other.gate.threshold)
