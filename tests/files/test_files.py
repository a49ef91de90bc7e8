import errno
import json
import pickle
import stat

import pytest
import torch
from safetensors.torch import save_file

from libgraph.errors import BackendError, UsageError
from libgraph.files.atomic import explained, read_json, write_json, writing
from libgraph.files.run_directory import RunDirectory, hash_of
from libgraph.files.tensors import read_tensors, write_tensors
from libgraph.files.weights import read_weights

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4, dtype=torch.float64)}


class Payload:
    """Unpickling it makes a directory."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return type(self.marker).mkdir, (self.marker,)


def save_zip(value, path):
    torch.save(value, path)


def save_legacy(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


def assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def cut_short(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_checkpoints_are_read(tmp_path, save):
    path = tmp_path / "model.pt"
    save({**TENSORS, "epoch": 3}, path)
    assert_equal(read_weights(path), TENSORS)


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    assert_equal(read_weights(path), TENSORS)


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, save):
    path, marker = tmp_path / "model.pt", tmp_path / "the code ran"
    save({**TENSORS, "extra": Payload(marker)}, path)
    with pytest.raises(BackendError, match=r"model\.pt"):
        read_weights(path)
    assert not marker.exists()


def test_the_code_in_a_checkpoint_would_have_run(tmp_path):
    marker = tmp_path / "the code ran"
    pickle.loads(pickle.dumps(Payload(marker)))  # noqa: S301
    assert marker.exists()


def test_a_refusal_says_why_and_what_to_do(tmp_path):
    path = tmp_path / "model.pt"
    save_zip({"extra": Payload(tmp_path / "marker")}, path)
    with pytest.raises(BackendError, match=r"more than tensors.*could run code.*state_dict"):
        read_weights(path)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_that_are_not_there(tmp_path, name):
    with pytest.raises(BackendError, match=f"no weights file '.*{name}'"):
        read_weights(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(BackendError, match="no weights file"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 1000, b"PK\x03\x04garbage"])
def test_garbage_is_no_model(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BackendError, match=name):
        read_weights(path)


@pytest.mark.parametrize("content", [b".", b"apples"])
def test_a_pickle_of_nonsense_is_no_model(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(BackendError, match="model"):
        read_weights(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("save", [save_zip, save_legacy, save_file])
def test_damaged_weights(tmp_path, save, share):
    path = tmp_path / ("model.safetensors" if save is save_file else "model.pt")
    save({"weight": torch.randn(100, 100)}, path)
    cut_short(path, share)
    with pytest.raises(BackendError, match="model"):
        read_weights(path)


@pytest.mark.parametrize("value", [torch.ones(3), [torch.ones(3)], 7])
def test_a_checkpoint_must_hold_tensors_by_name(tmp_path, value):
    path = tmp_path / "model.pt"
    torch.save(value, path)
    with pytest.raises(BackendError, match=f"holds a {type(value).__name__}, not a state dict"):
        read_weights(path)


def write_half(path):
    with writing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent
        assert not path.exists()
        raise KeyboardInterrupt


def test_writing_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert not list(path.parent.iterdir())
    with writing(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "another place")]
)
def test_system_errors_become_a_sentence(tmp_path, number, advice):
    path = tmp_path / "file"
    with pytest.raises(UsageError, match=f"Cannot write '.*file'.*{advice}"), explained(path):
        raise OSError(number, "no")


def test_writing_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Cannot write"):
        write_tensors(tmp_path / "file" / "below.safetensors", TENSORS)


def test_files_are_as_readable_as_any(tmp_path):
    ordinary, path = tmp_path / "ordinary", tmp_path / "tensors.safetensors"
    ordinary.touch()
    write_tensors(path, TENSORS)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_the_same_tensors_make_the_same_bytes(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_tensors(first, TENSORS)
    write_tensors(second, {name: TENSORS[name].clone() for name in sorted(TENSORS)})
    assert first.read_bytes() == second.read_bytes()
    assert_equal(read_tensors(first), TENSORS)


def test_tensors_of_any_layout_can_be_written(tmp_path):
    matrix = torch.arange(12.0).reshape(3, 4).requires_grad_()
    views = {"transposed": matrix.T, "number": torch.tensor(2.0), "empty": torch.ones(0, 3)}
    write_tensors(tmp_path / "views", views)
    assert_equal(read_tensors(tmp_path / "views"), {k: v.detach() for k, v in views.items()})


def test_tensors_that_share_memory_can_be_written(tmp_path):
    """As encoder and decoder of a one-feature basis without constant do: `.T.contiguous()`."""
    column = torch.ones(3, 1)
    tensors = {"encoder": column, "decoder": column.T.contiguous()}
    write_tensors(tmp_path / "shared", tensors)
    assert_equal(read_tensors(tmp_path / "shared"), tensors)


@pytest.mark.parametrize("content", [None, b"garbage"])
@pytest.mark.parametrize("read", [read_tensors, read_json])
def test_results_that_cannot_be_read(tmp_path, read, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read.*delete it and run again"):
        read(path)


def test_hashes_depend_on_every_part_and_not_on_the_order_of_names():
    parts = [("a", {"x": 1, "y": [2, None]}), ("a", {"x": 1, "y": [2, 0]}), ("b", {"x": 1})]
    assert len({hash_of(*several) for several in parts}) == 3
    assert hash_of({"x": 1, "y": 2}) == hash_of({"y": 2, "x": 1})
    assert hash_of("ab", "c") != hash_of("a", "bc")


def completed(path, stages=("statistics",)):
    run = RunDirectory(path)
    write_tensors(run.file("bases.safetensors"), TENSORS)
    for stage in stages:
        run.finish(stage, f"hash of {stage}", 1.23456)
    run.complete({"backend": "toy"})
    return run


def test_a_run_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "runs" / "one"
    run = RunDirectory(path)
    assert not run.resumed
    run.file("metrics.json").write_text("{}")
    assert not path.exists()
    run.finish("statistics", "abc", 0.12345)
    run.complete({"backend": "toy"})
    assert sorted(file.name for file in path.iterdir()) == ["metrics.json", "run.json"]
    assert list(path.parent.iterdir()) == [path]
    assert read_json(path / "run.json") == {
        "backend": "toy",
        "complete": True,
        "stages": {"statistics": {"hash": "abc", "seconds": 0.123}},
    }


def test_finished_stages_survive_an_interruption(tmp_path):
    first = RunDirectory(tmp_path / "run")
    first.finish("bases", "abc", 1.0)
    first.file("bases.safetensors").write_bytes(b"content")
    assert first.abandon()
    again = RunDirectory(tmp_path / "run")
    assert again.resumed
    assert again.finished("bases", "abc")
    assert not again.finished("bases", "other")
    assert not again.finished("edges", "abc")
    assert again.file("bases.safetensors").read_bytes() == b"content"
    assert dict(again.stages["bases"]) == {"hash": "abc", "seconds": 1.0}


def test_a_run_without_finished_stages_leaves_nothing(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.file("half").write_text("half")
    assert not run.abandon()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "null", '{"stages": 3}', '{"stages": {"bases": 3}}']
)
def test_a_damaged_record_means_that_nothing_is_finished(tmp_path, content):
    partial = tmp_path / "run.partial"
    partial.mkdir()
    (partial / "run.json").write_text(content)
    assert not RunDirectory(tmp_path / "run").stages


def test_a_complete_run_is_replaced_only_by_force(tmp_path):
    path = tmp_path / "run"
    completed(path)
    with pytest.raises(UsageError, match="exists: use force=True"):
        RunDirectory(path)
    run = RunDirectory(path, force=True)
    assert run.finished("statistics", "hash of statistics")
    assert_equal(read_tensors(run.file("bases.safetensors")), TENSORS)
    run.file("new").touch()
    assert not (path / "new").exists()
    run.complete({"backend": "other"})
    assert read_json(path / "run.json")["backend"] == "other"
    assert (path / "new").exists()
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_that_is_interrupted_leaves_the_old_run(tmp_path):
    path = tmp_path / "run"
    completed(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    run = RunDirectory(path, force=True)
    run.file("bases.safetensors").write_bytes(b"half")
    run.finish("edges", "abc", 1.0)
    run.abandon()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    again = RunDirectory(path, force=True)
    assert again.resumed
    assert again.finished("edges", "abc")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_run_is_never_replaced(tmp_path, kind, force):
    path = tmp_path / "thesis"
    if kind == "directory":
        path.mkdir()
        (path / "chapter").write_text("precious")
    else:
        path.write_text("precious")
    with pytest.raises(UsageError, match="is not a run directory" if force else "exists"):
        RunDirectory(path, force=force)
    assert list(tmp_path.iterdir()) == [path]
    kept = path / "chapter" if kind == "directory" else path
    assert kept.read_text() == "precious"


def test_a_run_below_a_file_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Cannot write"):
        RunDirectory(tmp_path / "file" / "run")


@pytest.mark.parametrize("name", [".", "/"])
def test_a_run_directory_without_a_name_is_a_user_error(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        RunDirectory(type(tmp_path)(name))


def test_the_record_of_a_run_that_goes_on_says_so(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.finish("bases", "abc", 1.0)
    assert json.loads(run.file("run.json").read_text())["complete"] is False
