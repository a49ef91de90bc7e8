"""`libgraph doctor` and `libgraph completion`."""

import json
import os
import subprocess
import sys

import pytest
from helpers.commands import fails

import libgraph
from libgraph_cli.environment import Computing, Extra, _of_computing, _of_installation
from libgraph_cli.main import cli


def test_it_says_what_there_is(run):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    for word in (libgraph.__version__, "torch", "threads", "memory", "products", "report"):
        assert word in out
    code, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert found["versions"]["libgraph"] == libgraph.__version__
    assert {extra["name"] for extra in found["extras"]} == {"cifar", "lm", "mlp", "report"}
    assert found["computing"]["products"] > 1e8


def test_a_run_is_not_checked_yet(run):
    fails(run("doctor", "runs/a"), 2, "'runs/a'")


FINE = Computing(
    processors=2, cores=2, threads=2, load=0.5, memory=2**34, disk=2**34, products=6e10,
    devices={}, variables={},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"load": 5.0}, "5.0 processes on 2 processors"),
        ({"threads": 8}, "8 threads for 2 processors"),
        ({"threads": 1, "variables": {"OMP_NUM_THREADS": "1"}}, "OMP_NUM_THREADS=1 has one of 2"),
        ({"products": 2e9}, "1.0 thousand million operations"),
        ({"memory": 2**29}, "0.5 GiB of memory"),
        ({"disk": 2**28}, "0.2 GiB of this disk"),
        ({"devices": {"cuda:0": "H"}}, "device='cuda:0'"),
    ],
)
def test_what_is_slow_is_told(changes, said):
    remarks = [*_of_computing(Computing(**{**vars(FINE), **changes}))]
    assert len(remarks) == bool(said)
    assert all(said in remark for remark in remarks)


def test_what_is_missing_is_told_with_its_command(monkeypatch):
    monkeypatch.setattr("libgraph_cli.environment._version", {"libgraph": "0.0.3"}.get)
    extra = Extra("report", ("bokeh",), "pip install 'libgraph-interp[report]'")
    absent, other, missing = _of_installation((extra,))
    assert "'libgraph-interp' is not installed" in absent
    assert "'libgraph' (0.0.3) is installed as well" in other
    assert missing == "Without bokeh: no pictures and no page. " + extra.command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(run, shell):
    code, out, _ = run("completion", shell)
    assert code == 0
    assert f"_LIBGRAPH_COMPLETE={shell}_complete" in out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_backends_are_completed_without_torch():
    code = (
        "import sys\nfrom libgraph_cli.main import main\nsys.argv = ['libgraph']\n"
        "try: main()\nfinally: print([m for m in ('torch', 'rich') if m in sys.modules])"
    )
    for words in ("libgraph analyze modul", "libgraph backends show modul"):
        environment = {
            "_LIBGRAPH_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert "plain,modular-addition" in done.stdout
        assert done.stdout.strip().endswith("[]")


def test_every_command_has_json_and_examples_but_the_scripts_of_shells():
    for name, command in cli.commands.items():
        loaded = command.load()
        assert loaded.epilog, name
        flags = [flag for option in loaded.params for flag in option.opts]
        assert "--json" in flags or name == "completion", name
