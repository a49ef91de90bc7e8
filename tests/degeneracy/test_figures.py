"""`degeneracy.json`: what is read and written again is the same, also of earlier versions."""

import json

import pytest
from pydantic import ValidationError

from libgraph.degeneracy.figures import (
    AdditivityFigures,
    DegeneracyFigures,
    Skipped,
    SkippedModules,
    UnitFigures,
)
from libgraph.errors import UsageError
from libgraph.files.atomic import write_json

GROUPS = {"groups": [[0, 2], [1, 3]], "exact_groups": [[0, 2]], "extra": 2, "new": None}
SWAP = {"swap_share": 1.5e-07, "swap_score": 0.5, "score": 1.0}
DISTANCES = {"order": [0, 2, 1, 3], "distances": [[0.0, 0.25], [0.25, 0.0]]}
BLOCK = {"parameters": 4, "rank": 3, "free": 1, "effective": [0.1, 3.0]}
CURVES = {"epsilons": [1.0, 1e-12], "effective": [0.0, 3.0], "errors": [0.0, 0.1]}
FIGURES = {
    "schema": 1,
    "backend": "toy",
    "options": {"truncate": "rel:1e-10", "memory": None, "synchrony": 0.01, "volume": True},
    "weights": {
        "l0->l1 inner": {
            "pair": ["l0", "l1"],
            "rows": 2,
            "columns": 2,
            "parameters": 4,
            "input_rank": 2,
            "gradient_rank": 1,
            "free": 2,
            "moved_free": None,
            "moved_used": 0.001,
            "input_spectrum": [2.0, 0.1],
            "gradient_spectrum": [1e-300, 0.0],
        }
    },
    "units": {
        "l0->l1": {"units": 4, "dead": [3], "constant": [], **GROUPS, **SWAP, **DISTANCES},
        "l1->l2": {"skipped": "it has no gates"},
    },
    "heads": {"l2->l3": {"heads": 4, **GROUPS, **SWAP, **DISTANCES}},
    "behaviour": {
        "parameters": 4, "samples": 9, "exact": False, "rank": 3, "largest": 2.0, **CURVES
    },
    "volume": {
        "radius": 1.0,
        "epsilons": [1.0],
        "effective": [None],
        "errors": [0.5],
        "drift": [None],
    },
    "modules": {
        "basis": "lib",
        "epsilons": [1.0, 0.1],
        "sum": [1.0, 2.0],
        "random_mean": [1.0, 2.0],
        "random_std": [0.0, 0.1],
        "ratio": [None, 0.5],
        "modules": [BLOCK],
        "together": BLOCK,
        "unassigned": BLOCK,
        "whole": BLOCK,
        "ranks_add_up": True,
        "samples": 9,
        "rows": 20,
        "exact": True,
        "strengths": [[1.5, None], [None, 0.0]],
    },
    "totals": {"parameters": 4, "free": 2, "extra": 0},
    "seconds": {"weights": 0.1},
}  # fmt: skip


def copies(tmp_path, figures):
    """The text of a file, and that of the same figures read and written."""
    write_json(tmp_path / "in.json", figures)
    read = DegeneracyFigures.read(tmp_path / "in.json")
    read.write(tmp_path / "out.json")
    return read, *((tmp_path / name).read_text() for name in ("in.json", "out.json"))


def changed(**parts):
    """All figures with other parts; those that are None are left out."""
    parts = {**FIGURES, **parts}
    return {name: part for name, part in parts.items() if part is not None}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"volume": None},
        {"modules": {"basis": "lib", "skipped": "there are none"}},
        {"units": {}, "heads": {}},
        {"later": {"a": [1, None]}},
    ],
)
def test_what_is_read_is_written_again(tmp_path, parts):
    figures, before, after = copies(tmp_path, changed(**parts))
    assert after == before == figures.text() + "\n"


def test_parts_are_what_they_say(tmp_path):
    figures, _, _ = copies(tmp_path, FIGURES)
    assert isinstance(figures.units["l0->l1"], UnitFigures)
    assert figures.units["l1->l2"] == Skipped(skipped="it has no gates")
    assert isinstance(figures.modules, AdditivityFigures)
    assert figures.modules.strengths[0] == (1.5, None)
    assert figures.weights["l0->l1 inner"].pair == ("l0", "l1")
    figures, _, _ = copies(tmp_path, changed(volume=None, modules={"basis": "a", "skipped": "b"}))
    assert figures.volume is None
    assert figures.modules == SkippedModules(basis="a", skipped="b")


def test_files_of_earlier_versions(tmp_path):
    """They had no scores of swapped groups, and no drift."""
    units = {
        n: v for n, v in FIGURES["units"]["l0->l1"].items() if n not in ("swap_score", "score")
    }
    volume = {name: value for name, value in FIGURES["volume"].items() if name != "drift"}
    old = changed(units={"l0->l1": units}, volume=volume)
    figures, before, after = copies(tmp_path, old)
    assert after == before
    assert figures.units["l0->l1"].score is None
    assert figures.volume.drift == ()


@pytest.mark.parametrize(
    ("figures", "part"),
    [
        (changed(schema=2), "schema 2"),
        (changed(totals=None), "totals"),
        (changed(behaviour={"parameters": "many"}), "behaviour"),
        ([], "degeneracy.json"),
    ],
)
def test_other_files(tmp_path, figures, part):
    write_json(tmp_path / "degeneracy.json", figures)
    with pytest.raises(UsageError, match=part):
        DegeneracyFigures.read(tmp_path / "degeneracy.json")


def test_figures_cannot_be_changed():
    figures = DegeneracyFigures.model_validate(json.loads(json.dumps(FIGURES)))
    with pytest.raises(ValidationError, match="frozen"):
        figures.totals.free = 3
