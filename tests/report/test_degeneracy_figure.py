"""Figures of what does nothing: their titles are on them."""

from pathlib import Path

import pytest

from libgraph.report import degeneracy_figure
from libgraph.report.degeneracy_figure import Distances, draw_distances


@pytest.mark.parametrize("panels", [1, 2, 5])
def test_a_title_is_as_wide_as_the_figure_at_most(tmp_path, monkeypatch, panels):
    drawn = []
    save = degeneracy_figure.save_figure

    def saved(figure, path: Path):
        save(figure, path)
        drawn.append(figure)

    monkeypatch.setattr(degeneracy_figure, "save_figure", saved)
    sections = [Distances(f"a->b{n}", [[0, 1], [1, 0]], [0, 1], [], 0) for n in range(panels)]
    title = f"modular-addition-{'of-a-name' * 9}: distance between patterns of every two heads"
    draw_distances(sections, tmp_path / "heads.png", f"{title} (0: they act as one)")
    (figure,) = drawn
    figure.canvas.draw()
    extent = figure._suptitle.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert extent.y0 >= max(axes.get_tightbbox().y1 for axes in figure.axes)
