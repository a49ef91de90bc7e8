"""Runs that an earlier version has written: they open, and say what that version said of them.

`archives/` holds small run directories of 0.1.0, without pictures, and what its commands printed of
them (`0.1.0-outputs.json`, by command line). Numbers that are computed anew agree to rounding.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from libgraph.errors import UsageError
from libgraph.runs.saved_run import open_run

ARCHIVES = Path(__file__).parent / "archives"
OUTPUTS = json.loads((ARCHIVES / "0.1.0-outputs.json").read_text(encoding="utf-8"))
SINCE = {"objective", "closest", "closest_by_chance", "mean_cosine"}
NAMES = ("ablation", "compare", "planted", "signs")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A directory with all archived runs in it, which tests only read."""
    path = tmp_path_factory.mktemp("archives")
    for archive in ARCHIVES.glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            opened.extractall(path, filter="data")
    return path


def close(value, expected) -> None:
    """The same JSON: floats to rounding, all else exactly, in the same order."""
    assert type(value) is type(expected)
    if isinstance(expected, dict):
        # What is said of a run since then; runs of then have modules of modularity.
        assert value.get("objective", "modularity") == "modularity"
        assert [key for key in value if key not in SINCE - set(expected)] == list(expected)
        for key, item in expected.items():
            close(value[key], item)
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for item, expected_item in zip(value, expected, strict=True):
            close(item, expected_item)
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert value == expected


def close_text(text: str, expected: str) -> None:
    """The same numbers, the last decimal of which may be rounded the other way.

    How names and headings fold, and which columns go on below, is a matter of the screen.
    """
    number = re.compile(r"-?\d+\.\d+")
    assert text.split("\n")[0] == expected.split("\n")[0]
    found, known = (sorted(number.findall(t), key=float) for t in (text, expected))
    for value, before in zip(found, known, strict=True):
        decimals = len(before.partition(".")[2])
        assert float(value) == pytest.approx(float(before), abs=1.01 * 10**-decimals)


@pytest.mark.parametrize("command", [each for each in OUTPUTS if each.endswith("--json")])
def test_commands_say_the_same_of_them(run, directory, monkeypatch, command):
    monkeypatch.chdir(directory)
    code, out, err = run(*command.split())
    assert (code, err) == (0, "")
    close(json.loads(out), OUTPUTS[command])


TABLES = [each for each in OUTPUTS if not each.endswith("--json") and not each.startswith("print")]


@pytest.mark.parametrize("command", TABLES)
def test_commands_print_the_same_of_them(run, directory, monkeypatch, command):
    monkeypatch.chdir(directory)
    code, out, err = run(*command.split())
    assert (code, err) == (0, "")
    close_text(out, OUTPUTS[command])


@pytest.mark.parametrize("name", NAMES)
def test_runs_print_the_same(directory, name):
    # Versions of then did not print what tells modules from chance, which comes last.
    text, heading, _ = str(open_run(directory / name)).partition("Are modules more than chance?")
    assert bool(heading) == (name == "compare")
    close_text(text.rstrip(), OUTPUTS[f"print {name}"])


def test_what_measured_degeneracy_is_no_run(directory):
    with pytest.raises(UsageError, match="holds degeneracy and no run"):
        open_run(directory / "degeneracy")


def test_graphs_of_all_bases_open(directory):
    for name in NAMES:
        run = open_run(directory / name)
        for basis in run.basis_names:
            graph = run.graph(basis)
            assert [layer.name for layer in graph.layers] == list(run.layers)
            assert (run.ablation(basis) is None) == (name == "signs")
            assert bool(run.errors(basis)) == (name == "signs")
