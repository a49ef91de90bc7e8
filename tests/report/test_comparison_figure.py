"""The figure that compares bases or runs: what is in it, and that its bytes are always the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers.metrics import metrics_of, sparsity_of

from libgraph.comparison.rows import Column
from libgraph.errors import UsageError

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.image import imread

from libgraph.report import comparison_figure
from libgraph.report.comparison_figure import draw_comparison
from libgraph.report.comparison_panels import short_number

PAIRS = ["a->b", "b->c"]


def basis(scale: int, pairs=PAIRS, **changes):
    """Figures as `metrics.json` has them: 3, 4, … edges times a scale."""
    layers = [pair.split("->")[0] for pair in pairs]
    curve = {str(scale * k): 1 - 1 / (1 + k) for k in range(6)}
    return {
        "features": dict.fromkeys(layers, 9),
        "features_required": {layer: {"0.001": 2 * scale} for layer in layers},
        "edges_required": {pair: {"0.001": scale * (3 + i)} for i, pair in enumerate(pairs)},
        "sparsity": {pair: sparsity_of(1.5 * scale) for pair in pairs},
        "curves": {"nodes": dict.fromkeys(layers, curve), "edges": dict.fromkeys(pairs, curve)},
    } | changes


def columns(score=1.0, name="accuracy", **bases):
    bases = bases or {"lib": basis(1), "pca": basis(2)}
    metrics = metrics_of(bases, score={"name": name, "test": score})
    return [Column(each, each, metrics) for each in bases]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, and give the matplotlib figure."""
    figures = []

    class Kept(Figure):
        def __init__(self, *arguments, **how):
            super().__init__(*arguments, **how)
            figures.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)

    def draw(columns, **how):
        draw_comparison(columns, tmp_path / "figure.png", **how)
        assert imread(tmp_path / "figure.png").shape[1] == 1800
        return figures[-1]

    return draw


def by_title(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.get_axes()}


def heights(axes):
    return [[bar.get_height() for bar in group] for group in axes.containers]


def test_bars_and_curves_are_the_numbers(drawn):
    found = by_title(drawn(columns(), title="toy"))
    assert set(found) == {
        "Edges needed, Δ 0.001", "Effective edges", "a", "b", "a → b", "b → c"
    }  # fmt: skip
    assert heights(found["Edges needed, Δ 0.001"]) == [[3, 4], [6, 8]]
    assert heights(found["Effective edges"]) == [[1.5, 1.5], [3, 3]]
    lines = found["a"].get_lines()
    curve, dot, other, _, level = lines
    assert curve.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
    assert curve.get_ydata()[1] == 0.5
    assert other.get_xdata().tolist() == [0, 2, 4, 6, 8, 10]
    assert [dot.get_xdata()[0], dot.get_ydata()[0]] == [2, curve.get_ydata()[2]]
    assert level.get_ydata()[0] == pytest.approx(0.999)
    assert len(lines) == 5


def test_a_loss_has_its_line_above_and_a_log_scale_where_it_is_wide(drawn):
    wide = {"nodes": {"a": {"0": 300.0, "4": 1.0}}, "edges": {}}
    figure = drawn(columns(1.0, "cross-entropy", lib=basis(1, curves=wide)))
    axes = by_title(figure)["a"]
    assert axes.get_lines()[-1].get_ydata()[0] == pytest.approx(1.001)
    assert axes.get_yscale() == "log"
    figure.canvas.draw()
    labels = [label.get_text() for label in (*axes.get_yticklabels(), *axes.get_yticklabels(True))]
    assert any(labels)
    assert not any("$" in label for label in labels)


def test_scales_are_logarithmic_where_numbers_lie_far_apart(drawn):
    near = by_title(drawn(columns()))["Effective edges"]
    far = by_title(drawn(columns(lib=basis(1), pca=basis(100))))["Effective edges"]
    assert (near.get_yscale(), far.get_yscale()) == ("linear", "log")
    assert near.get_ylim()[0] == 0
    assert far.get_ylim()[0] == 1


def test_what_no_number_was_enough_for_is_said(drawn):
    some = {"a->b": {"0.001": None}, "b->c": {"0.001": 4}}
    figure = drawn(columns(lib=basis(1, edges_required=some), pca=basis(2)))
    axes = by_title(figure)["Edges needed, Δ 0.001"]
    assert [text.get_text() for text in axes.texts] == ["more", "4", "6", "8"]


def test_a_basis_has_its_colour_wherever_it_stands(drawn):
    def colours(*names):
        figure = drawn(columns(**{name: basis(1) for name in names}))
        legend = figure.legends[0]
        texts = [text.get_text() for text in legend.get_texts()]
        return dict(
            zip(texts, (each.get_facecolor() for each in legend.get_patches()), strict=True)
        )

    first, second = colours("lib", "pca", "mine"), colours("random", "neuron", "pca", "lib")
    assert first["lib"] == second["lib"]
    assert first["pca"] == second["pca"]
    assert len(set((first | second).values())) == 5


def test_runs_with_one_basis_have_colours_and_lines_of_their_own(drawn):
    def run(heading, score):
        metrics = metrics_of({"lib": basis(1)}, score={"name": "accuracy", "test": score})
        return Column(heading, "lib", metrics)

    figure = drawn([run("one", 1.0), run("two", 0.5)])
    patches = figure.legends[0].get_patches()
    assert len({patch.get_facecolor() for patch in patches}) == 2
    levels = [line.get_ydata()[0] for line in by_title(figure)["a"].get_lines()[-2:]]
    assert levels == pytest.approx([0.999, 0.499])


def test_a_run_without_ablation_or_of_an_earlier_version(drawn):
    bare = basis(1, edges_required={}, features_required={})
    del bare["curves"]
    assert set(by_title(drawn(columns(lib=bare)))) == {"Effective edges"}


def test_many_layers_are_thinned_out_and_many_names_fit(drawn):
    pairs = [f"{i}->{i + 1}" for i in range(30)]
    figure = drawn(
        columns(**{f"a dictionary of directions {i}": basis(i + 1, pairs) for i in range(6)}),
        title="many",
    )
    panels = [title for title in by_title(figure) if " → " in title]
    assert len(panels) == comparison_figure.MOST_PANELS
    assert {panels[0], panels[-1]} == {"0 → 1", "29 → 30"}
    width = figure.bbox.width
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= width
    assert figure._suptitle.get_window_extent().x1 <= width


def test_nothing_to_draw(tmp_path):
    nothing = columns(lib={"features": {"a": 3}})
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_comparison(nothing, tmp_path / "figure.png")
    with pytest.raises(UsageError, match=r"no \.png, \.svg or \.pdf"):
        draw_comparison(columns(), tmp_path / "figure.gif")


def test_the_bytes_depend_on_the_numbers_alone(tmp_path):
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/..']\n"
        "from test_comparison_figure import columns, draw_comparison\n"
        "draw_comparison(columns(), sys.argv[2], title='toy')"
    )
    here = __file__.rpartition("/")[0]
    for name in ("a.png", "b.png"):
        subprocess.run([sys.executable, "-c", code, here, tmp_path / name], check=True)
    draw_comparison(columns(), tmp_path / "c.png", title="toy")
    draw_comparison(columns(0.5), tmp_path / "d.png", title="toy")
    first, second, third, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abcd")
    assert first == second == third != other


def test_numbers_below_ticks():
    numbers = [short_number(value, 0) for value in (0, 1, 0.5, 1000, 10_000, 100_000, 1e6)]
    assert numbers == ["0", "1", "0.5", "1000", "10k", "100k", "1M"]
