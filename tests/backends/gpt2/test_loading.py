"""Models from folders are loaded, and those that are not what they say are refused."""

import json
import sys

import pytest
import torch
import transformers
from helpers.commands import fails
from helpers.language_models import CONFIGURATIONS
from safetensors.torch import load_file, save_file

from libgraph_backends.gpt2.loading import quiet


def saved(kind, folder):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGURATIONS[kind])
    with quiet():
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "neo", "neox", "llama"])
def test_models_from_folders(kind, run, ids, tmp_path):
    """Without a tokenizer too, and with options as the command line gives them."""
    folder = saved(kind, tmp_path / kind)
    code, out, err = run(
        "analyze", "gpt2", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9",
        "-o", "skip_first=true", "-o", "cuts=sublayers", "-o", "layers=0:1", "--no-ablation",
        "--out", tmp_path / f"run-{kind}", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["backend"] == "gpt2"
    assert err == ""


def no_tensors(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors")


def without_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][2, 3] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def unscaled(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scale_attn_weights": False}))


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (no_tensors, 3, "undamaged"),
        (without_a_weight, 3, "no parameter 'transformer.h.1.mlp.c_fc.weight'"),
        (not_finite, 5, "'transformer.h.1.mlp.c_fc.weight' of the model"),
        (unscaled, 3, "than Hugging Face"),
    ],
)
def test_models_that_are_not_what_they_say(damage, code, message, run, ids, tmp_path):
    folder = saved("gpt2", tmp_path / "model")
    damage(folder)
    result = run("analyze", "gpt2", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9")
    fails(result, code, message)


def test_a_missing_text_or_model(run, tmp_path, ids):
    fails(run("train", "gpt2"), 2, "text")
    fails(run("analyze", "gpt2", "-o", f"model={tmp_path}"), 3, str(tmp_path), "cannot be loaded")
    for name in ("no/such-model", "no such name", "./nowhere"):
        fails(run("analyze", "gpt2", "-o", f"model={name}", "-o", f"text={ids}"), 3, name, "folder")
    fails(run("analyze", "gpt2", "-o", "layers=middle"), 2, "FIRST:LAST")


def test_without_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", None)
    fails(run("analyze", "gpt2"), 3, "pip install 'libgraph[gpt2]'")
