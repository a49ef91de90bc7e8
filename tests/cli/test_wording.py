"""Sentences of the core name options of Python; on the command line they name flags."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from helpers.commands import fails
from rich.console import Console

from libgraph.errors import UsageError
from libgraph_cli.main import cli
from libgraph_cli.progress import ProgressDisplay
from libgraph_cli.wording import flags_of, spelt


def said(sentence: str, command: str = "analyze") -> str:
    return spelt(sentence, flags_of(cli.commands[command].load()))


@pytest.mark.parametrize(
    ("python", "flags"),
    [
        ("pass force=True to replace it.", "pass --force to replace it."),
        ("choose another out='…'.", "choose another --out."),
        ("use a larger limit=….", "use a larger --limit."),
        ("with ablate=False nothing is", "with --no-ablation nothing is"),
        ("use seed=-1, or seed=1e-3.", "use --seed -1, or --seed 0.001."),
        ("tolerances=(0.1, 0.5) or (tolerances=0.1)", "--tolerance 0.1 --tolerance 0.5 or "
         "(--tolerance 0.1)"),
        ("the same analysis with out='runs/a' goes on", "the same analysis with --out runs/a goes "
         "on"),
        ("with out='my runs/it\\'s' it", "with --out 'my runs/it'\"'\"'s' it"),
        ('out="a b", batch_size=8', "--out 'a b', --batch-size 8"),
        ("Option 'batch_size' of the analysis: no", "Option --batch-size of the analysis: no"),
    ],
)  # fmt: skip
def test_options_of_the_command_are_flags(python, flags):
    assert said(python) == flags


@pytest.mark.parametrize(
    "sentence",
    [
        "heads=3 have to divide",  # an option of nobody here
        "force=False, ablate=True",  # no flag says that
        "task=mnist needs -o seed=3",
        "Option 'seed' of the backend 'mlp': no",
        "Option 'seed' of training 'mlp': no",
        "a.seed=3, x-seed=3, seed=three, seed==3",
        "draws=0",  # of `compare`
    ],
)
def test_what_is_no_option_of_the_command_stays(sentence):
    assert said(sentence) == sentence


def test_a_command_has_flags_of_its_own_and_advice_is_for_analyze():
    assert said("use draws=0.", "compare") == "use --draws 0."
    assert said("volume=True or volume=False", "degeneracy") == "--volume or --no-volume"
    assert said("analyse again with force=True.", "communities") == "analyse again with --force."
    assert said("threshold=0.5", "diff") == "--threshold 0.5"


def test_errors_of_the_core_are_told_in_flags(run, monkeypatch):
    def refuse(name: str, **_: object) -> None:
        raise UsageError("It is there: pass force=True, or choose another out='…'.")

    monkeypatch.setattr("libgraph.backend.registry.load_backend", refuse)
    for command in ("analyze", "degeneracy"):
        fails(run(command, "mlp"), 2, "It is there: pass --force, or choose another --out.")


def test_bad_values_are_told_by_the_flag(run):
    fails(run("analyze", "mlp", "--batch-size", 0), 2, "Option --batch-size of the analysis")
    fails(run("compare", "mlp", "--draws", -1), 2, "Option --draws of the analysis")
    fails(run("degeneracy", "mlp", "--probes", 1), 2, "Option --probes of the degeneracy analysis")
    assert not list(Path("runs").glob("*"))


def test_logs_are_shown_in_flags_and_stay_as_they_are(caplog):
    console = Console(file=io.StringIO(), width=200)
    display = ProgressDisplay(console=console, spell=said)
    log = logging.getLogger("libgraph")
    with display:
        log.warning("Parts are in '%s': out='%s' goes on there, force=True anew.", "a", "b")
    shown = " ".join(console.file.getvalue().split())
    assert shown == "Parts are in 'a': --out b goes on there, --force anew."
    log.handlers = []
