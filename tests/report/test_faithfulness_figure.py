"""The figure of faithfulness: its lines, its bytes, and what cannot be drawn."""

from dataclasses import replace

import numpy as np
import pytest

from libgraph.errors import UsageError
from libgraph.interventions.apart import Apart, Cut
from libgraph.interventions.faithfulness import Curve, Restored
from libgraph.interventions.options import FaithfulnessOptions
from libgraph.runs.faithfulness import Faithfulness

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from libgraph.report.faithfulness_figure import draw_faithfulness

SHARES = (0.01, 0.1, 1.0)


def figures(**changes):
    cuts = tuple(Cut(share, 1.0, 0.5, {"a → b": 0.7, "b → c": 0.9}) for share in SHARES)
    curve = Curve(
        100, SHARES, (1, 10, 100), 1.0, 0.0, (0.2, 0.7, 1.0), ((0.0, 0.1, 1.0), (0.1, 0.3, 1.0)),
        Restored(0.1, 0.7, (0.6, 0.9)), Apart(cuts, cuts),
    )  # fmt: skip
    curves = {"lib": replace(curve, **changes), "mine": replace(curve, apart=None, restored=None)}
    return Faithfulness("a run", "accuracy", 9, FaithfulnessOptions(shares=SHARES), curves)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, and give matplotlib's axes."""
    kept = []

    class Kept(Figure):
        def __init__(self, *arguments, **how):
            super().__init__(*arguments, **how)
            kept.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)

    def draw(figures):
        draw_faithfulness(figures, tmp_path / "figure.png")
        return kept[-1].axes

    return draw


def test_curves_random_edges_and_subsets_are_drawn(drawn):
    curves, edges, features = drawn(figures())
    lib, random, restored, mine, _ = curves.lines[:5]
    assert lib.get_xydata().tolist() == [[1, 0.2], [10, 0.7], [100, 1]]
    assert np.allclose(random.get_ydata(), [0.05, 0.2, 1])
    assert list(restored.get_ydata()) == [0.6, 0.9]
    assert lib.get_color() != mine.get_color()
    assert [text.get_text()[:4] for text in curves.get_legend().get_texts()] == [
        "LIB:",
        "MINE",
        "as m",
    ]
    for axes in (edges, features):
        together, alone = axes.lines[:2]
        assert np.allclose(together.get_ydata(), -0.5)
        assert np.allclose(alone.get_ydata(), -0.4)


def test_without_cuts_there_is_one_panel(drawn):
    assert len(drawn(figures(apart=None))) == 1


def test_far_from_the_network_nothing_else_is_flattened(drawn):
    low, high = drawn(figures(scores=(-50.0, 9.0, 1.0)))[0].get_ylim()
    assert low > -1
    assert high < 2


def test_the_same_figures_are_the_same_bytes(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_faithfulness(figures(), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(UsageError, match=r"\.png"):
        draw_faithfulness(figures(), tmp_path / "figure.txt")
    nothing = replace(figures(), curves={"lib": figures(whole=0.0).curves["lib"]})
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_faithfulness(nothing, tmp_path / "figure.png")
