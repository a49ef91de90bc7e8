"""Models from folders are loaded, and those that are not what they say are refused."""

import json
import re
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
import transformers
from helpers.commands import fails
from helpers.language_models import CONFIGURATIONS
from helpers.numbers import assert_close
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

from libgraph import load_backend
from libgraph.errors import BackendError
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.loading import load_model
from libgraph_backends.lm.options import LMOptions
from libgraph_backends.lm.training import character_tokenizer


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
        "analyze", "lm", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9",
        "-o", "skip_first=true", "-o", "cuts=sublayers", "-o", "layers=0:1", "--no-ablation",
        "--out", tmp_path / f"run-{kind}", "--json", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["backend"] == "lm"
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


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (no_tensors, 3, "undamaged"),
        (without_a_weight, 3, "no parameter 'transformer.h.1.mlp.c_fc.weight'"),
        (not_finite, 5, "'transformer.h.1.mlp.c_fc.weight' of the model"),
    ],
)
def test_models_that_are_not_what_they_say(damage, code, message, run, ids, tmp_path):
    folder = saved("gpt2", tmp_path / "model")
    damage(folder)
    result = run("analyze", "lm", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9")
    fails(result, code, message)


def change_configuration(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def add(folder, **tensors):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | tensors, folder / "model.safetensors", {"format": "pt"})


def fewer_layers(folder):
    change_configuration(folder, n_layer=1)


def fewer_positions(folder):
    change_configuration(folder, n_positions=9)


def another_norm(folder):
    add(folder, **{"transformer.h.0.ln_3.weight": torch.ones(8)})


def bias_of_logits(folder):
    add(folder, **{"lm_head.bias": torch.ones(30)})


def adapter(folder):
    (folder / "adapter_config.json").write_text("{}")


def sees_images(folder):
    change_configuration(folder, original_architecture="LlavaForConditionalGeneration")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (fewer_layers, "holds 'transformer.h.1.*' and 10 more, for which its configuration has no"),
        (another_norm, "holds 'transformer.h.0.ln_3.weight', for which"),
        (bias_of_logits, "holds 'lm_head.bias', for which"),
        (fewer_positions, r"'transformer.wpe.weight' .* shape \(16, 8\), and \(9, 8\) by its"),
        (adapter, "holds an adapter"),
        (sees_images, "more than go on with a text"),
    ],
)
def test_nothing_of_a_model_is_left_out(damage, message, tmp_path):
    folder = saved("gpt2", tmp_path / "model")
    damage(folder)
    with pytest.raises(BackendError, match=message):
        load_model(str(folder), None)


def test_what_files_hold_beside_a_language_model(tmp_path, caplog):
    """Masks of older versions are no parameters; another head is named."""
    folder = saved("neo", tmp_path / "model")
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool).tril()
    add(folder, **{"transformer.h.1.attn.attention.bias": mask})
    load_model(str(folder), None)
    assert not caplog.records
    add(folder, **{"score.weight": torch.ones(2, 8)})
    load_model(str(folder), None)
    assert "holds 'score.weight', left out" in caplog.text


def in_parts(folder, model):
    model.save_pretrained(folder, max_shard_size="1KB")
    assert len([*folder.glob("*.safetensors")]) > 2


def as_pickle(folder, model):
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def without_head(folder, model):
    model.transformer.save_pretrained(folder)


@pytest.mark.parametrize("save", [in_parts, as_pickle, without_head])
def test_files_of_every_form(save, tmp_path):
    torch.manual_seed(0)
    config = deepcopy(CONFIGURATIONS["gpt2"])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with quiet():
        save(tmp_path / "model", model)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        assert_close(load_model(str(tmp_path / "model"), None).model.logits(tokens), expected, 1e-5)


def half(kind, dtype):
    """A model in half precision; its configuration says so."""
    torch.manual_seed(0)
    config = deepcopy(CONFIGURATIONS[kind])
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gpt2", "gpt2-untied"])
def test_half_precision_is_read_as_it_is(kind, dtype, ids, tmp_path):
    model = half(kind, dtype)
    with quiet():
        model.save_pretrained(tmp_path / "model")
    backend = LM(LMOptions(model=str(tmp_path / "model"), text=str(ids), n_ctx=9))
    (batch,) = backend.batches("test", 100)
    with torch.no_grad():
        logits = backend.cut.head.logits(backend.network()(batch.inputs))
        expected = model.double()(batch.inputs).logits
    assert_close(logits, expected, 1e-6)


def test_half_precision_of_a_model_that_is_given(ids, tokenizer):
    bridge = TransformerBridge.boot_transformers(
        "gpt2", hf_model=half("gpt2", torch.bfloat16), tokenizer=tokenizer, device="cpu"
    )
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    with pytest.raises(BackendError, match="computes in bfloat16: load it with"):
        LM(LMOptions(text=str(ids), n_ctx=9), model=bridge).network()


def test_an_output_of_its_own_counts_where_both_are_there(ids, tmp_path):
    """The configuration says that embedding and unembedding are one; the file has two."""
    folder = saved("gpt2", tmp_path / "model")
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.randn(30, 8, generator=generator)
    add(folder, **{"lm_head.weight": unembedding})
    backend = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=9))
    scale = backend.loaded.model.final_norm().weight.double()
    assert_close(backend.cut.head.unembed()[:-1], (unembedding.double() * scale).T, 1e-9)


