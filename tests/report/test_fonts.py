"""Text in pictures: other fonts for what DejaVu Sans lacks, escapes for what all lack."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from html import unescape

import numpy as np
import pytest
from helpers.examples import examples
from helpers.texts import texts
from hypothesis import given

from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities

pytest.importorskip("matplotlib")

import matplotlib

from libgraph.report import fonts
from libgraph.report.fonts import FAMILY, breadth, cut, draw_what_can_be, glyphs
from libgraph.report.graph_picture import draw
from libgraph.report.labels import short_label
from libgraph.report.style import CURVES, arrow_of, new_figure, save_figure, style

NOWHERE = "\U000f1234\ue000"
"""Signs that no font has: they are for private use."""

WORD = "\u05e9\u05dc\u05d5\u05dd"


def labelled(*words: str) -> InteractionGraph:
    labels = tuple(FeatureLabel(f"60% {word}", {word: 0.6}) for word in words)
    layers = tuple(
        LayerFeatures(name, np.ones(len(words)), 0, labels=labels) for name in ("a", f"b{words[0]}")
    )
    graph = InteractionGraph(layers, {(layers[0].name, layers[1].name): np.eye(len(words))})
    return graph.with_partition(find_communities(graph, seeds=1))


def drawn_texts(path) -> list[str]:
    found = re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))
    return [unescape(text) for text in found]


def test_what_no_font_has_is_escaped_and_said_once(tmp_path, caplog, capfd):
    with warnings.catch_warnings(action="error"), caplog.at_level(logging.WARNING):
        draw(labelled(*NOWHERE, "e"), tmp_path / "g.svg", concept="token", title=NOWHERE)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "g.svg" in message
    assert "\\ue000" in message
    shown = drawn_texts(tmp_path / "g.svg")
    for text in ("\\U000f1234", "\\ue000", "e", "\\U000f1234\\ue000"):
        assert text in shown
    assert "missing from" not in capfd.readouterr().err


def test_other_fonts_are_taken_for_what_they_have_and_for_nothing_else(monkeypatch, tmp_path):
    """Here the sans-serif font plays one that lacks ж, which a font of the system has."""
    monkeypatch.setattr(fonts, "FALLBACKS", ("No Such Font", "DejaVu Serif"))
    whole = glyphs(FAMILY)

    def known(family: str, weight: str = "normal") -> frozenset[int]:
        return {FAMILY: whole - {ord("ж")}, "DejaVu Serif": whole}.get(family, frozenset())

    monkeypatch.setattr(fonts, "glyphs", known)
    with style(CURVES):
        figure = new_figure(2, 2)
        axes = figure.add_subplot()
        axes.set_xticks([0, 1], ["ж", f"b{NOWHERE[1]}"], rotation=30)
        text, title = axes.text(0, 0, "ж"), axes.set_title("plain", weight="bold")
        draw_what_can_be(figure, "f.png")
        assert title.get_fontfamily() == [FAMILY]
        assert text.get_fontfamily() == [FAMILY, "DejaVu Serif"]
        figure.draw_without_rendering()
        ticks = axes.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["ж", "b\\ue000"]
    assert {tick.get_rotation() for tick in ticks} == {30.0}


def test_pictures_of_plain_text_name_one_font(tmp_path):
    draw(labelled("a", "b"), tmp_path / "g.svg")
    svg = (tmp_path / "g.svg").read_text()
    assert set(re.findall(r"font: [^;\"]*px ([^;\"]*)", svg)) <= {"'DejaVu Sans'"}


def test_words_from_right_to_left_leave_numbers_where_they_are(tmp_path):
    draw(labelled(WORD, WORD, WORD), tmp_path / "g.svg", concept="token")
    mixed = [t for t in drawn_texts(tmp_path / "g.svg") if WORD in t and re.search(r"\d", t)]
    assert mixed
    for text in mixed:
        assert text.startswith(f"token \u2068{WORD}\u2069 (")
    assert arrow_of(f"{WORD}->b") == f"\u2068{WORD}\u2069 → b"
    with warnings.catch_warnings(action="error"):
        draw(labelled(WORD), tmp_path / "g.png", concept="token")


def test_room_for_wide_signs_and_joiners():
    assert breadth("abc") == 3
    assert breadth("e\u0301\u200d") == 1
    assert breadth("\ue000") == len("\\ue000")
    assert cut("abcdef", 4) == "abc…"
    assert cut("abcd", 4) == "abcd"
    assert cut("\ue000\ue000\ue000", 14) == "\ue000\ue000…"
    assert short_label(FeatureLabel("60% a\nb | c")) == "a\\nb"


@given(words=texts)
@examples(4)
def test_pictures_of_any_text(tmp_path_factory, words):
    path = tmp_path_factory.mktemp("any") / "g.png"
    with warnings.catch_warnings(action="error"), style(CURVES):
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
        axes.set_xticks([0], [arrow_of(words)])
        axes.set_title(short_label(FeatureLabel(words)))
        axes.text(0, 0, words, size=2)
        save_figure(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_backend_of_a_notebook_is_not_needed_and_not_forgotten(tmp_path):
    """`MPLBACKEND` names what only the environment of the notebook has."""
    code = (
        "import os, sys; from libgraph.report.style import new_figure, save_figure, style\n"
        "with style(): save_figure(new_figure(1, 1), 'f.png')\n"
        "print(os.environ['MPLBACKEND'], 'matplotlib.pyplot' in sys.modules)"
    )
    name = "no-such-backend"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MPLBACKEND": name},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name, "False"]
    assert (tmp_path / "f.png").stat().st_size


def test_settings_of_the_caller_are_not_used_and_not_changed(tmp_path):
    graph = labelled("a", "b")
    draw(graph, tmp_path / "before.png")
    changes = {"savefig.bbox": "tight", "path.sketch": (1, 100, 2), "text.usetex": True}
    with matplotlib.rc_context(changes):
        before = dict(matplotlib.rcParams)
        draw(graph, tmp_path / "after.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "before.png").read_bytes() == (tmp_path / "after.png").read_bytes()
