"""The command as its users meet it: what it prints, where it writes, how it fails."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from libgraph_backends.modular_addition import TrainingOptions
from libgraph_backends.modular_addition_training import initial_weights
from libgraph_cli import progress as progress_module
from libgraph_cli.main import cli, main
from safetensors.torch import load_file, save_file

from libgraph.settings import AnalysisOptions
from libgraph.store import RunDirectory

TINY = TrainingOptions(modulus=7, d_model=8, heads=2, d_mlp=12)
STAGE_FILES = {"bases.safetensors", "edges.safetensors", "ablation.json"}
RUN_FILES = STAGE_FILES | {
    "metrics.json", "run.json", "graph.graphml", "graph.json", "graph.png"
}  # fmt: skip


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in initial_weights(TINY).items()}


@pytest.fixture
def model(tmp_path, weights) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command in this process: `(exit code, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["libgraph", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def analyze(run, model, tmp_path):
    def call(*arguments: object, out: Path | None = None) -> tuple[int, str, str]:
        where = ("--out", out or tmp_path / "run")
        return run("analyze", "modular-addition", "-o", f"weights={model}", *where, *arguments)

    return call


def fails(result: tuple[int, str, str], code: int, *parts: str) -> None:
    """The exit code, and one sentence with these parts in it; no traceback."""
    found, _, err = result
    assert found == code, err
    text = " ".join(err.split())
    assert "Traceback" not in text
    for part in parts:
        assert part in text


def test_analyze_writes_a_complete_run(analyze, tmp_path):
    code, out, _ = analyze()
    assert code == 0
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES
    for title in ("Features, LIB / PCA", "Edges needed, LIB / PCA", "Modules, LIB"):
        assert title in out
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["complete"]
    assert record["options"]["truncate"] == "rel:1e-10"


def test_json_is_the_metrics_file_and_nothing_else(analyze, tmp_path):
    code, out, _ = analyze("--json")
    assert code == 0
    metrics = json.loads(out)
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert set(metrics["bases"]) == {"lib", "pca"}
    assert metrics["modules"]["partition"].keys() <= {
        f"{layer}/{i}" for layer in metrics["node_layers"] for i in range(200)
    }


def test_the_same_seed_gives_the_same_bytes(analyze, tmp_path):
    for name in ("a", "b"):
        assert analyze(out=tmp_path / name)[0] == 0
    for file in ("bases.safetensors", "edges.safetensors", "graph.graphml", "graph.json"):
        first, second = ((tmp_path / name / file).read_bytes() for name in ("a", "b"))
        assert first == second, file


def test_options_reach_the_analysis(analyze, tmp_path):
    code, out, err = analyze(
        "--basis", "neuron", "--integration", "trapezoid:3", "--truncate", "abs:1e-15",
        "--resolution", "2", "--seed", "4", "--dtype", "float32", "--score-dtype", "float64",
        "--device", "cpu", "--batch-size", "5", "--limit", "9", "--tolerance", "0.1",
        "--tolerance", "0.5",
    )  # fmt: skip
    assert code == 0, err
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert options == {
        "basis": "neuron", "integration": "trapezoid:3", "truncate": "abs:1e-15",
        "resolution": 2.0, "seed": 4, "seeds": 10, "dtype": "float32", "score_dtype": "float64",
        "device": "cpu", "batch_size": 5, "limit": 9, "tolerances": [0.1, 0.5], "ablate": True,
    }  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["bases"]["neuron"]["edges_required"]["ln1.0->ln2.0"]) == {"0.1", "0.5"}
    assert "Δ 0.1" in out
    assert "Δ 0.5" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_help_names_the_defaults():
    """The help text repeats defaults that live in AnalysisOptions; this keeps them together."""
    helps = {p.name: getattr(p, "help", "") for p in cli.commands["analyze"].params}
    names = "basis integration truncate resolution seed dtype score_dtype device batch_size"
    for name in names.split():
        default = str(AnalysisOptions.model_fields[name].default).removesuffix(".0")
        assert f"[{default}]" in helps[name]


def test_no_ablation(analyze, tmp_path):
    code, out, err = analyze("--no-ablation")
    assert code == 0, err
    assert "needed" not in out
    assert not (tmp_path / "run" / "ablation.json").exists()


def test_dry_run_writes_nothing(analyze, tmp_path, model):
    code, out, _ = analyze("--dry-run")
    assert code == 0
    assert "ln1.0" in out
    assert "about" in out
    assert {file.name for file in tmp_path.iterdir()} == {model.name}


def test_config_file_and_environment(analyze, tmp_path, monkeypatch):
    config = tmp_path / "analysis.toml"
    config.write_text("seed = 3\nlimit = 8\nbatch-size = 4\n[option]\nfrac_train = 0.5\n")
    monkeypatch.setenv("LIBGRAPH_ANALYZE_LIMIT", "9")
    code, _, err = analyze("--config", config, "--batch-size", "5", "--no-ablation")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    chosen = {name: record["options"][name] for name in ("seed", "limit", "batch_size")}
    assert chosen == {"seed": 3, "limit": 9, "batch_size": 5}
    assert record["backend_options"]["frac_train"] == 0.5
    config.write_text("sede = 3\n")
    fails(analyze("--config", config), 2, "sede", "seed")
    config.write_text("seed = = 3\n")
    fails(analyze("--config", config), 2, "is not TOML")


def test_progress_is_plain_off_a_terminal_and_silent_if_quiet(analyze, tmp_path):
    _, _, err = analyze()
    assert re.search(r"^statistics: \d+\.\d s$", err, re.MULTILINE)
    assert "\x1b" not in err
    assert analyze("--quiet", "--force")[2] == ""


def test_backends_lists_backends_and_options(run):
    assert "modular-addition" in run("backends")[1]
    out = run("backends", "modular-addition")[1]
    assert "frac_train" in out
    assert "weight_decay" in out


# Bad input


def test_unknown_backend(run):
    fails(run("analyze", "modular-adition"), 3, "'modular-adition'", "'modular-addition'")
    fails(run("train", "nothing"), 3, "'nothing'")


def test_unknown_options(analyze, run):
    fails(analyze("-o", "frac_trian=0.3"), 2, "frac_trian", "frac_train")
    fails(analyze("-o", "frac_train"), 2, "key=value")
    fails(analyze("-o", "frac_train=2"), 2, "frac_train", "less than 1")
    fails(analyze("--bassis", "lib"), 2, "--bassis", "--basis")
    fails(run("analize"), 2, "analize")


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--basis", "ica", "neuron, pca, lib"),
        ("--integration", "simpson", "gauss-legendre"),
        ("--truncate", "1e-10", "rel:TOL"),
        ("--dtype", "float16", "float32"),
        ("--device", "gpu", "gpu"),
        ("--resolution", "0", "resolution"),
        ("--seed", "-1", "seed"),
        ("--batch-size", "0", "batch_size"),
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


def test_an_existing_run(analyze, tmp_path):
    assert analyze()[0] == 0
    before = (tmp_path / "run" / "run.json").read_bytes()
    fails(analyze(), 2, "--force")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    code, _, err = analyze("--force", "--resolution", "2", "-v")
    assert code == 0
    assert "'bases' is taken from an earlier run" in " ".join(err.split())
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["modules"]["resolution"] == 2
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
        patch.setattr("libgraph.files.os.replace", full)
        fails(analyze(), 2, "No space left on device", "free some space")
    assert not (tmp_path / "run").exists()
    assert analyze()[0] == 0


def test_two_runs_into_one_directory(analyze, tmp_path):
    """The second is told so at once, and takes nothing from the first."""
    first = RunDirectory(tmp_path / "run")
    fails(analyze(), 2, "Another run is writing", "another --out")
    assert first.partial.is_dir()
    first.abandon()
    assert analyze()[0] == 0
    assert {file.name for file in tmp_path.iterdir()} == {"run", "tiny.safetensors"}


def test_a_run_that_appears_meanwhile_is_not_replaced(analyze, tmp_path, monkeypatch):
    shown = progress_module.ProgressDisplay.__call__

    def meanwhile(self, at: str, done: int, total: int | None) -> None:
        shown(self, at, done, total)
        (tmp_path / "run").mkdir(exist_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(progress_module.ProgressDisplay, "__call__", meanwhile)
        fails(analyze(), 2, "exists", "--force")
    assert not list((tmp_path / "run").iterdir())


def test_a_link_to_a_run_stays_a_link(analyze, tmp_path):
    assert analyze(out=tmp_path / "real")[0] == 0
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
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
def test_values_nobody_expects(analyze, tmp_path, model, arguments, code, part):
    fails(analyze(*arguments), code, part)
    assert not (tmp_path / "run").exists()


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
    (tmp_path / "c.toml").write_text("tolerance = 0.5\n[option]\nfrac-train = 0.5\n")
    code, _, err = analyze("--config", tmp_path / "c.toml")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["options"]["tolerances"] == [0.5]
    assert record["backend_options"]["frac_train"] == 0.5


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (torch.zeros(12).to_sparse(), "dense floating-point"),
        (torch.zeros(12, dtype=torch.int64), "dense floating-point"),
        (torch.zeros(12, dtype=torch.complex64), "dense floating-point"),
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

    monkeypatch.setattr("libgraph.analysis.interactions", exhausted)
    fails(analyze(), 1, "Not enough memory", "--batch-size")
    assert (tmp_path / "run.partial" / "bases.safetensors").exists()


STAGES = [
    "statistics", "basis at unembed", "basis at ln1.0", "interactions", "node ablation, lib",
    "edge ablation, pca", "modules, lib", "writing",
]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_in_any_stage_and_taken_up_again(analyze, tmp_path, monkeypatch, stage):
    shown = progress_module.ProgressDisplay.__call__

    def interrupt(self, at: str, done: int, total: int | None) -> None:
        shown(self, at, done, total)
        if at == stage:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress_module.ProgressDisplay, "__call__", interrupt)
        fails(analyze(), 130, "Interrupted")
    assert not (tmp_path / "run").exists()
    left = {file.name for file in tmp_path.glob("run.partial/*")}
    assert not any(name.endswith(".tmp") for name in left)
    code, _, err = analyze("-v")
    assert code == 0
    resumed = len(re.findall("is taken from an earlier run", " ".join(err.split())))
    assert resumed == len({"bases.safetensors", "edges.safetensors"} & left) + (
        "ablation.json" in left
    ) * (1 if stage.startswith("edge ablation, pca") else 2)
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES


def test_without_matplotlib_all_but_the_picture_is_there(analyze, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = analyze()
    assert code == 0
    assert "libgraph[report]" in " ".join(err.split())
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES - {"graph.png"}


def test_train(run, tmp_path):
    options = [f"{k}={v}" for k, v in {
        "modulus": 7, "d_model": 8, "heads": 2, "d_mlp": 12, "steps": 3
    }.items()]  # fmt: skip
    train = ["train", "modular-addition", "--out", "m", *(x for o in options for x in ("-o", o))]
    code, out, _ = run(*train, "--seed", "1")
    assert code == 0
    assert "test_accuracy" in out
    assert {file.name for file in (tmp_path / "m").iterdir()} == {
        "model.safetensors", "training.json"
    }  # fmt: skip
    record = json.loads((tmp_path / "m" / "training.json").read_text())
    assert record["options"]["seed"] == 1
    assert len(load_file(tmp_path / "m" / "model.safetensors")) == 16
    fails(run(*train), 2, "--force")
    fails(run(*train, "--force", "-o", "steps=0"), 2, "steps")
    fails(run(*train, "--force", "--seed", "1", "-o", "seed=2"), 2, "--seed")
    other = ["train", "modular-addition", "--out", "n"]
    fails(run(*other, "-o", "heads=3"), 2, "divide d_model")
    fails(
        run(*other, *train[4:], "-o", "learning_rate=1e30", "-o", "weight_decay=1e30"), 5, "lower"
    )
    assert not (tmp_path / "n").exists()
    assert run("analyze", "modular-addition", "-o", "weights=m/model.safetensors",
               "--no-ablation")[0] == 0  # fmt: skip
    assert len(list((tmp_path / "runs").glob("modular-addition-*"))) == 1


# In a process of its own

COMMAND = [sys.executable, "-m", "libgraph_cli"]


def test_help_loads_no_torch():
    code = (
        "import sys; from libgraph_cli.main import cli\n"
        "try: cli(['analyze', '--help'], prog_name='libgraph')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'igraph') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--truncate" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_two_ranks_find_what_one_does(analyze, model, tmp_path):
    """A `torchrun` job shares the batches out and writes one run."""
    assert analyze("--batch-size", "4", out=tmp_path / "one")[0] == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "libgraph_cli", "analyze", "modular-addition", "-o", f"weights={model}"),
            *("--batch-size", "4", "--out", "two"),
        ],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Features, LIB / PCA") == 1
    one, two = (load_file(tmp_path / name / "edges.safetensors") for name in ("one", "two"))
    for name, edges in one.items():
        torch.testing.assert_close(two[name], edges, rtol=1e-6, atol=1e-9 * float(edges.max()))


def test_a_real_interrupt_leaves_no_half_written_file(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "analyze", "modular-addition", "--out", "run"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = [process.stderr.readline() for _ in range(2)]
    assert lines[0].startswith("statistics"), lines
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert "Traceback" not in rest
    assert not (tmp_path / "run").exists()
