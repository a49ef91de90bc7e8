"""Whole jobs of several processes: what one finds, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import job as script
from safetensors.torch import load_file

from libgraph.errors import UsageError
from libgraph.runs.condition import run_condition
from libgraph_cli.watch import SILENCE, longest_silence

MODEL = "mlp -o blocks=2 -o width=3 -o layers=2 -o samples=60 -q"
VARY = {"seconds", "started", "sha256", "bytes", "files", "memory_budget"}

SOON = 170
"""Seconds within which a process is gone that has been given up, and its files written."""


@dataclass
class Ended:
    """How the processes of a job have ended, in the order of their ranks."""

    codes: list[int]
    said: list[str]
    seconds: float

    @property
    def sentences(self) -> list[str]:
        return [line for said in self.said for line in said.splitlines() if "libgraph:" in line]


def job(arguments: str, ranks: int, folder: Path, *, fault: str = "none", silence=60.0) -> Ended:
    """Run it as a job of so many processes; those that are stopped are killed in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "LIBGRAPH_RANK_TIMEOUT": str(silence),
    }  # fmt: skip
    began = time.monotonic()
    folder.mkdir(exist_ok=True)
    outputs = [(folder / f"said-{rank}").open("w+") for rank in range(ranks)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", script.__file__, fault, *arguments.split()],
            cwd=folder, env={**os.environ, **common, "RANK": str(rank)},
            stdout=output, stderr=subprocess.STDOUT,
        )
        for rank, output in enumerate(outputs)
    ]  # fmt: skip
    stopped = int(fault.split("-")[1]) if fault.startswith("SIGSTOP") else None
    try:
        for rank, process in enumerate(processes):
            if rank != stopped:
                process.wait(timeout=400)
        seconds = time.monotonic() - began
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait()
    said = []
    for output in outputs:
        output.seek(0)
        said.append(output.read())
        output.close()
    return Ended([process.returncode for process in processes], said, seconds)


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARY}
    return [plain(item) for item in value] if isinstance(value, list) else value


def found(run: Path) -> dict[str, object]:
    """All that was computed, to the bit, apart from how long it took."""
    content: dict[str, object] = {}
    for path in sorted(run.iterdir()):
        if path.suffix == ".safetensors":
            content[path.name] = {
                name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes())
                for name, tensor in load_file(path).items()
            }
        elif path.suffix == ".json":
            content[path.name] = plain(json.loads(path.read_text()))
        elif path.suffix in (".graphml", ".png"):
            content[path.name] = path.read_bytes()
    return content


ALL = f"compare {MODEL} --bases lib,pca --draws 3 --lesions --out out/r"
"""Statistics, Grams, interactions, ablations, halves, draws of a null model and lesions."""


@pytest.fixture(scope="session")
def one_process(made_once):
    """The run that one process leaves, by the command."""

    def of(command: str) -> dict[str, object]:
        def make(folder: Path) -> None:
            assert job(command, 1, folder).codes == [0]

        name = "".join(sign if sign.isalnum() else "-" for sign in command)
        return found(made_once(name, make) / "out" / "r")

    return of


@pytest.mark.parametrize(
    ("ranks", "batch_size"),
    [
        # One batch or two for three ranks, which share out layer pairs and draws.
        (3, 30),
        # Seven or eight batches, unevenly.
        pytest.param(2, 7, marks=pytest.mark.slow),
        pytest.param(3, 7, marks=pytest.mark.slow),
        # More ranks than layer pairs, draws and batches.
        pytest.param(5, 60, marks=pytest.mark.slow),
    ],
)
def test_a_job_finds_what_one_process_does_to_the_bit(ranks, batch_size, one_process, tmp_path):
    command = f"{ALL} --batch-size {batch_size}"
    ended = job(command, ranks, tmp_path)
    assert ended.codes == [0] * ranks, ended.said
    expected, run = one_process(command), found(tmp_path / "out" / "r")
    assert {"bases.safetensors", "edges.safetensors", "ablation.json"} < expected.keys()
    assert run.keys() == expected.keys()
    for name, content in expected.items():
        assert run[name] == content, name
    assert not run_condition(tmp_path / "out" / "r").left


