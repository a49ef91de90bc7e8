"""The page of a run, made of a template, Bokeh's own JavaScript, and what the run knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from libgraph.errors import UsageError
from libgraph.files.atomic import writing
from libgraph.files.manifest import changing
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.interventions.survey import LesionSurvey
from libgraph.report.page.contents import Values, contents, graph_contents, shown_graph
from libgraph.report.page.figures import (
    COLOURED,
    Item,
    bokeh_script,
    curve_figure,
    graph_figure,
    map_figure,
)
from libgraph.report.page.module_map import map_values
from libgraph.report.style import PALETTE, hex_colour
from libgraph.runs.run import Run
from libgraph.runs.saved_run import SavedRun, as_run
from libgraph.runs.tables import metric_tables, survey_tables
from libgraph.screen import PlainTable
from libgraph.visible import visible

PAGE = "report.html"
"""The file of a run."""

DEEP_LAYERS, DEEP_FEATURES = 9, 1500
"""With more node layers, or more features, the page opens on the map of modules."""

NO_EXAMPLES = (
    "This run is of a version that kept no examples: the same libgraph analyze with --force adds "
    "them, and computes nothing again that still holds."
)

DOTTED = 1500
"""With more features they are drawn as ends of lines."""

FIRST_EDGES = 3000
"""Edges that are drawn when the page opens, at most."""


def write_page(
    source: Run | InteractionGraph | str | Path,
    path: str | Path | None = None,
    *,
    title: str | None = None,
) -> Path:
    """Write the page of a run: one file that works offline and asks nobody for anything.

    The same run always gives the same bytes.

    Args:
        source: a run, its directory, or a graph.
        path: where to; by default `report.html` in the run's directory.
        title: heading; by default what was analysed.

    Returns:
        Where it is.

    Raises:
        MissingExtra: if there is no Bokeh.
        UsageError: if the file cannot be written, or a graph has no `path` to go to.
    """
    if isinstance(source, InteractionGraph):
        if path is None:
            raise UsageError("A graph has no directory for its page: give the path='…' of a file.")
        text = page_of_graph(source, title or "Interaction graph")
    else:
        run = as_run(source)
        text = page_of_run(run, title)
        if path is None and isinstance(run, SavedRun):
            # A file of the run like all others.
            with changing(run.directory) as staged:
                _write(staged / PAGE, text)
            return run.directory / PAGE
        path = (run.directory or Path()) / PAGE if path is None else path
    _write(Path(path), text)
    return Path(path)


def _write(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def page_of_run(run: Run, title: str | None = None) -> str:
    """The page of a run as a text; see `write_page`."""
    graphs = {name: shown_graph(run, name) for name in run.basis_names}
    score = run.metrics.score
    return _page(
        {**contents(run, graphs), "lesions": _lesions(run.lesions())},
        graphs,
        title or f"{run.metrics.backend}: {run.basis.upper()}",
        f"test {score.name} {score.test:.4f} · ",
        _tables(run),
    )


def page_of_graph(graph: InteractionGraph, title: str) -> str:
    """The page of a graph alone as a text; see `write_page`."""
    values = {**graph_contents(graph, title), "lesions": None}
    return _page(values, {"graph": graph}, title, "", "")


def _lesions(survey: LesionSurvey | None) -> dict[str, object] | None:
    """Scores without each feature and each module of the main basis."""
    if survey is None:
        return None
    return {
        "score": survey.score,
        "features": {name: list(scores) for name, scores in survey.features.items()},
        "modules": [{"score": module.score, "p": module.p} for module in survey.modules],
    }


def _page(
    values: Values, graphs: Mapping[str, InteractionGraph], title: str, facts: str, tables: str
) -> str:
    library = bokeh_script()
    figures: dict[str, Item] = {}
    for name, graph in graphs.items():
        layers = [layer.name for layer in graph.layers]
        shown = values["bases"][name]
        colours = [module["colour"] for module in shown["modules"][:COLOURED]]
        dotted = sum(layer["size"] for layer in shown["layers"]) > DOTTED
        figures[f"{name}-graph"] = graph_figure(layers, colours, name, dotted=dotted)
        if graph.partition is not None and graph.partition.size:
            shown["map"] = map_values(graph, shown["modules"], values["concept"], COLOURED)
            figures[f"{name}-map"] = map_figure(layers, shown["map"]["rows"], name, colours)
    palette = [hex_colour(colour) for colour in PALETTE]
    if values["curves"]:
        figures["curves"] = curve_figure(list(graphs), palette * (1 + len(graphs) // len(palette)))
    main = values["bases"][values["main"]]
    rows = sum(layer["size"] for layer in main["layers"])
    deep = len(main["layers"]) > DEEP_LAYERS or rows > DEEP_FEATURES
    values |= {
        "figures": figures,
        "coloured": COLOURED,
        "first_edges": FIRST_EDGES,
        "dotted": DOTTED,
        "view": "map" if deep and "map" in main else "features",
        "no_examples": NO_EXAMPLES,
    }
    package = files("libgraph.report.page")
    return Template((package / "page.html").read_text("utf-8")).substitute(
        title=escape(visible(title)),
        heading=escape(visible(title)),
        facts=escape(visible(facts + _facts(main))),
        style=(package / "page.css").read_text("utf-8"),
        tables=tables,
        library="\n".join(library),
        data=_json(values),
        script=(package / "page.js").read_text("utf-8"),
    )


def _facts(main: Values) -> str:
    edges = main["edges"]["kept"] + main["edges"]["left_out"]
    features = sum(layer["all"] for layer in main["layers"])
    return f"{features} features, {edges} edges, {len(main['modules'])} modules"


def _json(values: Values) -> str:
    """JSON inside of a script: nothing in it can end that."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tables(run: Run) -> str:
    """The figures of the run, as they are printed."""
    parts = [
        f'<section class="wide"><h2>{escape(title)}</h2>{_table(table)}</section>'
        for title, table in {**metric_tables(run.metrics), **_survey_tables(run)}.items()
    ]
    return f'<div class="tables">{"".join(parts)}</div>'


def _survey_tables(run: Run) -> Mapping[str, PlainTable]:
    survey = run.lesions()
    return {} if survey is None else survey_tables(survey, run.metrics)


def _table(table: PlainTable) -> str:
    head = "".join(f'<th scope="col">{escape(visible(cell))}</th>' for cell in table.headings)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    caption = f'<p class="faint">{escape(table.caption)}</p>' if table.caption else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{caption}"
