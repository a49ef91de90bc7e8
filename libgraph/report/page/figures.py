"""The figures of the page: Bokeh draws features, the map of modules and curves.

They are made empty, with names: the page fills them from what it knows. WebGL draws them where
there is any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from libgraph.errors import MissingExtra, missing_extra

if TYPE_CHECKING:
    from bokeh.models import Glyph, GlyphRenderer
    from bokeh.plotting import figure as Figure  # noqa: N812

WIDTHS = (0.7, 1.6, 3.2)
"""Of lines, by weight."""

DOTS = (3.5, 6.0, 10.0)
"""Diameters of features where there are thousands, which are drawn as ends of lines."""

COLOURED = 12
"""Modules whose edges have a colour of their own."""

GREY = "#8a8f99"

LETTERS = 26
"""Of the name of a node layer in a figure."""

Item = dict[str, Any]
"""A figure as Bokeh's JavaScript reads it."""

ID = re.compile(r"p\d+")


def bokeh_script() -> list[str]:
    """The JavaScript that Bokeh brings along.

    Raises:
        MissingExtra: If there is no Bokeh.
    """
    try:
        from bokeh.resources import Resources
    except ImportError as error:
        raise MissingExtra(missing_extra("The page needs Bokeh", "report")) from error
    # One thing after the other, whatever the environment says of a development version.
    return list(Resources(mode="inline", minified=True, components=["bokeh", "bokeh-gl"]).js_raw)


def graph_figure(
    layers: Sequence[str], colours: Sequence[str], prefix: str, *, dotted: bool
) -> Item:
    """Features in columns, and a renderer of edges for each colour and width.

    Args:
        layers: names of node layers.
        colours: of the modules that have one of their own; grey comes after `COLOURED`.
        prefix: of the names of its parts.
        dotted: whether features are so many that they are drawn as ends of lines.
    """
    from bokeh.models import HoverTool, Quad, Scatter, TapTool

    plot = _figure(f"{prefix}-graph", "pan,wheel_zoom,box_zoom,reset,save")
    _name_columns(plot, layers)
    parts = _Parts(prefix)
    parts.line("columns", line_color=GREY, line_alpha=0.35, line_width=2)
    groups = [*enumerate(colours[:COLOURED]), (COLOURED, GREY)]
    for group, colour in groups:
        for width, line_width in enumerate(WIDTHS):
            parts.line(
                f"edges-{group}-{width}", line_color=colour, line_width=line_width,
                line_alpha=0.28 + 0.16 * width,
            )  # fmt: skip
    for group, colour in groups if dotted else ():
        for width, line_width in enumerate(DOTS):
            parts.line(
                f"dots-{group}-{width}", line_color=colour, line_cap="round",
                line_width=line_width, line_alpha=0.92,
            )  # fmt: skip
    dot = Scatter(size="size", fill_color="colour", fill_alpha=0.92, line_color=None)
    columns = ("x", "y", "size", "colour", "name", "label", "about")
    nodes = parts.add("nodes", dot, columns)
    parts.text("labels")
    # What is not lit is dimmed by what lies upon it: one change, whatever is below.
    veil = parts.add(
        "veil",
        Quad(
            left=-1e4, right=1e4, top=1e4, bottom=-1e4,
            fill_color="#ffffff", fill_alpha=0.86, line_color=None,
        ),
        {"left": [-1e4]},
    )  # fmt: skip
    veil.visible = False
    for name, colour in (("in", "#1f9ad6"), ("out", "#e0642e")):
        for width, line_width in enumerate(WIDTHS):
            parts.line(
                f"lit-{name}-{width}", line_color=colour, line_width=line_width + 0.6,
                line_alpha=0.9,
            )  # fmt: skip
    dot = Scatter(size="size", fill_color="colour", line_color=None)
    parts.add("bright", dot, ("x", "y", "size", "colour"))
    parts.text("bright-labels")
    parts.add("ring", Scatter(size=22, fill_color=None, line_color="#d81b60", line_width=2.5))
    plot.renderers = parts.renderers
    plot.add_tools(
        HoverTool(renderers=[nodes], tooltips=[("", "@name"), ("", "@label"), ("", "@about")]),
        TapTool(renderers=[nodes]),
    )
    return _item(plot)


class _Parts:
    """Renderers of a figure, one above the other, each with data of its own and by a name."""

    def __init__(self, prefix: str) -> None:
        from bokeh.models import AllIndices, UnionRenderers

        self.prefix = prefix
        self.renderers: list[GlyphRenderer] = []
        # They say the same of all renderers, and hold nothing of any.
        self._all, self._policy = AllIndices(), UnionRenderers()

    def add(
        self, name: str, glyph: Glyph, columns: Iterable[str] | Mapping[str, object] = ("x", "y")
    ) -> GlyphRenderer:
        """A glyph that looks the same selected or not, and columns of data, empty or given."""
        from bokeh.models import CDSView, ColumnDataSource, GlyphRenderer

        data = columns if isinstance(columns, Mapping) else {key: [] for key in columns}
        renderer = GlyphRenderer(
            name=f"{self.prefix}-{name}",
            glyph=glyph,
            data_source=ColumnDataSource(data=data, selection_policy=self._policy),
            view=CDSView(filter=self._all),
            selection_glyph=None,
            nonselection_glyph=None,
            muted_glyph=None,
        )
        self.renderers.append(renderer)
        return renderer

    def line(self, name: str, **look: Any) -> None:
        from bokeh.models import Line

        self.add(name, Line(**look))

    def text(self, name: str) -> None:
        from bokeh.models import Text

        glyph = Text(
            text_font={"value": "system-ui, sans-serif"}, text_font_size="11px",
            text_baseline="middle", x_offset=10, text_color="#5d636d",
        )  # fmt: skip
        self.add(name, glyph, ("x", "y", "text"))


