"""What cannot be read is told as what it is, and what is written wants no more than it needs."""

from __future__ import annotations

import errno
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from libgraph.errors import BackendError, DataError, UsageError
from libgraph.files import run_directory
from libgraph.files.atomic import write_json
from libgraph.files.reading import reading
from libgraph.files.run_directory import RunDirectory, unused_directory
from libgraph.files.weights import read_weights

LONG = "x" * 300


@pytest.fixture
def locked(tmp_path, monkeypatch) -> Path:
    """A folder that may not be looked into, also by whoever may do everything."""
    folder = tmp_path / "locked"
    folder.mkdir()
    looked = os.stat

    def stat(path, *arguments, **options):
        if isinstance(path, str | Path) and f"{folder}{os.sep}" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return looked(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    return folder


def test_a_failed_read_names_the_path_and_the_reason():
    said = re.escape("The text 'a.txt' cannot be read (Permission denied)")
    with pytest.raises(DataError, match=said), reading("a.txt", DataError, "The text "):
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere")
    with pytest.raises(UsageError, match=r"\(of another library\)"), reading("a", UsageError):
        raise OSError("of another library")
    with pytest.raises(ValueError, match="ours"), reading("a", UsageError):
        raise ValueError("ours")


def test_weights_that_cannot_be_read(locked):
    for path in (locked / "w.pt", Path(LONG), Path(f"{LONG}.safetensors")):
        with pytest.raises(BackendError, match="cannot be read"):
            read_weights(path)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_may_not_be_opened_are_not_called_damaged(tmp_path, monkeypatch, name):
    path = tmp_path / name
    save = save_file if name.endswith("safetensors") else torch.save
    save({"w": torch.ones(2)}, path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("libgraph.files.weights.torch.load", refuse)
    monkeypatch.setattr("libgraph.files.weights.load_file", refuse)
    with pytest.raises(BackendError, match=r"cannot be read \(Permission denied\)"):
        read_weights(path)


def test_a_file_system_that_knows_no_permissions(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("chmod", "utime", "fchmod"):
        monkeypatch.setattr(os, name, refuse)
    for _ in range(2):
        directory = RunDirectory(tmp_path / "run", force=True)
        write_json(directory.file("ablation.json"), {})
        directory.complete({})
    assert (tmp_path / "run" / "ablation.json").read_text() == "{}\n"


def test_a_file_system_that_knows_no_locks(tmp_path, monkeypatch):
    class Lock(run_directory.FileLock):
        def acquire(self, *_: object, **__: object):
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_directory, "FileLock", Lock)
    RunDirectory(tmp_path / "run").complete({})
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_stage_that_cannot_be_read_is_made_again(tmp_path, monkeypatch, caplog):
    run = RunDirectory(tmp_path / "run")
    write_json(run.file("ablation.json"), {})
    run.finish("ablation", "abc", 1.0, file="ablation.json")
    run.complete({})
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.name == "ablation.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        directory = RunDirectory(tmp_path / "run", force=True)
    assert not directory.file("ablation.json").exists()
    assert "cannot be read (Permission denied): it is made again" in caplog.text
    directory.abandon()


def test_runs_begun_at_one_moment_have_names_of_their_own(tmp_path):
    path = tmp_path / "runs" / "mlp-20260101-120000"
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda _: stack.enter_context(unused_directory(path)), range(8)))
        names = {each.name for each in chosen}
        assert names == {path.name, *(f"{path.name}-{number}" for number in range(2, 9))}
        # What is claimed can be taken by whoever claimed it.
        RunDirectory(path).complete({})
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with unused_directory(path) as another:
        assert another.name == f"{path.name}-2"
    shutil.rmtree(path)
    with pytest.raises(UsageError, match="Cannot write"), unused_directory(tmp_path / LONG):
        pass


def test_a_name_that_no_system_takes(tmp_path):
    with pytest.raises(UsageError, match="no name for a run directory"):
        RunDirectory(tmp_path / "a\0b")
