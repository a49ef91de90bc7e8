"""Language models: sections against Hugging Face's own logits, text, labels, training, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.commands import fails
from helpers.numbers import assert_close, normal, seeded

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.errors import BackendError, DataError, UsageError
from libgraph.testing import check_backend
from libgraph_backends.gpt2.backend import GPT2
from libgraph_backends.gpt2.options import GPT2Options

transformers = pytest.importorskip("transformers")
pytest.importorskip("transformer_lens")

from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

from libgraph_backends.gpt2.loading import quiet  # noqa: E402
from libgraph_backends.gpt2.training import character_tokenizer, schedule  # noqa: E402

VOCABULARY, CONTEXT = 30, 16
TEXT = "the cat sat on the mat, and the dog lay by the door.\n" * 40
SHARED = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
NEOX = {
    "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12,
    "max_position_embeddings": CONTEXT, **SHARED,
}  # fmt: skip


def configurations():
    """Small models of every kind."""
    gpt2 = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": CONTEXT, **SHARED}
    neo = {
        "num_layers": 2, "num_heads": 2, "hidden_size": 8, "max_position_embeddings": CONTEXT,
        "attention_types": [[["global", "local"], 1]], "window_size": 3, "intermediate_size": 12,
    }  # fmt: skip
    llama = {**NEOX, "num_attention_heads": 4, "num_key_value_heads": 2}
    return {
        "gpt2": transformers.GPT2Config(**gpt2),
        "gpt2-untied": transformers.GPT2Config(**gpt2, tie_word_embeddings=False),
        "gpt2-relu": transformers.GPT2Config(**gpt2, activation_function="relu"),
        "neo": transformers.GPTNeoConfig(**neo, **SHARED),
        "neox": transformers.GPTNeoXConfig(
            **NEOX, rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 100.0}
        ),
        "neox-sequential": transformers.GPTNeoXConfig(**NEOX, use_parallel_residual=False),
        "neox-tied": transformers.GPTNeoXConfig(**NEOX, tie_word_embeddings=True),
        "llama": transformers.LlamaConfig(**llama),
    }


KINDS = list(configurations())
CUTS = [
    {},
    {"cuts": "sublayers"},
    {"cuts": "blocks"},
    {"layers": "1:2"},
    {"layers": "0:1", "cuts": "sublayers"},
    {"skip_first": True},
    {"skip_first": True, "layers": "1:", "cuts": "blocks"},
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer(TEXT).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def bridges(tokenizer):
    """Random models whose weights are all random, norms and biases too."""
    found = {}
    for seed, (kind, config) in enumerate(configurations().items()):
        generator = torch.Generator().manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        ).eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        bridge = TransformerBridge.boot_transformers(
            kind, hf_model=model, tokenizer=tokenizer, device="cpu"
        )
        bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
        found[kind] = bridge
    return found


@pytest.fixture
def ids(tmp_path):
    path = tmp_path / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, VOCABULARY, 400))
    return path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Tokens are not kept in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def backend(bridge, source, **options):
    return GPT2(GPT2Options(text=str(source), n_ctx=9, **options), model=bridge)


def forward(model, inputs):
    """The logits, through the sections that are a network and those that come after it."""
    return model._logits(model.cut, model.network()(inputs))


@pytest.mark.parametrize("options", CUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_hugging_face(kind, options, bridges, ids):
    model = backend(bridges[kind], ids, **options)
    inputs = model._splits["test"][:, :-1]
    hugging_face = bridges[kind].original_model.double()
    first = torch.zeros(len(inputs), int("skip_first" in options), dtype=torch.int64)
    with torch.no_grad():
        expected = hugging_face(torch.cat([first, inputs], dim=1)).logits[:, first.shape[1] :]
        found = forward(model, inputs)
    # Rotary angles and GPT-Neo's scores are in single precision whatever the model is.
    assert_close(found, expected, 1e-5)
    hugging_face.float()


@pytest.mark.parametrize("kind", ["gpt2", "neo", "neox"])
def test_in_single_precision_too(kind, bridges, ids):
    model = backend(bridges[kind], ids)
    inputs = model._splits["test"][:, :-1]
    with torch.no_grad():
        outputs = model.network().float()(inputs)
        found = model._logits(model.cut, outputs)
        expected = bridges[kind].original_model(inputs).logits
    assert found.dtype == torch.float32
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("gpt2", {}), ("neo", {"cuts": "sublayers"}), ("neox", {}), ("neox", {"skip_first": True})],
)
def test_the_contract_is_kept(kind, options, bridges, ids):
    check_backend(backend(bridges[kind], ids, **options), samples=2)


def test_node_layers_are_named_like_hooks(bridges, ids):
    names = [layer.name for layer in backend(bridges["gpt2"], ids).network().node_layers]
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
    model = backend(bridges["gpt2"], ids)
    inputs = model._splits["test"][:, :-1]
    network = model.network()
    with torch.no_grad():
        _, cache = bridges["gpt2"].run_with_cache(inputs)
        found = dict(
            zip([n.name for n in network.node_layers], network.activations(inputs), strict=True)
        )
    for name in ("0.resid_pre", "0.resid_mid", "1.resid_pre", "1.resid_mid", "1.resid_post"):
        hook = f"blocks.{name[0]}.hook_{name[2:]}"
        assert_close(found[name][..., :-1].float(), cache[hook], 1e-5)
    variance = cache["blocks.1.ln2.hook_scale"].square() - 1e-5
    assert_close(found["1.ln2.scale"][..., :1].float(), variance, 1e-4)


def test_the_score_is_the_loss_of_the_next_token(bridges, ids):
    for options in ({}, {"layers": "0:1"}):
        model = backend(bridges["gpt2"], ids, **options)
        (batch,) = model.batches("test", 100)
        with torch.no_grad():
            found = model.score(model.network()(batch.inputs), batch.targets)
            rows = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
            expected = [
                bridges["gpt2"].original_model(row[None], labels=row[None]).loss for row in rows
            ]
        assert_close(found.float(), torch.stack(expected), 1e-5)


def test_what_sections_cannot_do_is_found_out(bridges, ids):
    """A model that claims to be like GPT-2 and computes something else."""
    bridge = bridges["gpt2-relu"]
    bridge.cfg.act_fn = "gelu"
    try:
        with pytest.raises(BackendError, match=r"other logits .* no section"):
            backend(bridge, ids).network()
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
        ("output_logits_soft_cap", 30.0, "soft cap"),
        ("rotary_adjacent_pairs", True, "rotary positions of a kind"),
    ],
)
def test_structures_without_a_section_are_named(name, value, message, bridges, ids, monkeypatch):
    bridge = bridges["neox"]
    monkeypatch.setattr(bridge.cfg, name, value, raising=False)
    with pytest.raises(BackendError, match=message):
        backend(bridge, ids).network()


def test_cross_attention_is_named(bridges, ids, monkeypatch):
    config = bridges["gpt2"].original_model.config
    monkeypatch.setattr(config, "add_cross_attention", True)
    with pytest.raises(BackendError, match="cross-attention"):
        backend(bridges["gpt2"], ids).network()


# Text


def test_rows_are_packed_and_held_out(bridges, ids):
    model = backend(bridges["gpt2"], ids, gram_sequences=11)
    rows = np.load(ids)[:400].reshape(40, 10)
    assert [model.samples(split) for split in ("train", "test", "bases")] == [30, 10, 11]
    train = torch.cat([batch.inputs for batch in model.batches("train", 7)])
    assert np.array_equal(train, rows[:30, :-1])
    targets = torch.cat([batch.targets for batch in model.batches("test", 7)])
    assert np.array_equal(targets, rows[30:, 1:])
    assert model.bases_split == "bases"
    assert backend(bridges["gpt2"], ids).bases_split == "train"


def test_bases_may_come_from_more_text_than_interactions(bridges, ids):
    def run(**options):
        model = backend(bridges["gpt2"], ids, layers="0:1", cuts="sublayers", **options)
        return lg.analyze(model, limit=3, ablate=False)

    few, many = run(), run(gram_sequences=30)
    assert len(few.bases("pca")["0.resid_pre"]) > 1
    expected = Data(backend(bridges["gpt2"], ids), "train")
    with torch.no_grad():
        x = torch.cat([batch.inputs for batch in expected])
        x = backend(bridges["gpt2"], ids).network().embed(x).flatten(0, 1)[:, :-1]
    total = (x - x.mean(0)).square().mean(0).sum()
    assert_close(many.bases("pca")["0.resid_pre"].importance[1:].sum(), total, 1e-9)
    assert float(few.bases("pca")["0.resid_pre"].importance[1:].sum()) != pytest.approx(
        float(total)
    )


def test_text_files_are_tokenised_once(bridges, text, cache, monkeypatch):
    model = backend(bridges["gpt2"], text)
    assert "".join(model.token_name(int(t)) for t in model._splits["train"][0]) == TEXT[:10]
    (kept,) = (cache / "libgraph").iterdir()
    again = backend(bridges["gpt2"], text)
    monkeypatch.setattr("libgraph_backends.gpt2.text._tokenised", None)
    assert torch.equal(again._splits["test"], model._splits["test"])
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    once_more = backend(bridges["gpt2"], text)
    assert torch.equal(once_more._splits["test"], model._splits["test"])


def test_lines_of_json(bridges, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"story": line}) + "\n" for line in TEXT.splitlines()))
    model = backend(bridges["gpt2"], path, column="story")
    found = "".join(model.token_name(int(t)) for row in model._splits["train"] for t in row)
    assert found.startswith("the cat sat on the mat, and the dog lay by the door.⏎the cat")
    with pytest.raises(DataError, match=r"Line 1 of .* field 'text'"):
        backend(bridges["gpt2"], path).samples("train")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.txt", "short", DataError, "5 tokens, fewer than one sequence of 10"),
        ("a.txt", "the cat on", DataError, "none to compute on"),
        ("a.txt", "ΔΔΔ the cat ΔΔΔ sat", DataError, "does not know 6 of 19"),
        ("a.jsonl", '{"text": null}\n', DataError, "Line 1"),
        ("a.jsonl", "[" * 100_000, DataError, "Line 1"),
        ("a.txt", b"\xff\xfe\xfa", DataError, "not text in UTF-8"),
        ("a.npy", "no array", DataError, "not a NumPy array"),
        ("a.jsonl", "[1]\n", DataError, "Line 1"),
    ],
)
def test_texts_that_cannot_be_used(name, content, error, message, bridges, tmp_path):
    with pytest.raises(error, match=message):
        backend(bridges["gpt2"], write(tmp_path / name, content)).samples("train")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, 2, VOCABULARY] * 20), f"token {VOCABULARY}, but .* 0 to {VOCABULARY - 1}"),
        (np.array([1, 2, -1] * 20), "token -1"),
        (np.ones(40), "not token ids"),
        (np.array([object()]), "not a NumPy array"),
        (np.array([2**64 - 5] * 40, dtype=np.uint64), "has token 4611686018427387904"),
        (np.ones(40, dtype="timedelta64[s]"), "not token ids"),
    ],
)
def test_token_ids_that_cannot_be_used(ids, message, bridges, tmp_path):
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(DataError, match=message):
        backend(bridges["gpt2"], tmp_path / "ids.npy").samples("train")


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
    model = GPT2(GPT2Options(text=str(ids), **options), model=bridges["gpt2"])
    with pytest.raises(UsageError, match=message):
        model.network()


def test_texts_that_are_not_there(bridges, tmp_path):
    for name, message in (("none.txt", "does not exist"), ("", "is a folder")):
        with pytest.raises(DataError, match=message):
            backend(bridges["gpt2"], tmp_path / name).samples("train")
    np.savez(tmp_path / "zip", a=np.ones(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(DataError, match="not a NumPy array"):
        backend(bridges["gpt2"], tmp_path / "zip.npy").samples("train")


def test_line_ends_and_separators_within_lines(bridges, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    model = backend(bridges["gpt2"], path)
    found = "".join(model.token_name(int(t)) for row in model._splits["train"] for t in row)
    assert found.startswith("the cat sat on the mat, and the dog lay by the door.⏎the")
    lines = tmp_path / "a.JSONL"
    lines.write_text('{"text": "' + "the cat sat " * 10 + '\u2028\\ud800"}\n', encoding="utf-8")
    assert backend(bridges["gpt2"], lines).samples("train") == 9


# Labels


def test_features_are_labelled(bridges, text):
    model = backend(bridges["gpt2"], text, cuts="sublayers")
    run = lg.analyze(model, ablate=False)
    layers = {layer.name: layer for layer in run.graph().layers}
    assert layers["0.resid_mid"].labels[0].text == "constant"
    scale = lg.analyze(backend(bridges["gpt2"], text, layers="0:1"), ablate=False).graph()
    assert (
        {each.name: each for each in scale.layers}["0.ln1.scale"]
        .labels[1]
        .text.startswith("variance")
    )
    # What drives a feature most, found again from the feature itself.
    basis = run.bases("lib")["0.resid_mid"]
    rows = model._splits["train"][:, :-1]
    network = model.network()
    x = network.activations_at([n.name for n in network.node_layers].index("0.resid_mid"), rows)
    for j in (1, 2, 3):
        f = (x @ basis.encoder)[..., j].flatten()
        for sign, values in (("+", f), ("−", -f)):
            place = int(values.argmax())
            token = model.token_name(int(rows.flatten()[place]))
            label = layers["0.resid_mid"].labels[j].text
            (part,) = (each for each in label.split(" | ") if each.startswith(sign))
            # Repeated text gives ties: the context of one of the largest is shown.
            assert f"[{token}]" in part


def test_effects_on_logits(bridges, text):
    model = backend(bridges["gpt2-untied"], text, cuts="sublayers")
    run = lg.analyze(model, ablate=False)
    labels = {layer.name: layer for layer in run.graph().layers}["1.resid_post"].labels
    decoder = run.bases("lib")["1.resid_post"].decoder[3, :-1]
    bridge = bridges["gpt2-untied"]
    centred = decoder - decoder.mean()
    logits = (centred * bridge.ln_final.weight.double()) @ bridge.W_U.double()
    strongest = model.token_name(int(logits.argmax()))
    assert f"logits + {strongest} " in labels[3].text


def test_positional_features_are_recognised(bridges, ids):
    from libgraph_backends.gpt2.labels import Responses

    generator = seeded(0)
    position = normal(generator, 7)
    noise = normal(generator, 50, 7)
    f = torch.stack([position.expand(50, 7), noise, position + noise], dim=-1)
    f = torch.cat([f, torch.full_like(f[..., :1], 3.0)], dim=-1)
    found = Responses.beginning(f[:20], 1)
    for first, part in zip((0, 20), (f[:20], f[20:]), strict=True):
        found.add(part, torch.zeros(len(part), 7, dtype=torch.int64), first)
    alone, none, both, constant = found.positional(50).tolist()
    assert constant == 0
    assert alone == pytest.approx(1)
    assert none < 0.02
    share = float(position.var(correction=0) / (position.var(correction=0) + noise.var()))
    assert both == pytest.approx(share, abs=0.05)


def test_a_token_carries_its_share_of_a_feature():
    from libgraph_backends.gpt2.labels import EXAMPLES, Responses

    tokens = torch.tensor([[0, 1, 2], [1, 1, 0]])
    f = torch.tensor([[[1.0], [2.0], [0.0]], [[2.0], [-3.0], [1.0]]])
    found = Responses.beginning(f - f.mean(), 3)
    found.add(f, tokens, 0)
    assert found.by_token[:, 0].tolist() == [2, 17, 0]
    # About the mean where there is one: a token is not strong for being frequent.
    found = Responses.beginning(f, 3)
    found.add(f, tokens, 0)
    assert found.by_token[:, 0].tolist() == pytest.approx([0.5, 16.75, 0.25])
    assert EXAMPLES == 3
    assert found.extremes[0, :, 0].tolist() == [2, 2, 1]
    assert found.extremes[1, 0, 0] == 3
    assert found.places[1, 0, 0] == 4


# The command


def test_training_and_analysing_on_the_command_line(run, text, tmp_path):
    code, out, err = run(
        "train", "gpt2", "-o", f"text={text}", "-o", "steps=12", "-o", "n_ctx=12", "-o", "layers=1",
        "-o", "d_model=8", "-o", "heads=2", "-o", "batch_size=4", "--out", tmp_path / "model",
    )  # fmt: skip
    assert code == 0, err
    assert "validation_loss" in out
    kept = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "text.txt"} <= kept
    assert "checkpoint.safetensors" not in kept
    code, out, err = run(
        "analyze", "gpt2", "-o", f"model={tmp_path / 'model'}", "-o", f"text={text}", "-o",
        "n_ctx=8", "-o", "sequences=20", "--out", tmp_path / "run", "--tolerance", "0.5",
    )  # fmt: skip
    assert code == 0, err
    assert "0.ln1.normalized" in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["score"]["name"] == "cross-entropy"


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path, text):
    from safetensors.torch import load_file

    from libgraph.backend.train import train_model

    small = {
        "text": text, "n_ctx": 12, "layers": 1, "d_model": 8, "heads": 2, "batch_size": 4,
        "steps": 8,
    }  # fmt: skip
    train_model(GPT2, small, tmp_path / "whole")
    stopped = []

    def stop(stage, done, total, note):
        stopped.append(done)
        if done == 5:
            raise KeyboardInterrupt

    from libgraph_backends.gpt2 import training as module

    fit = module.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", lambda *a, **k: fit(*a, **k, evaluate_every=3))
        with pytest.raises(KeyboardInterrupt):
            train_model(GPT2, small, tmp_path / "parts", progress=stop)
        assert (tmp_path / "parts" / "checkpoint.safetensors").is_file()
        train_model(GPT2, small, tmp_path / "parts", progress=lambda *event: stopped.append(event))
    assert stopped[5][1] == 4
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_learning_rate_rises_and_falls():
    rates = [schedule(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"tiny", b"nine char"])
def test_texts_that_cannot_be_trained_on(content, run, tmp_path):
    path = write(tmp_path / "text.txt", content)
    fails(run("train", "gpt2", "-o", f"text={path}", "--out", tmp_path / "model"), 4, str(path))
    assert not (tmp_path / "model").exists()


def test_a_missing_text_or_model(run, tmp_path, ids, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    fails(run("train", "gpt2"), 2, "text")
    fails(run("analyze", "gpt2", "-o", f"model={tmp_path}"), 3, str(tmp_path), "cannot be loaded")
    for name in ("no/such-model", "no such name"):
        fails(run("analyze", "gpt2", "-o", f"model={name}", "-o", f"text={ids}"), 3, name, "folder")
    fails(run("analyze", "gpt2", "-o", "layers=middle"), 2, "FIRST:LAST")


def save(bridge_config, folder, change=None, seed=0):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(bridge_config)
    if change is not None:
        change(model)
    with quiet():
        model.save_pretrained(folder)
    return folder


def test_models_from_folders(run, ids, tmp_path):
    """Without a tokenizer too, and with options as the command line gives them."""
    for kind in ("gpt2", "neo", "neox", "llama"):
        folder = save(configurations()[kind], tmp_path / kind)
        code, out, err = run(
            "analyze", "gpt2", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9",
            "-o", "skip_first=true", "-o", "cuts=sublayers", "-o", "layers=0:1", "--no-ablation",
            "--out", tmp_path / f"run-{kind}", "--json", "--quiet",
        )  # fmt: skip
        assert code == 0, err
        assert json.loads(out)["backend"] == "gpt2"
        assert err == ""


def drop_file(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors")


def without_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][2, 3] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def unscaled(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scale_attn_weights": False}))


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (drop_file, 3, "undamaged"),
        (without_a_weight, 3, "no parameter 'transformer.h.1.mlp.c_fc.weight'"),
        (not_finite, 5, "'transformer.h.1.mlp.c_fc.weight' of the model"),
        (unscaled, 3, "than Hugging Face"),
    ],
)
def test_models_that_are_not_what_they_say(damage, code, message, run, ids, tmp_path):
    folder = save(configurations()["gpt2"], tmp_path / "model")
    damage(folder)
    result = run("analyze", "gpt2", "-o", f"model={folder}", "-o", f"text={ids}", "-o", "n_ctx=9")
    fails(result, code, message)


def test_without_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", None)
    fails(run("analyze", "gpt2"), 3, "pip install 'libgraph[gpt2]'")


def test_listing_backends_imports_no_transformers():
    code = "import sys, libgraph_cli.main, libgraph as lg; lg.backend_names(); print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "transformers" not in found.stdout
    assert "transformer_lens" not in found.stdout


def test_the_bundled_model_reads_shakespeare():
    """At most 1.65 nats a character on text that it was not trained on."""
    model = GPT2(GPT2Options(n_ctx=128, sequences=40))
    (batch,) = model.batches("train", 100)
    with torch.no_grad():
        loss = model.score(model.network().float()(batch.inputs), batch.targets).mean()
    assert float(loss) <= 1.65
    assert model.token_name(0) == "⏎"