@pytest.mark.parametrize(
    ("ranks", "command"),
    [
        # All eigenvalues, moves of weights, units, draws of modules.
        (2, f"degeneracy {MODEL} --samples 20 --draws 3 --batch-size 7 --out out/r"),
        # By probes, on more parameters than all eigenvalues are found of; and with sampling.
        pytest.param(
            3,
            "degeneracy mlp -o blocks=2 -o width=40 -o layers=2 -o samples=200 --samples 200 "
            "--probes 2 --steps 5 --draws 3 --batch-size 40 -q --out out/r",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            3,
            f"degeneracy {MODEL} --volume --samples 20 --draws 3 --batch-size 60 --out out/r",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_degeneracy_of_a_job_is_that_of_one_process_to_the_bit(
    ranks, command, one_process, tmp_path
):
    ended = job(command, ranks, tmp_path)
    assert ended.codes == [0] * ranks, ended.said
    expected, run = one_process(command), found(tmp_path / "out" / "r")
    assert {"degeneracy.json", "graph.graphml", "spectra.png"} < expected.keys()
    assert run.keys() == expected.keys()
    for name, content in expected.items():
        assert run[name] == content, name


@pytest.mark.slow
def test_more_ranks_than_samples(tmp_path):
    few = f"analyze {MODEL} --limit 2 --batch-size 1 --out out/"
    for ranks in (1, 4):
        assert job(f"{few}{ranks}", ranks, tmp_path).codes == [0] * ranks
    assert found(tmp_path / "out" / "1") == found(tmp_path / "out" / "4")


ANALYSIS = f"analyze {MODEL} --batch-size 7 --out out/r"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("raise-1-9", "data of this rank"),
        pytest.param("SIGSTOP-1-9", "no sign of life of process 1 of 2", marks=pytest.mark.slow),
        pytest.param("raise-0-9", "data of this rank", marks=pytest.mark.slow),
        pytest.param("SIGSTOP-0-9", "no sign of life", marks=pytest.mark.slow),
        pytest.param("SIGKILL-1-9", "(Another of|no sign of life)", marks=pytest.mark.slow),
        pytest.param("SIGKILL-0-9", "(Another of|no sign of life)", marks=pytest.mark.slow),
        pytest.param("SIGTERM-1-9", "Terminated", marks=pytest.mark.slow),
        pytest.param("SIGINT-0-9", "Interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_dies_or_stops_ends_the_job(fault, sentence, one_process, tmp_path):
    ended = job(ANALYSIS, 2, tmp_path, fault=fault, silence=8.0)
    assert all(ended.codes), ended.said
    assert ended.seconds < SOON
    told = ended.sentences
    assert len(told) == 1, ended.said
    assert re.search(sentence, told[0])
    assert "Traceback" not in "".join(ended.said)
    # The same again goes on, and leaves what it does undisturbed.
    assert job(ANALYSIS, 2, tmp_path).codes == [0, 0]
    assert found(tmp_path / "out" / "r") == one_process(ANALYSIS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["r"]


STEPS = 160
"""Of a descent, which is kept every 50 or 100."""


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["sparse", "dictionary"])
def test_a_descent_of_a_job_goes_on(basis, one_process, tmp_path):
    command = f"analyze {MODEL} --basis {basis} --{basis}-steps {STEPS} --no-ablation --out out/r"
    ended = job(command, 2, tmp_path, fault=f"SIGKILL-0-step-{STEPS - 30}", silence=8.0)
    assert all(ended.codes), ended.said
    # The first process kept it: the others have none.
    (kept,) = (tmp_path / "out").rglob(f"{basis}*.safetensors")
    assert load_file(kept)["taken"][0] == 100
    assert job(command, 2, tmp_path).codes == [0, 0]
    assert found(tmp_path / "out" / "r") == one_process(command)
    assert not run_condition(tmp_path / "out" / "r").left


@pytest.mark.slow
def test_a_mistake_of_ours_is_shown_once(tmp_path):
    ended = job(ANALYSIS, 2, tmp_path, fault="break-1-9")
    assert all(ended.codes)
    assert "".join(ended.said).count("ZeroDivisionError: a mistake") == 1


@pytest.mark.slow
def test_a_rank_that_is_slow_is_waited_for(tmp_path):
    # It takes twice as long as one without a sign of life is waited for.
    ended = job(ANALYSIS, 2, tmp_path, fault="sleep-1-9", silence=4.0)
    assert (ended.codes, ended.sentences) == ([0, 0], [])
    assert ended.seconds > 8


@pytest.mark.parametrize("told", ["soon", "-3", "0", "nan", "inf", "1"])
def test_times_that_are_none_are_refused(told):
    with pytest.raises(UsageError, match="LIBGRAPH_RANK_TIMEOUT"):
        longest_silence({"LIBGRAPH_RANK_TIMEOUT": told})


def test_a_time_of_ones_own():
    assert longest_silence({"LIBGRAPH_RANK_TIMEOUT": " 20.5 "}) == 20.5
    assert longest_silence({}) == SILENCE
