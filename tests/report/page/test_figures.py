"""The figures of the page: what is in them, and that Bokeh finds nothing wrong."""

from __future__ import annotations

import json
import logging

import pytest

from libgraph.report.page.figures import (
    COLOURED,
    DOTS,
    GREY,
    WIDTHS,
    curve_figure,
    graph_figure,
    map_figure,
)

pytest.importorskip("bokeh")

COLOURS = ("#123456", "#abcdef")


def _made(figure):
    """All models of a figure by their id, and its renderers by their name."""
    models = {}

    def walk(value):
        if isinstance(value, dict):
            if value.get("type") == "object" and "id" in value:
                models[value["id"]] = value
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(json.loads(json.dumps(figure)))
    return models, {
        model["attributes"]["name"]: model["attributes"]
        for model in models.values()
        if model["name"] == "GlyphRenderer"
    }


@pytest.mark.parametrize("dotted", [True, False])
def test_there_is_a_line_of_each_width_for_every_colour_that_is_used(dotted):
    models, made = _made(graph_figure(["a", "b"], COLOURS, "it", dotted=dotted))
    looks = [*enumerate(COLOURS), (COLOURED, GREY)]
    for kind, widths in (("edges", WIDTHS), ("dots", DOTS if dotted else ())):
        found = {name: part for name, part in made.items() if name.startswith(f"it-{kind}-")}
        wanted = {f"it-{kind}-{group}-{k}": (colour, width)
                  for group, colour in looks for k, width in enumerate(widths)}  # fmt: skip
        assert wanted == {
            name: (look["line_color"], look["line_width"])
            for name, part in found.items()
            for look in [part["glyph"]["attributes"]]
        }
    # Each has data of its own, which the page sets, and looks the same selected or not.
    sources = [part["data_source"]["id"] for part in made.values()]
    assert len(set(sources)) == len(made)
    views = [part["view"]["id"] for part in made.values()]
    assert len(set(views)) == len(made)
    for part in made.values():
        assert part["selection_glyph"] is part["nonselection_glyph"] is None
    lines = sum(model["name"] == "Line" for model in models.values())
    assert lines == 1 + len(WIDTHS) * (len(looks) + 2) + dotted * len(DOTS) * len(looks)


def test_bokeh_finds_nothing_wrong(caplog):
    with caplog.at_level(logging.INFO, logger="bokeh"):
        graph_figure(["a", "b"], COLOURS, "it", dotted=True)
        map_figure(["a", "b"], ["0", "no module"], "it", COLOURS)
        curve_figure(["lib", "pca"], COLOURS)
    assert not caplog.records
