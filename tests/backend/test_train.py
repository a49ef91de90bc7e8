"""Training a backend's model: a record, nothing replaced unasked, nothing left of what fails."""

import json

import pytest

from libgraph.backend.contract import Backend
from libgraph.backend.options import TypedOptions
from libgraph.backend.train import TrainingRecord, train
from libgraph.errors import BackendError, UsageError
from libgraph.files.weights import read_weights
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.network import PARAMETERS
from libgraph_backends.modular_addition.options import TrainingOptions

TINY = {"modulus": 7, "d_model": 8, "d_mlp": 16, "heads": 2, "steps": 20}


@pytest.mark.parametrize("backend", [ModularAddition, "modular-addition"])
def test_options_and_outcome_are_recorded(tmp_path, backend):
    options = {name: str(value) for name, value in TINY.items()}
    record = train(backend, options, tmp_path / "new" / "model")
    written = json.loads((tmp_path / "new" / "model" / "training.json").read_text())
    assert written == record.as_json()
    assert list(written) == ["backend", "options", "libgraph", "torch", "history"]
    assert record.backend == "modular-addition"
    assert record.options == TrainingOptions(**TINY).model_dump()
    assert record.history[-1]["step"] == 20


def test_a_model_is_replaced_only_if_told_to(tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"precious")
    with pytest.raises(UsageError, match="force=True"):
        train(ModularAddition, TINY, tmp_path)
    assert model.read_bytes() == b"precious"
    train(ModularAddition, TINY, str(tmp_path), force=True)
    assert set(read_weights(model)) == set(PARAMETERS)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"step": "3"}, "'step'.*did you mean.*'steps'"), ({"steps": "few"}, "'steps'.*'few'")],
)
def test_a_wrong_option_is_named(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        train(ModularAddition, options, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_a_directory_without_a_name(out):
    with pytest.raises(UsageError, match="no name for a directory"):
        train(ModularAddition, TINY, out)


def test_a_backend_without_training(tmp_path):
    class Untrained(Backend):
        name = "untrained"

    with pytest.raises(BackendError, match="'untrained' has no training"):
        train(Untrained, {}, tmp_path)
    with pytest.raises(BackendError, match="'untrained' has no training"):
        Untrained.train(TypedOptions(), tmp_path, lambda *_: None)


def test_no_such_backend(tmp_path):
    with pytest.raises(BackendError, match="no backend 'modular'; did you mean"):
        train("modular", {}, tmp_path)


class Fragile(Backend):
    """Its training leaves something behind, or nothing."""

    name = "fragile"

    class Training(TypedOptions):
        leaves: bool = False

    @classmethod
    def train(cls, options, directory, progress):
        if options.leaves:
            (directory / "checkpoint").write_text("half")
        raise KeyboardInterrupt


def test_what_ends_before_its_first_checkpoint_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Fragile, {}, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(KeyboardInterrupt):
        train(Fragile, {"leaves": True}, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["checkpoint"]


def test_a_backend_need_not_keep_a_history():
    record = TrainingRecord("x", {}, "1", "2", {"parameters": 3})
    assert list(record.history) == []
    assert list(record.as_json()) == ["backend", "options", "libgraph", "torch", "parameters"]
