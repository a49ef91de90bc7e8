"""The command as its users meet it: what it prints, where it writes, how it goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import torch
from helpers.commands import RUN_FILES, fails
from safetensors.torch import load_file

from libgraph_cli import progress as progress_module


def test_analyze_writes_a_complete_run(analyzed):
    assert {file.name for file in analyzed.path.iterdir()} == RUN_FILES
    for title in ("Features, LIB / PCA", "Edges needed, LIB / PCA", "Modules, LIB"):
        assert title in analyzed.out
    record = json.loads((analyzed.path / "run.json").read_text())
    assert record["complete"]
    assert record["options"]["truncate"] == "rel:1e-10"


def test_json_is_the_metrics_file_and_nothing_else(analyze, finished):
    code, out, _ = analyze("--json", "--force")
    assert code == 0
    metrics = json.loads(out)
    assert metrics == json.loads((finished / "metrics.json").read_text())
    assert metrics["schema"] == 1
    assert set(metrics["bases"]) == {"lib", "pca"}
    assert metrics["modules"]["partition"].keys() <= {
        f"{layer}/{i}" for layer in metrics["node_layers"] for i in range(200)
    }


def test_the_same_seed_gives_the_same_bytes(analyze, analyzed, tmp_path):
    assert analyze()[0] == 0
    for file in ("bases.safetensors", "edges.safetensors", "graph.graphml", "graph.json"):
        first, second = ((path / file).read_bytes() for path in (analyzed.path, tmp_path / "run"))
        assert first == second, file


def test_options_reach_the_analysis(analyze, tmp_path):
    code, out, err = analyze(
        "--basis", "neuron", "--integration", "trapezoid:3", "--signs", "2",
        "--truncate", "abs:1e-15", "--resolution", "2", "--seed", "4",
        "--objective", "layered-equal",
        "--dtype", "float32", "--score-dtype", "float64",
        "--device", "cpu", "--batch-size", "5", "--memory", "3MiB", "--limit", "9",
        "--tolerance", "0.1", "--tolerance", "0.5", "--sparse-features", "3",
        "--sparse-power", "0.5", "--sparse-steps", "7", "--sparse-starts", "2",
        "--dictionary-latents", "2", "--dictionary-active", "3", "--dictionary-gradients", "0.5",
        "--dictionary-interactions", "0.1", "--dictionary-power", "0.5",
        "--dictionary-metric", "raw", "--dictionary-steps", "9", "--dictionary-batch", "8",
    )  # fmt: skip
    assert code == 0, err
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert options == {
        "basis": "neuron", "beside": ["pca"], "integration": "trapezoid:3", "signs": 2,
        "truncate": "abs:1e-15", "resolution": 2.0, "seed": 4, "seeds": 10,
        "objective": "layered-equal",
        "sparse_features": 3, "sparse_power": 0.5, "sparse_steps": 7, "sparse_starts": 2,
        "dictionary_latents": 2.0, "dictionary_active": 3, "dictionary_gradients": 0.5,
        "dictionary_interactions": 0.1, "dictionary_power": 0.5, "dictionary_metric": "raw",
        "dictionary_steps": 9, "dictionary_batch": 8,
        "dtype": "float32", "score_dtype": "float64",
        "device": "cpu", "batch_size": 5, "memory": 3 * 2**20, "limit": 9,
        "tolerances": [0.1, 0.5], "ablate": True, "curves": False, "halves": False, "draws": 0,
        "lesions": False,
    }  # fmt: skip
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["bases"]["neuron"]["edges_required"]["ln1.0->ln2.0"]) == {"0.1", "0.5"}
    assert "Δ 0.1" in out
    assert "Δ 0.5" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80


def test_no_ablation(analyze, tmp_path):
    code, out, err = analyze("--no-ablation")
    assert code == 0, err
    assert "needed" not in out
    assert not (tmp_path / "run" / "ablation.json").exists()


def test_dry_run_writes_nothing(analyze, tmp_path):
    code, out, _ = analyze("--dry-run")
    assert code == 0
    assert "ln1.0" in out
    assert "about" in out
    assert not list(tmp_path.iterdir())


def test_config_file_and_environment(analyze, tmp_path, monkeypatch):
    config = tmp_path / "analysis.toml"
    config.write_text("seed = 3\nlimit = 8\nbatch-size = 4\n[option]\nfrac_train = 0.5\n")
    monkeypatch.setenv("LIBGRAPH_ANALYZE_LIMIT", "9")
    code, _, err = analyze(
        "--config", config, "--batch-size", "5", "--memory", "1GiB", "--no-ablation", "--quiet"
    )
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    chosen = {name: record["options"][name] for name in ("seed", "limit", "batch_size")}
    assert chosen == {"seed": 3, "limit": 9, "batch_size": 5}
    assert record["backend_options"]["frac_train"] == 0.5
    config.write_text("sede = 3\n")
    fails(analyze("--config", config), 2, "sede", "seed")
    config.write_text("seed = = 3\n")
    fails(analyze("--config", config), 2, "is not TOML")


def test_progress_is_plain_off_a_terminal(analyzed):
    assert re.search(r"^statistics: \d+\.\d s$", analyzed.err, re.MULTILINE)
    assert "\x1b" not in analyzed.err


def test_backends_lists_backends_and_options(run):
    assert "modular-addition" in run("backends")[1]
    out = run("backends", "modular-addition")[1]
    assert "frac_train" in out
    assert "weight_decay" in out


STAGES = {
    "statistics": 0,
    "basis at unembed": 0,
    "basis at ln1.0": 0,
    "interactions": 1,
    "node ablation, lib": 2,
    "edge ablation, pca": 3,
    "modules, lib": 4,
    "examples": 4,
    "writing": 5,
}
"""How many stages are finished and kept when an analysis is interrupted in one."""


def test_interrupted_in_every_stage_and_taken_up_again(analyze, analyzed, tmp_path, monkeypatch):
    """Each time it comes further, and it ends where an analysis does that nobody stops."""
    shown = progress_module.ProgressDisplay.__call__
    partial, before = tmp_path / "run.partial", 0
    for stage, finished in STAGES.items():

        def interrupt(self, at: str, done: int, total: int | None, stage=stage) -> None:
            shown(self, at, done, total)
            if at == stage:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(progress_module.ProgressDisplay, "__call__", interrupt)
            result = analyze("-v")
        fails(result, 130, "Interrupted")
        assert taken_up(result) == before, stage
        assert not (tmp_path / "run").exists()
        assert partial.exists() == bool(finished)
        if finished:
            assert "--out" in result[2]
            assert len(json.loads((partial / "run.json").read_text())["stages"]) == finished
            assert not list(partial.glob("*.tmp"))
        before = finished
    result = analyze("-v")
    assert result[0] == 0
    assert taken_up(result) == before
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES
    for file in RUN_FILES - {"metrics.json", "run.json"}:
        assert (tmp_path / "run" / file).read_bytes() == (analyzed.path / file).read_bytes(), file


def taken_up(result: tuple[int, str, str]) -> int:
    """How many stages were not computed again."""
    return len(re.findall("is taken from an earlier run", " ".join(result[2].split())))


def test_without_matplotlib_all_but_the_picture_is_there(analyze, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = analyze("--force")
    assert code == 0
    assert "[report]'" in " ".join(err.split())
    left_out = {"graph.png", "modules.png"}
    assert {file.name for file in finished.iterdir()} == RUN_FILES - left_out


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


def test_interrupted_training_goes_on_and_says_so(run, monkeypatch):
    sizes = {"modulus": 7, "d_model": 8, "heads": 2, "d_mlp": 12, "steps": 502}
    train = ["train", "modular-addition", "--out", "m"]
    train += [f"-o{name}={value}" for name, value in sizes.items()]
    shown = progress_module.ProgressDisplay.__call__

    def interrupt(self, stage, done, total, note=""):
        if done == 501:
            raise KeyboardInterrupt
        shown(self, stage, done, total, note)

    with monkeypatch.context() as patch:
        patch.setattr(progress_module.ProgressDisplay, "__call__", interrupt)
        assert run(*train)[0] == 130
    code, _, err = run(*train, "-v")
    assert code == 0
    assert "Training goes on after step 500" in " ".join(err.split())


# In a process of its own

COMMAND = [sys.executable, "-m", "libgraph_cli"]


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
    alone, shared = (load_file(tmp_path / name / "edges.safetensors") for name in ("one", "two"))
    for name, edges in alone.items():
        torch.testing.assert_close(shared[name], edges, rtol=1e-6, atol=1e-9 * float(edges.max()))


def test_a_real_interrupt_leaves_no_half_written_file(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "analyze", "modular-addition", "--out", "run"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        # What runs the tests in the background may have interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
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


def test_without_bokeh_all_but_the_page_is_there(analyze, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.resources", None)
    code, _, err = analyze("--force")
    assert code == 0
    assert "report.html was not drawn" in " ".join(err.split())
    assert "[report]'" in " ".join(err.split())
    assert {file.name for file in finished.iterdir()} == RUN_FILES - {"report.html"}
