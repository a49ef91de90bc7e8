"""`metrics.json`: the same text read and written, older and newer files, and damaged ones."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from helpers.metrics import basis_of_metrics, metrics_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from libgraph.errors import UsageError
from libgraph.runs.metrics import Metrics, ScoreFigures

ARCHIVES = sorted((Path(__file__).parent / "archives").glob("0.1.0-*.tar.gz"))

ADDED_LATER = ("standard_error", "sparsity_total", "curves", "area")
"""Figures of a basis that the first runs with schema 1 did not have."""


def metrics_in(archive: Path) -> str | None:
    """The text of `metrics.json`, if the archive is of a run."""
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            if member.name.endswith("/metrics.json"):
                return opened.extractfile(member).read().decode()
    return None


TEXTS = {archive.name: text for archive in ARCHIVES if (text := metrics_in(archive))}


def test_there_are_archives():
    assert len(TEXTS) == 4


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_read_and_written_again_it_is_the_same_text(text, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    metrics = Metrics.read(path)
    metrics.write(path)
    assert path.read_text() == text
    assert metrics.text() + "\n" == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_figures_have_types(text):
    metrics, raw = Metrics.model_validate_json(text), json.loads(text)
    assert list(metrics.bases) == list(raw["bases"])
    for name, figures in metrics.bases.items():
        for pair, required in figures.edges_required.items():
            for delta, count in required.items():
                assert isinstance(delta, float)
                assert count == raw["bases"][name]["edges_required"][pair][str(delta)]
        for layer, curve in figures.curves.nodes.items():
            assert {str(kept): score for kept, score in curve.items()} == (
                raw["bases"][name]["curves"]["nodes"][layer]
            )
        assert figures.modules.count == len(figures.modules.table)
        for module, row in zip(
            figures.modules.table, raw["bases"][name]["modules"]["table"], strict=True
        ):
            assert (module.size, module.concept) == (row["size"], row["concept"])
    assert metrics.modules.partition == raw["modules"]["partition"]


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.dictionaries(st.text(max_size=5), finite | st.none(), max_size=4),
    st.dictionaries(finite, st.none() | st.integers(0, 2**60), max_size=4),
    st.dictionaries(st.integers(0, 2**60), finite, max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_every_number_comes_back_to_the_last_bit(epsilon, required, curve):
    metrics = metrics_of(
        {
            "a → b": {
                "epsilon": epsilon,
                "edges_required": {"x": required},
                "curves": {"nodes": {"y": curve}, "edges": {}},
            }
        }
    )
    again = Metrics.model_validate_json(metrics.text())
    assert again == metrics
    assert again.text() == metrics.text()
    written = json.loads(metrics.text())["bases"]["a → b"]
    assert written["epsilon"] == epsilon
    assert written["edges_required"]["x"] == json.loads(json.dumps(required))
    assert written["curves"]["nodes"]["y"] == json.loads(json.dumps(curve))


def test_what_an_earlier_version_lacks_stays_absent():
    raw = json.loads(TEXTS["0.1.0-signs.tar.gz"])
    del raw["concept"], raw["signs"], raw["score"]["higher_is_better"], raw["modules"]["consensus"]
    for figures in raw["bases"].values():
        for name in ADDED_LATER:
            del figures[name]
    metrics = Metrics.model_validate_json(json.dumps(raw))
    assert metrics.text() == json.dumps(raw, indent=1)
    assert (metrics.concept, metrics.signs, metrics.modules.consensus) == ("concept", 0, False)
    for figures in metrics.bases.values():
        assert (figures.standard_error, figures.sparsity_total) == ({}, None)
        assert figures.curves.nodes == figures.area.edges == {}
        assert (figures.modules.halves, figures.modules.resolutions) == (None, None)


def test_what_a_later_version_adds_is_kept():
    raw = json.loads(TEXTS["0.1.0-signs.tar.gz"])
    raw["weather"] = {"is": ["fine", 1]}
    raw["bases"]["lib"]["weight"] = 3
    raw["bases"]["lib"]["modules"]["taste"] = None
    metrics = Metrics.model_validate_json(json.dumps(raw))
    assert json.loads(metrics.text()) == raw


def test_figures_cannot_be_changed():
    metrics = metrics_of({"lib": {}})
    with pytest.raises(ValidationError):
        metrics.backend = "other"


@pytest.mark.parametrize(
    ("name", "said", "better"),
    [
        ("accuracy", None, 1),
        ("cross-entropy", None, -1),
        ("relative error", None, -1),
        ("of my own", False, -1),
        ("cross-entropy", True, 1),
    ],
)
def test_losses_are_better_lower_whether_a_run_says_so_or_not(name, said, better):
    given_ = {} if said is None else {"higher_is_better": said}
    assert ScoreFigures(name=name, test=1.0, **given_).better == better


def damaged(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        Metrics.read(path)
    return str(raised.value)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda raw: raw.update(schema=7), "has schema 7, this version reads 1"),
        (lambda raw: raw.pop("schema"), "cannot be read (schema is missing)"),
        (lambda raw: raw.pop("score"), "cannot be read (score is missing)"),
        (lambda raw: raw["bases"]["lib"].pop("sparsity"), "(bases.lib.sparsity is missing)"),
        (lambda raw: raw["bases"]["lib"].update(epsilon=3), "bases.lib.epsilon"),
        (lambda raw: raw["bases"].update(lib=None), "bases.lib"),
        (lambda raw: raw["modules"]["partition"].update(x="y"), "modules.partition.x"),
    ],
)
def test_damage_is_one_sentence(tmp_path, edit, part):
    raw = metrics_of({"lib": basis_of_metrics()}).as_dict()
    edit(raw)
    message = damaged(tmp_path / "metrics.json", json.dumps(raw))
    assert part in message
    assert message.startswith(f"'{tmp_path / 'metrics.json'}' ")
    assert message.endswith(": analyse again with force=True.")
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"schema": 1}', '{"schema": 1, "x": NaN']
)
def test_what_is_no_json_of_figures(tmp_path, text):
    message = damaged(tmp_path / "metrics.json", text)
    assert "cannot be read (" in message
    assert "\n" not in message


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"metrics\.json' cannot be read .*force=True"):
        Metrics.read(tmp_path / "metrics.json")
