"""The bundled model, read by the names in its files, is what the libraries make of it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from libgraph.errors import BackendError
from libgraph_backends.lm import loading
from libgraph_backends.lm.bundled import WEIGHTS, BundledModel
from libgraph_backends.lm.hugging_face import HuggingFaceModel
from libgraph_backends.lm.loading import BUNDLED, load_bundled, load_model


@pytest.fixture(scope="module")
def both():
    """Read by itself, and as every other folder."""
    return load_bundled(), load_model(str(BUNDLED), None)


def values(part):
    """All that is in a part, tensors as they lie in memory: products depend on that."""
    if dataclasses.is_dataclass(part):
        return {f.name: values(getattr(part, f.name)) for f in dataclasses.fields(part)}
    if isinstance(part, tuple):
        return [values(inner) for inner in part]
    if isinstance(part, torch.Tensor):
        return part.dtype, tuple(part.shape), part.stride(), part.tolist()
    return part


def test_its_parts_are_those_that_transformer_lens_finds(both):
    own, known = (loaded.model for loaded in both)
    assert isinstance(own, BundledModel)
    assert isinstance(known, HuggingFaceModel)
    for name in ("tokens", "positions", "final_norm", "unembedding"):
        assert values(getattr(own, name)()) == values(getattr(known, name)())
    for name in ("shape", "first", "embedding_scale", "logit_scale", "logit_cap"):
        assert getattr(own, name) == getattr(known, name)
    for i in range(own.shape.blocks):
        assert values(own.block(i)) == values(known.block(i))


def test_its_logits_digest_and_tokenizer_are_the_same(both):
    own, known = (loaded.model for loaded in both)
    tokens = torch.arange(10).reshape(2, 5)
    assert torch.equal(own.logits(tokens), known.logits(tokens))
    # Stages of runs go on by it.
    assert own.digest() == known.digest()
    first, second = (loaded.tokenizer for loaded in both)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert both[0].trouble is both[1].trouble is None


def test_it_is_read_without_what_takes_long_to_import():
    code = (
        "import sys\n"
        "from libgraph_backends.lm.loading import load_bundled\n"
        "load_bundled().model.block(0)\n"
        "print({'transformer_lens', 'torch._dynamo', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("set()", 0), result.stderr


def without_a_weight(weights):
    del weights["transformer.h.1.mlp.c_fc.weight"]


def with_one_more(weights):
    weights["transformer.h.9.mlp.c_fc.weight"] = torch.zeros(2)


def not_finite(weights):
    weights["transformer.ln_f.bias"][3] = torch.nan


@pytest.mark.parametrize("damage", [without_a_weight, with_one_more, not_finite, None])
def test_damage_is_said_as_of_any_other_model(tmp_path, monkeypatch, damage):
    folder = tmp_path / "weights"
    shutil.copytree(BUNDLED, folder)
    if damage is None:
        (folder / WEIGHTS).write_bytes(b"no tensors")
    else:
        weights = load_file(folder / WEIGHTS)
        damage(weights)
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
    monkeypatch.setattr(loading, "BUNDLED", folder)

    def said(load):
        try:
            load().model.final_norm()
        except Exception as error:
            return type(error), str(error)
        return None

    found = said(load_bundled)
    assert found == said(lambda: load_model(str(folder), None))
    assert issubclass(found[0], BackendError) or damage is not_finite