def map_figure(
    layers: Sequence[str], rows: Sequence[str], prefix: str, colours: Sequence[str]
) -> Item:
    """Modules in rows, node layers in columns."""
    from bokeh.models import FixedTicker, HoverTool, Scatter, TapTool
    from bokeh.models.text import PlainText

    plot = _figure(f"{prefix}-map", "pan,wheel_zoom,reset,save")
    _name_columns(plot, layers)
    plot.yaxis.visible = True
    plot.yaxis.ticker = FixedTicker(ticks=[-row for row in range(len(rows))])
    plot.yaxis.major_label_overrides = {
        -row: PlainText(text=_short(name)) for row, name in enumerate(rows)
    }
    plot.y_range.start, plot.y_range.end = -len(rows) + 0.2, 0.9
    parts = _Parts(prefix)
    for group, colour in [*enumerate(colours[:COLOURED]), (COLOURED, GREY)]:
        for width, line_width in enumerate((1.0, 3.0, 7.0)):
            parts.line(
                f"flow-{group}-{width}", line_width=line_width, line_color=colour, line_alpha=0.55
            )
    dot = Scatter(size="size", fill_color="colour", fill_alpha="alpha", line_color=None)
    cells = parts.add("cells", dot, ("x", "y", "size", "colour", "alpha", "name", "about"))
    plot.renderers = parts.renderers
    plot.add_tools(
        HoverTool(renderers=[cells], tooltips=[("", "@name"), ("", "@about")]),
        TapTool(renderers=[cells]),
    )
    return _item(plot)


def curve_figure(bases: Sequence[str], colours: Sequence[str]) -> Item:
    """One curve for each basis; the page chooses which."""
    from bokeh.models import Legend, LegendItem

    plot = _figure("curves", "pan,wheel_zoom,reset,save", x_axis_type="log")
    plot.xaxis.visible = plot.yaxis.visible = True
    plot.xgrid.visible = plot.ygrid.visible = True
    items = []
    for basis, colour in zip(bases, colours, strict=False):
        line = plot.line([], [], name=f"curve-{basis}", line_color=colour, line_width=2)
        dots = plot.scatter([], [], name=f"dots-{basis}", color=colour, size=5)
        items.append(LegendItem(label={"value": basis.upper()}, renderers=[line, dots]))
    plot.add_layout(Legend(items=items, name="legend", location="bottom_right"))
    return _item(plot)


def _figure(name: str, tools: str, **axes: Any) -> Figure:
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    if not axes:
        axes = {"x_range": Range1d(0, 1), "y_range": Range1d(-0.03, 1.03)}
    plot = figure(
        name=name, tools=tools, active_scroll="wheel_zoom", output_backend="webgl",
        sizing_mode="stretch_both", toolbar_location="right", min_border=6, **axes,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.background_fill_color = plot.border_fill_color = None
    plot.outline_line_color = None
    plot.xgrid.visible = plot.ygrid.visible = False
    if name != "curves":
        plot.yaxis.visible = False
        plot.x_range.bounds = plot.y_range.bounds = None
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_line_color = axis.minor_tick_line_color = None
        axis.major_tick_line_color = None
        axis.major_label_text_font = "system-ui, sans-serif"
        axis.major_label_text_font_size = "12px"
        axis.name = "axis"
    return plot


def _name_columns(plot: Figure, layers: Sequence[str]) -> None:
    from bokeh.models import FixedTicker
    from bokeh.models.text import PlainText

    count = len(layers)
    plot.x_range.start, plot.x_range.end = -0.5, count - 0.5
    plot.xaxis.ticker = FixedTicker(ticks=list(range(count)))
    # Plain, because a name in dollar signs would have Bokeh ask for a library of formulas.
    plot.xaxis.major_label_overrides = {
        place: PlainText(text=_short(name)) for place, name in enumerate(layers)
    }
    letters = sum(len(_short(name)) for name in layers)
    if letters > 60:
        plot.xaxis.major_label_orientation = 0.6


def _short(name: str) -> str:
    from libgraph.visible import in_line

    name = in_line(name)
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2]}…{name[-LETTERS // 2 + 1 :]}"


def _item(plot: Figure) -> Item:
    """The figure, with ids that are the same whenever it is made."""
    from bokeh.embed import json_item

    item: Item = json_item(plot)
    names: dict[str, str] = {}
    prefix = str(plot.name)

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: names.setdefault(inner, f"{prefix}-{len(names)}")
                if key in ("id", "root_id") and isinstance(inner, str) and ID.fullmatch(inner)
                else renamed(inner)
                for key, inner in value.items()
            }
        return [renamed(x) for x in value] if isinstance(value, list | tuple) else value

    item = renamed(item)
    item["target_id"] = prefix
    item["doc"]["title"] = "libgraph"
    return item