def test_a_later_block_that_is_another_is_noticed(ids, tmp_path):
    folder = saved("gpt2", tmp_path / "model")
    backend = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=9, layers="0:1"))
    backend.loaded.model.model.transformer.h[1].mlp.register_forward_hook(
        lambda module, inputs, output: 2 * output
    )
    (batch,) = backend.batches("test", 100)
    outputs = backend.network()(batch.inputs)
    with pytest.raises(BackendError, match="other logits"):
        backend.score(outputs, batch.targets)


def test_scores_depend_on_later_blocks(ids, tmp_path):
    """They are no part of the network, but its fingerprint tells other results apart."""
    folder = saved("gpt2", tmp_path / "model")
    before = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=9, layers="0:1"))
    fingerprints = before.network().fingerprint(), before.fingerprint()
    again = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=9, layers="0:1"))
    assert (again.network().fingerprint(), again.fingerprint()) == fingerprints
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_proj.weight"][0, 0] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    after = LM(LMOptions(model=str(folder), text=str(ids), n_ctx=9, layers="0:1"))
    assert after.network().fingerprint() == fingerprints[0]
    assert after.fingerprint() != fingerprints[1]


# Code that comes with a model


def own_code(folder, **configuration):
    """A folder with modules that leave a file behind when they run."""
    saved("gpt2", folder)
    names = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    change_configuration(folder, auto_map=names, **configuration)
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text((folder / "own.py").read_text())
    return folder


def test_code_of_a_model_is_not_run_and_nothing_asked(run, ids, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail(str(question)))
    folder = own_code(tmp_path / "model", model_type="mine")
    result = run("analyze", "lm", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9")
    fails(result, 3, "Python code of its own, which is not run")
    assert "y/N" not in result[1] + result[2]
    assert not (folder / "ran").exists()


def test_a_known_model_with_code_is_read_without_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: pytest.fail(str(question)))
    folder = own_code(tmp_path / "model")
    load_model(str(folder), None)
    assert "comes with Python code, which is not run" in caplog.text
    assert not (folder / "ran").exists()


def test_code_in_a_pickle_is_not_run(tmp_path):
    folder = saved("gpt2", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Runs(folder / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_model(str(folder), None)
    assert not (folder / "ran").exists()


class Runs:
    """What opens a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_asked_of_the_network_for_a_folder(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        pytest.fail("something was asked of the network")

    folder = saved("gpt2", tmp_path / "model")
    character_tokenizer("abc").save_pretrained(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", fail)
    monkeypatch.setattr("socket.getaddrinfo", fail)
    assert load_model(str(folder), None).tokenizer is not None


def test_a_missing_text_or_model(run, tmp_path, ids):
    fails(run("train", "lm"), 2, "text")
    fails(run("analyze", "lm", "-o", f"model={tmp_path}"), 3, str(tmp_path), "cannot be loaded")
    for name in ("no/such-model", "no such name", "./nowhere"):
        fails(run("analyze", "lm", "-o", f"model={name}", "-o", f"text={ids}"), 3, name, "folder")
    fails(run("analyze", "lm", "-o", "layers=middle"), 2, "FIRST:LAST")


@pytest.mark.parametrize(
    ("missing", "model"),
    [("transformer_lens", ()), ("transformer_lens.model_bridge", ("-o", "model=m"))],
    ids=["bundled", "given"],
)
def test_without_the_extra(run, monkeypatch, missing, model):
    """The bundled model is read without TransformerLens, which is asked for all the same."""
    monkeypatch.setitem(sys.modules, missing, None)
    fails(run("analyze", "lm", *model), 3, "need TransformerLens", "[lm]'")


def test_the_earlier_name_is_another_one(run, tmp_path):
    """Runs of `gpt2` go on under that name: nothing that they depend on differs."""
    folder = saved("gpt2", tmp_path / "model")
    given = {"model": str(folder), "n_ctx": "9"}
    old, new = (load_backend(name, **given) for name in ("gpt2", "lm"))
    assert (old.name, new.name) == ("gpt2", "lm")
    assert isinstance(old, LM)
    assert old.options == new.options


@pytest.mark.parametrize(
    ("missing", "command"), [("platformdirs", "analyze"), ("transformers", "train")]
)
def test_without_the_extra_it_is_said_how_to_get_it(missing, command, tmp_path):
    """In a process of its own: what is imported once is there."""
    code = (
        "import sys\n"
        f"sys.modules['{missing}'] = None\n"
        "import libgraph as lg\n"
        "try:\n"
        "    if sys.argv[1] == 'analyze':\n"
        "        lg.analyze(lg.load_backend('lm'))\n"
        "    else:\n"
        "        lg.train('lm', {'text': 'book.txt'}, 'model')\n"
        "except lg.BackendError as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "book.txt").write_text("hello")
    done = subprocess.run(
        [sys.executable, "-c", code, command], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert re.search(r"need TransformerLens .*: run .*\[lm\]'", done.stdout), done.stderr
