"""What people get wrong on the command line: one sentence, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
import torch
from helpers.commands import RUN_FILES, fails
from safetensors.torch import save_file

from libgraph.backend.registry import ENTRY_POINTS
from libgraph.bases.methods import METHODS
from libgraph.files.run_directory import RunDirectory
from libgraph_cli import progress as progress_module


def test_unknown_backend(run):
    fails(run("analyze", "modular-adition"), 3, "'modular-adition'", "'modular-addition'")
    fails(run("train", "nothing"), 3, "'nothing'")
    fails(run("train", "modular-addition", "-o", "d_model=30"), 2, "heads have to divide")
    fails(run("train", "mlp", "--out", ""), 2, "choose another --out")


def test_unknown_options(analyze, run):
    fails(analyze("-o", "frac_trian=0.3"), 2, "frac_trian", "frac_train")
    fails(analyze("-o", "frac_train"), 2, "key=value")
    fails(analyze("-o", "frac_train=2"), 2, "frac_train", "below 1")
    fails(analyze("--bassis", "lib"), 2, "--bassis", "--basis")
    fails(run("analize"), 2, "analize")


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--basis", "nonesuch", ", ".join(METHODS)),
        ("--integration", "simpson", "gauss-legendre"),
        ("--truncate", "1e-10", "rel:TOL"),
        ("--truncate", "rel:2", "rel:TOL"),
        ("--dtype", "float16", "float32"),
        ("--device", "gpu", "gpu"),
        ("--resolution", "0", "--resolution"),
        ("--seed", "-1", "--seed"),
        ("--batch-size", "0", "--batch-size"),
        ("--memory", "1KiB", "--memory"),
        ("--memory", "lots", "--memory"),
        ("--limit", "0", "at least 1"),
        ("--tolerance", "-1", "zero or more"),
        ("--seed", "many", "many"),
    ],
)
def test_bad_values(analyze, tmp_path, option, value, part):
    fails(analyze(option, value), 2, part)
    assert not (tmp_path / "run").exists()


def spoilt(weights, tmp_path, **changes) -> Path:
    path = tmp_path / "spoilt.safetensors"
    save_file({**weights, **{k.replace("__", "."): v for k, v in changes.items()}}, path)
    return path


def with_weights(run, path: Path, *arguments: object) -> tuple[int, str, str]:
    return run("analyze", "modular-addition", "-o", f"weights={path}", "--out", "r", *arguments)


def test_weights_missing(run, tmp_path):
    fails(with_weights(run, tmp_path / "none.pt"), 3, "no weights file", "none.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_truncated(run, weights, tmp_path, suffix):
    path = tmp_path / f"short.{suffix}"
    if suffix == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(with_weights(run, path), 3, "short")


def test_weights_of_the_wrong_shape(run, weights, tmp_path):
    path = spoilt(weights, tmp_path, blocks__0__mlp__b_in=torch.zeros(5))
    fails(with_weights(run, path), 3, "blocks.0.mlp.b_in", "12")


def test_weights_with_a_parameter_missing(run, weights, tmp_path):
    path = tmp_path / "less.safetensors"
    save_file({k: v for k, v in weights.items() if k != "unembed.W_U"}, path)
    fails(with_weights(run, path), 3, "unembed.W_U")


def test_weights_with_code_in_them(run, tmp_path):
    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "code-was-run"),))

    path = tmp_path / "code.pt"
    torch.save({"embed.W_E": Code()}, path)
    fails(with_weights(run, path), 3, "refused")
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(run, weights, tmp_path, value):
    bad = weights["blocks.0.attn.W_K"].clone()
    bad[0, 0, 0] = value
    path = spoilt(weights, tmp_path, blocks__0__attn__W_K=bad)
    fails(with_weights(run, path), 5, "blocks.0.attn.W_K", "'ln2.0'")
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "r.partial").exists()


def test_activations_that_overflow(run, weights, tmp_path):
    path = spoilt(weights, tmp_path, blocks__0__mlp__W_out=torch.full((12, 8), 3e38))
    fails(with_weights(run, path, "--dtype", "float32"), 5, "node layer 'unembed'")
    assert not (tmp_path / "r.partial").exists()


def test_an_empty_split(analyze, tmp_path):
    fails(analyze("-o", "frac_train=0.001"), 4, "train split", "no samples")
    assert not (tmp_path / "run.partial").exists()


def test_an_existing_run(analyze, finished, tmp_path):
    before = (finished / "run.json").read_bytes()
    fails(analyze(), 2, "--force")
    assert (finished / "run.json").read_bytes() == before
    code, _, err = analyze("--force", "--resolution", "2", "-v")
    assert code == 0
    assert "'bases' is taken from an earlier run" in " ".join(err.split())
    assert json.loads((finished / "metrics.json").read_text())["modules"]["resolution"] == 2
    assert not (tmp_path / "run.partial").exists()
    assert not (tmp_path / "run.old").exists()


def test_a_directory_of_something_else_is_never_replaced(analyze, tmp_path):
    precious = tmp_path / "run" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years of work")
    fails(analyze("--force"), 2, "not a run directory")
    assert precious.read_text() == "years of work"


def test_a_place_that_cannot_be_written(analyze, tmp_path):
    (tmp_path / "file").write_text("")
    fails(analyze(out=tmp_path / "file" / "run"), 2, "Cannot write", "another place")
    fails(analyze(out=tmp_path / "file"), 2, "exists")


def test_a_full_disk(analyze, tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("libgraph.files.atomic.os.replace", full)
        fails(analyze(), 2, "No space left on device", "free some space")
    assert not (tmp_path / "run").exists()
    assert analyze("--no-ablation")[0] == 0


def test_two_runs_into_one_directory(analyze, tmp_path):
    """The second is told so at once, and takes nothing from the first."""
    first = RunDirectory(tmp_path / "run")
    fails(analyze(), 2, "Another run is writing", "another --out")
    assert first.partial.is_dir()
    first.abandon()
    assert analyze("--no-ablation")[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_run_that_appears_meanwhile_is_not_replaced(analyze, tmp_path, monkeypatch):
    shown = progress_module.ProgressDisplay.__call__

    def meanwhile(self, at: str, done: int, total: int | None) -> None:
        shown(self, at, done, total)
        (tmp_path / "run").mkdir(exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(progress_module.ProgressDisplay, "__call__", meanwhile)
        fails(analyze("--no-ablation"), 2, "exists", "--force")
    assert not list((tmp_path / "run").iterdir())


def test_directories_with_names_like_ours_are_left_alone(analyze, tmp_path):
    """Whoever keeps an earlier run as `run.old` finds it there after the next one."""
    old, partial = (tmp_path / f"run.{ending}" / "mine.txt" for ending in ("old", "partial"))
    for file in (old, partial):
        file.parent.mkdir()
        file.write_text("mine")
    fails(analyze("-o", "frac_train=0.001"), 4, "no samples")
    assert old.read_text() == partial.read_text() == "mine"
    for _ in range(2):
        assert analyze("--force", "--no-ablation")[0] == 0
    assert old.read_text() == "mine"
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_backend_that_cannot_be_loaded_hides_no_other(run, monkeypatch):
    broken = EntryPoint("broken", "no_such_module:Backend", ENTRY_POINTS)
    installed = [broken, *entry_points(group=ENTRY_POINTS)]
    monkeypatch.setattr("libgraph.backend.registry.entry_points", lambda group: installed)
    code, out, _ = run("backends")
    assert code == 0
    assert "no_such_module" in " ".join(out.split())
    assert "adds two numbers" in " ".join(out.split())
    fails(run("analyze", "broken"), 3, "no_such_module")


def test_a_link_to_a_run_stays_a_link(analyze, finished, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(finished)
    for _ in range(2):
        assert analyze("--force", out=link)[0] == 0
    assert link.is_symlink()
    assert {file.name for file in link.iterdir()} == RUN_FILES


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("-o", f"split_seed={10**30}"), 2, "split_seed"),
        (("--seed", 10**30), 2, "seed"),
        (("--resolution", "inf"), 2, "resolution"),
        (("--device", "meta"), 2, "meta"),
        (("--out", "x" * 300), 2, "File name too long"),
        (("-o", "weights="), 3, "is a directory"),
        (("--truncate", "rel:1"), 5, "No direction at node layer"),
    ],
)
def test_values_nobody_expects(analyze, tmp_path, arguments, code, part):
    fails(analyze(*arguments), code, part)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("analyze", "--help"),
        ("backends",),
        ("backends", "cifar"),
        ("communities", "run", "--json"),
        ("communities", "run"),
        ("compare", "run"),
        ("analyze", "mlp", "--dry-run"),
    ],
)
def test_an_output_that_nobody_reads_to_its_end(run, finished, monkeypatch, arguments):
    """`libgraph … | head` ends well, and without a word."""

    class Closed(io.StringIO):
        def __init__(self) -> None:
            self.descriptor = os.open(os.devnull, os.O_WRONLY)

        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def fileno(self) -> int:
            return self.descriptor

    monkeypatch.setattr(sys, "stdout", Closed())
    code, _, err = run(*arguments)
    assert (code, err) == (0, "")


def test_an_output_that_does_not_take_all(run, monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(sys, "stdout", Full())
    fails(run("backends"), 2, "Cannot write the output (No space left on device)")


def test_progress_that_nobody_reads_stops_nothing(analyze, tmp_path, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        def fileno(self) -> int:
            return os.open(os.devnull, os.O_WRONLY)

    monkeypatch.setattr(sys, "stderr", Closed())
    assert analyze("--no-ablation")[0] == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


LONG = "x" * 300
LOCKED = "locked/x"


@pytest.mark.parametrize("name", [LONG, LOCKED])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("analyze", "mlp", "-o", "task=digits", "-o", "model={}"), 3),
        (("analyze", "modular-addition", "-o", "weights={}.safetensors"), 3),
        (("analyze", "mlp", "--basis", "{}.safetensors"), 3),
        (("train", "mlp", "-o", "task=mnist", "-o", "data={}"), 4),
        (("analyze", "cifar", "-o", "data={}"), 4),
        (("analyze", "lm", "-o", "model={}"), 3),
        (("analyze", "mlp", "--config", "{}"), 2),
        (("communities", "{}"), 2),
        (("compare", "{}"), 2),
        (("compare", "{0}", "{0}/y"), 2),
        (("diff", "{0}", "{0}/y"), 2),
    ],
)
def test_what_cannot_be_read_is_not_what_cannot_be_written(
    run, tmp_path, monkeypatch, name, words, code
):
    """Folders that may not be looked into, and names that are too long."""
    if "lm" in words:
        pytest.importorskip("transformer_lens")
    looked = os.stat

    def stat(path, *arguments, **options):
        if isinstance(path, str | Path) and "locked" in Path(path).parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return looked(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        result = run(*(word.format(name) for word in words))
    fails(result, code, name)
    for part in ("Cannot write", "free some space"):
        assert part not in result[2]
    assert "cannot be read (" in result[2] or "--config" in words


def test_an_error_of_the_system_names_its_file(run, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "some/file")

    monkeypatch.setattr("libgraph.backend.registry.load_backend", refuse)
    result = run("analyze", "mlp")
    fails(result, 2, "'some/file' cannot be read or written (Input/output error)")
    assert "space" not in result[2]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "shift_jis"])
@pytest.mark.parametrize(
    "words",
    [("backends",), ("backends", "cifar"), ("communities", "run"), ("compare", "run"),
     ("diff", "run", "run", "--basis-b", "pca"), ("analyze", "mlp", "--dry-run"), ("--help",)],
)  # fmt: skip
def test_any_encoding_of_the_output(run, finished, monkeypatch, encoding, words):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", file)
    code, _, err = run(*words)
    assert code == 0, err
    file.flush()
    out = file.buffer.getvalue().decode(encoding, "replace")
    assert out.strip()
    if words == ("compare", "run") and encoding != "shift_jis":
        assert "ln1.0 -> ln2.0" in out


def test_memory_that_runs_out_where_there_are_no_batches(run, finished, monkeypatch):
    def exhausted(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("libgraph.modules.communities.find_communities", exhausted)
    result = run("communities", finished)
    fails(result, 1, "Not enough memory")
    assert "--batch-size" not in result[2]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("option = 3", "table [option]"),
        ("batch-size = [1, 2]", "takes one value"),
        ("[seed]\nx = 1", "not to a table"),
    ],
)
def test_mistakes_in_a_config_file(analyze, tmp_path, text, part):
    (tmp_path / "c.toml").write_text(text)
    fails(analyze("--config", tmp_path / "c.toml"), 2, part)


def test_a_config_file_reads_as_flags_do(analyze, tmp_path):
    (tmp_path / "c.toml").write_text(
        "tolerance = 0.5\nno-ablation = true\njson = true\n[option]\nfrac-train = 0.5\n"
    )
    code, out, err = analyze("--config", tmp_path / "c.toml")
    assert code == 0, err
    assert json.loads(out)["schema"] == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["options"]["tolerances"] == [0.5]
    assert record["options"]["ablate"] is False
    assert record["backend_options"]["frac_train"] == 0.5


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (torch.zeros(12, device="meta"), "is on the meta device"),
        (torch.zeros(12, dtype=torch.int64), "should hold floating-point"),
        (torch.zeros(12, dtype=torch.complex64), "should hold floating-point"),
    ],
)
def test_weights_of_a_strange_kind(run, weights, tmp_path, change, part):
    path = tmp_path / "strange.pt"
    torch.save({**weights, "blocks.0.mlp.b_in": change}, path)
    fails(with_weights(run, path), 3, "blocks.0.mlp.b_in", part)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out(analyze, tmp_path, monkeypatch, error):
    def exhausted(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("libgraph.analysis.analysis.estimate_interactions", exhausted)
    fails(analyze(), 1, "Not enough memory", "--batch-size")
    assert (tmp_path / "run.partial" / "bases.safetensors").exists()


@pytest.mark.parametrize("error", [AttributeError("no Nope"), ZeroDivisionError("division")])
def test_a_backend_that_breaks_while_it_is_imported(run, monkeypatch, error):
    class Broken:
        name, value = "broken", "my_package:Nope"

        def load(self):
            raise error

    installed = entry_points(group=ENTRY_POINTS)
    monkeypatch.setattr(
        "libgraph.backend.registry.entry_points", lambda group: [*installed, Broken()]
    )
    fails(run("analyze", "broken"), 3, "'broken' cannot be imported", "my_package:Nope", str(error))
    code, out, _ = run("backends")
    assert code == 0
    assert "modular-addition" in out


def test_runs_of_degeneracy_are_no_runs_of_analyze(run, tmp_path):
    (tmp_path / "deg").mkdir()
    for name in ("run.json", "degeneracy.json"):
        (tmp_path / "deg" / name).write_text('{"complete": true}')
    fails(run("communities", "deg"), 2, "holds degeneracy and no run")
    # Replaced by a run of analyze, it is one.
    assert run("analyze", "mlp", "--out", "deg", "--force", "--no-ablation")[0] == 0
    code, _, err = run("communities", "deg")
    assert code == 0, err


def test_an_import_that_was_interrupted(run, monkeypatch):
    def load(name, **_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("libgraph.backend.registry.load_backend", load)
    fails(run("analyze", "mlp"), 130, "Interrupted")
