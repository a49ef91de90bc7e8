"""A training that was interrupted and taken up again ends where an uninterrupted one does."""

from importlib import import_module

import pytest
from helpers.cifar import write_batches
from helpers.training import EVALUATED_EVERY, interrupted_and_resumed

from libgraph.backend.registry import backend_class
from libgraph.backend.train import train

OPTIONS = {
    "modular-addition": {"modulus": 7, "d_model": 8, "d_mlp": 16, "heads": 2},
    "mlp": {"hidden": "5"},
    "cifar": {"channels": "3,2", "kernels": "5,3", "strides": "5,4", "batch_size": 8},
    "lm": {"n_ctx": 12, "layers": 1, "d_model": 8, "heads": 2, "batch_size": 4},
}
STEPS = 8


@pytest.mark.parametrize("name", OPTIONS)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(name, tmp_path):
    options = {**OPTIONS[name], "steps": STEPS}
    if name == "cifar":
        options["data"] = write_batches(tmp_path)
    if name == "lm":
        pytest.importorskip("transformer_lens")
        options["text"] = tmp_path / "text.txt"
        options["text"].write_text("the cat sat on the mat\n" * 20)
    module = import_module(f"libgraph_backends.{name.replace('-', '_')}.training")
    backend = backend_class(name)
    straight = train(backend, options, tmp_path / "straight")
    resumed, steps = interrupted_and_resumed(module, backend, options, tmp_path / "resumed")
    assert steps == list(range(EVALUATED_EVERY + 1, STEPS + 1))
    assert [record["step"] for record in resumed.history] == [3, 6, 8]
    assert resumed.history[-1]["loss"] == straight.history[-1]["loss"]
    first, second = (
        (tmp_path / folder / "model.safetensors").read_bytes() for folder in ("straight", "resumed")
    )
    assert first == second
    names = {path.name for path in (tmp_path / "resumed").iterdir()}
    assert names == {path.name for path in (tmp_path / "straight").iterdir()}
    assert "checkpoint.safetensors" not in names
