"""GEXF 1.3 for Gephi, gephi-lite, sigma and graphology: as the GraphML file, in the other form.

Position, size and colour are in the `viz` namespace; attributes have the names that they have in
GraphML. Written in pieces and then renamed, so a file is complete or not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from libgraph.files.atomic import writing
from libgraph.graph.columns import node_columns
from libgraph.graph.features import feature_ids
from libgraph.graph.interaction_graph import InteractionGraph, check_graph
from libgraph.report.appearance import module_colour
from libgraph.report.graphml import QUOTED, about, check_names, edge_lines, legal, places

NODE_ATTRIBUTES = {
    "layer": "string",
    "feature": "integer",
    "community": "integer",
    "importance": "double",
    "isolated": "integer",
    "concept": "string",
    "description": "string",
}

EDGE = (
    '\n<edge source="%s" target="%s" id="%s-&gt;%s" weight="%r">'
    '<attvalues><attvalue for="interaction" value="%r"/></attvalues></edge>'
)


def write_gexf(graph: InteractionGraph, path: str | Path, *, connected: bool = False) -> None:
    """Write the graph as directed GEXF; the same graph always gives the same bytes.

    Nodes and edges are those of :func:`~libgraph.report.graphml.write_graphml`.

    Args:
        graph: What to write.
        path: Where to.
        connected: Leave out features without an edge.

    Raises:
        DataError: If two node layers have one name when theirs are escaped.
        UsageError: If the file cannot be written.
    """
    check_graph(graph)
    check_names(graph, "GEXF")
    with (
        writing(Path(path)) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for text in _pieces(graph, connected=connected):
            file.write(text)


def _quoted(text: object) -> str:
    return escape(legal(str(text)), QUOTED)


def _pieces(graph: InteractionGraph, *, connected: bool) -> Iterator[str]:
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<gexf xmlns="http://gexf.net/1.3" '
    yield 'xmlns:viz="http://gexf.net/1.3/viz" version="1.3">\n<meta><creator>libgraph</creator>'
    yield f"<description>{escape(about(graph))}</description></meta>\n"
    yield '<graph defaultedgetype="directed" mode="static">\n<attributes class="node">'
    for name, kind in NODE_ATTRIBUTES.items():
        yield f'\n<attribute id="{name}" title="{name}" type="{kind}"/>'
    yield '\n</attributes>\n<attributes class="edge">\n'
    yield '<attribute id="interaction" title="interaction" type="double"/>\n</attributes>\n<nodes>'
    placed = places(graph, kept, connected=connected)
    columns = node_columns(graph)
    row = 0
    for layer in graph.layers:
        for feature, name in enumerate(feature_ids(layer)):
            x, y, size = placed[layer.name][feature].tolist()
            if size > 0:
                yield f'\n<node id="{_quoted(name)}" label="{_quoted(columns["label"][row])}">'
                yield "<attvalues>"
                for key in NODE_ATTRIBUTES:
                    yield f'<attvalue for="{key}" value="{_quoted(columns[key][row])}"/>'
                r, g, b = module_colour(int(columns["community"][row]))
                yield f'</attvalues><viz:size value="{size!r}"/><viz:position x="{x!r}" y="{y!r}" '
                yield f'z="0.0"/><viz:color r="{r}" g="{g}" b="{b}"/></node>'
            row += 1
    yield "\n</nodes>\n<edges>"
    yield from edge_lines(graph, kept, EDGE)
    yield "\n</edges>\n</graph>\n</gexf>\n"
