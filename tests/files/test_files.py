import contextlib
import errno
import json
import os
import pickle
import shutil
import stat
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save_file

from libgraph.errors import BackendError, DamagedFile, UsageError
from libgraph.files import manifest
from libgraph.files.atomic import explained, read_json, write_json, writing
from libgraph.files.manifest import (
    changing,
    check_file,
    files_of,
    read_record,
    signed,
)
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
        run.finish(stage, f"hash of {stage}", 1.23456, file="bases.safetensors")
    run.complete({"backend": "toy"})
    return run


def test_a_run_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "runs" / "one"
    run = RunDirectory(path)
    assert not run.resumed
    run.file("metrics.json").write_text("{}")
    assert not path.exists()
    run.finish("statistics", "abc", 0.12345, file="metrics.json")
    run.complete({"backend": "toy"})
    assert sorted(file.name for file in path.iterdir()) == ["metrics.json", "run.json"]
    assert list(path.parent.iterdir()) == [path]
    record = read_record(path)
    assert record == read_json(path / "run.json")
    assert record.pop("sha256") == signed(record)["sha256"]
    assert record == {
        "backend": "toy",
        "complete": True,
        "stages": {
            "statistics": {
                "hash": "abc",
                "seconds": 0.123,
                "file": "metrics.json",
                "sha256": sha256(b"{}").hexdigest(),
            }
        },
        "files": {"metrics.json": {"bytes": 2, "sha256": sha256(b"{}").hexdigest()}},
    }


def test_finished_stages_survive_an_interruption(tmp_path):
    first = RunDirectory(tmp_path / "run")
    first.file("bases.safetensors").write_bytes(b"content")
    first.finish("bases", "abc", 1.0, file="bases.safetensors")
    assert first.abandon()
    again = RunDirectory(tmp_path / "run")
    assert again.resumed
    assert again.finished("bases", "abc")
    assert not again.finished("bases", "other")
    assert not again.finished("edges", "abc")
    assert again.file("bases.safetensors").read_bytes() == b"content"
    assert again.stages["bases"].seconds == 1.0


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
    run.file("edges.safetensors").write_bytes(b"whole")
    run.finish("edges", "abc", 1.0, file="edges.safetensors")
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
    run.file("bases.safetensors").write_bytes(b"whole")
    run.finish("bases", "abc", 1.0, file="bases.safetensors")
    assert json.loads(run.file("run.json").read_text())["complete"] is False


def test_stages_whose_files_are_not_known_are_not_believed(tmp_path):
    """Records of earlier versions name no files: what is there may be anything."""
    path = tmp_path / "run"
    completed(path)
    record = json.loads((path / "run.json").read_text())
    stage = {"hash": "hash of statistics", "seconds": 1.0}
    old = {"complete": True, "stages": {"statistics": stage}, "backend": record["backend"]}
    (path / "run.json").write_text(json.dumps(old))
    assert not RunDirectory(path, force=True).finished("statistics", "hash of statistics")


# What is believed


def half_done(tmp_path, **stages):
    """A run that was interrupted after these stages, each with a file of its name."""
    run = RunDirectory(tmp_path / "run")
    for name, content in stages.items():
        run.file(f"{name}.json").write_bytes(content)
        run.finish(name, f"hash of {name}", 1.0, file=f"{name}.json")
    run.abandon()
    return tmp_path / "run.partial"


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 0x08
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "missing"])
def test_a_stage_whose_file_is_damaged_is_not_believed(tmp_path, caplog, damage):
    partial = half_done(tmp_path, bases=b"[1, 2]", edges=b"[3]")
    file = partial / "bases.json"
    match damage:
        case "flip":
            flipped(file, 1)
        case "missing":
            file.unlink()
        case _:
            file.write_bytes({"cut": b"[1,", "longer": b"[1, 2] ", "empty": b""}[damage])
    again = RunDirectory(tmp_path / "run")
    assert not again.finished("bases", "hash of bases")
    assert again.finished("edges", "hash of edges")
    assert ("stage 'bases' is computed again" in caplog.text) == (damage != "missing")


def test_of_a_file_that_stages_share_only_the_damaged_part_is_lost(tmp_path):
    run = RunDirectory(tmp_path / "run")
    for number, name in enumerate(("lib", "pca")):
        write_json(run.file("ablation.json"), {"lib": [0], "pca": [number]})
        run.finish(name, name, 1.0, file="ablation.json", part=name)
    run.abandon()
    # Written once more by whoever was killed before it could say so.
    write_json(tmp_path / "run.partial" / "ablation.json", {"pca": [1], "lib": [7], "more": []})
    again = RunDirectory(tmp_path / "run")
    assert [again.finished(name, name) for name in ("lib", "pca")] == [False, True]


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_flipped_bit_in_the_record_is_found(tmp_path, at):
    """Wherever it is: nothing is finished then, or what it says is the same."""
    partial = half_done(tmp_path, bases=b"[1, 2]", edges=b"[3]")
    before = read_record(partial)
    flipped(partial / "run.json", at)
    try:
        after = read_record(partial)
    except DamagedFile:
        assert not RunDirectory(tmp_path / "run").stages
    else:
        assert after == before or "sha256" not in after


def test_records_of_stages_of_earlier_versions_are_not_believed(tmp_path):
    partial = half_done(tmp_path, bases=b"[1, 2]")
    stages = {"bases": {"hash": "hash of bases", "seconds": 1.0, "file": "bases.json"}}
    write_json(partial / "run.json", {"complete": False, "stages": stages})
    assert not RunDirectory(tmp_path / "run").finished("bases", "hash of bases")


