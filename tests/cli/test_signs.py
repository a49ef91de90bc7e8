"""The pipeline and the command, with interactions estimated from random signs."""

from __future__ import annotations

import json
from copy import deepcopy
from importlib.metadata import EntryPoint

import pytest
import torch
from helpers.commands import fails
from helpers.networks import Toy, small_network
from safetensors.torch import load_file

import libgraph as lg
from libgraph.backend.options import TypedOptions
from libgraph.backend.registry import ENTRY_POINTS
from libgraph.errors import UsageError
from libgraph.sections.closed_form import SignedForm


class Positions(Toy):
    """A backend with more positions than the bundled model's sections give: one is too few."""

    name = "positions"

    def __init__(self, options=None) -> None:
        super().__init__(*small_network(samples=30))
        self.options = options or TypedOptions()

    def network(self):
        return deepcopy(self._network)


@pytest.fixture
def run_positions(run, monkeypatch, tmp_path):
    entry = EntryPoint("positions", f"{Positions.__module__}:Positions", ENTRY_POINTS)
    monkeypatch.setattr("libgraph.backend.registry.entry_points", lambda group: [entry])
    return lambda *given: run("analyze", "positions", "--out", tmp_path / "run", *given)


@pytest.mark.parametrize("signs", [1, -1])
def test_too_few_signs_are_refused(analyze, tmp_path, signs):
    fails(analyze("--signs", signs), 2, f"from {signs} random signs", "at least 2")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="at least 2"):
        lg.AnalysisOptions(signs=signs)


def test_the_command_saves_and_shows_errors(run_positions, tmp_path):
    code, out, err = run_positions("--signs", 2)
    assert code == 0, err
    tensors = load_file(tmp_path / "run" / "edges.safetensors")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["signs"] == 2
    found = []
    for name in ("lib", "pca"):
        relative = metrics["bases"][name]["standard_error"]
        assert relative.keys() == metrics["bases"][name]["sparsity"].keys()
        assert [bool(value) for value in relative.values()] == [True, True, False]
        for pair, value in relative.items():
            edges, errors = (tensors[f"{name}/{pair}{end}"] for end in ("", "/error"))
            # The last node layer has no constant.
            inner = slice(0 if pair.endswith("l3") else 1, None), slice(1, None)
            assert value == pytest.approx(float(errors[inner].norm() / edges[inner].norm()))
            found += [value] if value else []
    shown = f"standard error {min(found):.1%} to {max(found):.1%}."
    assert f"Interactions estimated from 2 random signs; {shown}" in out


def test_an_exact_run_has_no_errors(run_positions, tmp_path):
    code, out, err = run_positions()
    assert code == 0, err
    assert "signs" not in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["signs"] == 0
    assert metrics["bases"]["lib"]["standard_error"] == {}
    assert not [n for n in load_file(tmp_path / "run" / "edges.safetensors") if "error" in n]


def test_where_signs_gain_nothing_that_is_said(analyze):
    """The sections of the bundled model give one position."""
    code, out, err = analyze("--signs", 2, "--no-ablation")
    assert code == 0, err
    assert "Interactions are exact: 2 random signs would not be faster." in out


def test_a_dry_run_measures_what_the_run_would_do(run_positions, monkeypatch):
    taken = []
    estimate = SignedForm.estimate
    monkeypatch.setattr(
        SignedForm, "estimate", lambda *given: taken.append(given[-1].shape) or estimate(*given)
    )
    assert run_positions("--signs", 3, "--dry-run")[0] == 0
    # One sample first, by which libraries get ready.
    assert set(taken) == {(3, 1, 5), (3, 30, 5)}
    taken.clear()
    assert run_positions("--dry-run")[0] == 0
    assert not taken


def test_errors_are_read_back_and_the_seed_counts_with_signs_alone(tmp_path):
    def analyse(**options):
        found = lg.analyze(Positions(), out=tmp_path / "run", force=True, **options)
        stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
        return found, {name: stage["hash"] for name, stage in stages.items()}

    def changed(before, after):
        return {name for name in after if before[name] != after[name]}

    depends = {"interactions", "ablation lib", "ablation pca"}
    exact, hashes = analyse(seed=1)
    assert exact.errors() == exact.errors("pca") == {}
    assert changed(hashes, analyse(seed=2)[1]) == set()
    first, signed = analyse(seed=2, signs=2)
    assert changed(hashes, signed) == depends
    again, unchanged = analyse(seed=2, signs=2, resolution=2.0)
    assert changed(signed, unchanged) == set()
    assert first.errors("lib")["l0", "l1"].any()
    for name in ("lib", "pca"):
        for pair, error in first.errors(name).items():
            assert torch.equal(error, again.errors(name)[pair])
            assert torch.equal(first.edges(name)[pair], again.edges(name)[pair])
    other, hashes = analyse(seed=3, signs=2)
    assert changed(signed, hashes) == depends
    assert not torch.equal(first.edges("lib")["l0", "l1"], other.edges("lib")["l0", "l1"])
    assert changed(hashes, analyse(seed=3, signs=3)[1]) == depends
