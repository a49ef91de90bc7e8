"""A model of characters is trained on any text; the bundled one was."""

import json

import pytest
import torch
from helpers.commands import fails

from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.options import LMOptions
from libgraph_backends.lm.text import token_text
from libgraph_backends.lm.training import learning_rate_share


def test_training_and_analysing_on_the_command_line(run, text, tmp_path):
    code, out, err = run(
        "train", "lm", "-o", f"text={text}", "-o", "steps=12", "-o", "n_ctx=12", "-o", "layers=1",
        "-o", "d_model=8", "-o", "heads=2", "-o", "batch_size=4", "--out", tmp_path / "model",
    )  # fmt: skip
    assert code == 0, err
    assert "validation_loss" in out
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "text.txt"} <= names
    assert "checkpoint.safetensors" not in names
    code, out, err = run(
        "analyze", "lm", "-o", f"model={tmp_path / 'model'}", "-o", f"text={text}", "-o",
        "n_ctx=8", "-o", "sequences=20", "--out", tmp_path / "run", "--tolerance", "0.5",
    )  # fmt: skip
    assert code == 0, err
    assert "0.ln1.normalized" in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["score"]["name"] == "cross-entropy"


def test_the_learning_rate_rises_and_falls_to_a_tenth():
    rates = [learning_rate_share(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[100] == max(rates) == 1
    assert rates[550] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("content", [b"", b"\xff\xff", b"tiny", b"nine char"])
def test_texts_that_cannot_be_trained_on(content, run, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    fails(run("train", "lm", "-o", f"text={path}", "--out", tmp_path / "model"), 4, str(path))
    assert not (tmp_path / "model").exists()


def test_the_bundled_model_reads_shakespeare():
    """At most 1.65 nats a character on text that it was not trained on."""
    backend = LM(LMOptions(n_ctx=128, sequences=40))
    (batch,) = backend.batches("train", 100)
    with torch.no_grad():
        loss = backend.score(backend.network().float()(batch.inputs), batch.targets).mean()
    assert float(loss) <= 1.65
    assert token_text(backend.loaded.tokenizer, 0) == "⏎"