def test_results_of_stages_that_a_run_lacks_do_not_stay(tmp_path):
    run = RunDirectory(tmp_path / "run")
    for name in ("bases", "lesions"):
        write_json(run.file(f"{name}.json"), [])
        run.finish(name, name, 1.0, file=f"{name}.json")
    run.abandon()
    again = RunDirectory(tmp_path / "run")
    assert again.finished("bases", "bases")
    again.complete({})
    record = read_record(tmp_path / "run")
    assert list(record["stages"]) == ["bases"]
    assert list(record["files"]) == ["bases.json"]
    assert not (tmp_path / "run" / "lesions.json").exists()


# A finished run, and changes of it


def finished(tmp_path, **files):
    run = RunDirectory(tmp_path / "run")
    for name, content in files.items():
        run.file(name).write_text(content)
    run.complete({"backend": "toy"})
    return tmp_path / "run"


def whole(path):
    files = files_of(read_record(path))
    return {name: check_file(path, name, files).read_text() for name in files}


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "other"])
def test_files_are_held_against_the_manifest(tmp_path, damage):
    path = finished(tmp_path, graph="abc", figures="xyz")
    files = files_of(read_record(path))
    assert whole(path) == {"graph": "abc", "figures": "xyz"}
    match damage:
        case "flip":
            flipped(path / "graph", 1)
        case "missing":
            (path / "graph").unlink()
        case _:
            (path / "graph").write_text({"cut": "a", "other": "abd"}[damage])
    assert check_file(path, "figures", files) == path / "figures"
    with pytest.raises(DamagedFile, match=r"graph' cannot be read.*force=True"):
        check_file(path, "graph", files)
    with pytest.raises(DamagedFile, match="no such file"):
        check_file(path, "other", files)


def change(path):
    with changing(path) as staged:
        (staged / "graph").write_text("new")
        (staged / "more").write_text("too")


def test_a_change_is_part_of_the_run(tmp_path):
    path = finished(tmp_path, graph="abc", figures="xyz")
    change(path)
    assert whole(path) == {"graph": "new", "figures": "xyz", "more": "too"}
    assert sorted(file.name for file in path.iterdir()) == ["figures", "graph", "more", "run.json"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", range(12))
def test_a_change_is_made_or_not_wherever_it_stops(tmp_path, monkeypatch, stop):
    path = finished(tmp_path, graph="abc", figures="xyz")
    done = 0

    class Killed(BaseException):
        pass

    def stopping(call):
        def counted(*arguments, **options):
            nonlocal done
            done += 1
            if done > stop:
                raise Killed
            return call(*arguments, **options)

        return counted

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "rmdir", "mkdir"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        # What is killed does not tidy up either.
        patch.setattr(manifest.shutil, "rmtree", stopping(lambda *_, **__: None))
        with contextlib.suppress(Killed):
            change(path)
    before = whole(path)
    assert before in (
        {"graph": "abc", "figures": "xyz"},
        {"graph": "new", "figures": "xyz", "more": "too"},
    )
    change(path)
    assert whole(path) == {"graph": "new", "figures": "xyz", "more": "too"}
    assert not [file for file in path.iterdir() if file.name.startswith(".")]


def test_runs_without_a_manifest_are_changed_too(tmp_path):
    path = finished(tmp_path, graph="abc")
    write_json(path / "run.json", {"complete": True})
    change(path)
    assert (path / "graph").read_text() == "new"
    assert files_of(read_record(path)) is None


@pytest.mark.parametrize("moment", ["gone", "there"])
def test_a_replacement_killed_while_names_change_is_put_right(tmp_path, moment):
    path = finished(tmp_path, graph="abc")
    aside = tmp_path / ".run.abcd_123.old"
    aside.mkdir()
    if moment == "gone":
        path.rename(aside / "run")
    else:
        shutil.copytree(path, aside / "run")
    foreign = tmp_path / ".run.12345678.old"
    foreign.mkdir()
    (foreign / "thesis").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        RunDirectory(path).abandon()
    if moment == "there":
        RunDirectory(path, force=True).abandon()
    assert (path / "graph").read_text() == "abc"
    assert not aside.exists()
    assert (foreign / "thesis").read_text() == "precious"


def test_what_was_being_written_does_not_stay(tmp_path):
    partial = half_done(tmp_path, bases=b"[]")
    (partial / ".edges.json.tmp").write_text("half")
    RunDirectory(tmp_path / "run").complete({})
    assert not list((tmp_path / "run").glob(".*"))


def test_a_link_to_itself_is_no_place_for_a_run(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="link to itself"):
        RunDirectory(tmp_path / "loop")
    assert not (tmp_path / "loop.partial").exists()


def test_files_and_their_names_are_flushed_before_the_rename(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def flushed(number):
        order.append(("flush", os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def renamed(old, new):
        order.append(("rename", str(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "file", {})
    path = str(tmp_path / "file")
    assert order == [
        ("flush", str(tmp_path / ".file.tmp")), ("rename", path), ("flush", str(tmp_path)),
    ]  # fmt: skip


# JSON that comes in

DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (DEEP, "too deep"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "too deep"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "no number"),
        (b"9" * 5000, "digits"),
        (b"\xff\xfe", "utf-8"),
    ],
    ids=["brackets", "braces", "nan", "infinity", "digits", "letters"],
)
def test_json_that_is_refused(tmp_path, content, problem):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        read_json(path)


def test_brackets_in_texts_and_beside_each_other_are_not_deep(tmp_path):
    value = [["[" * 1000 + '"\\'], *([[1]] * 1000), {"}" * 500: "{" * 900}]
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value
