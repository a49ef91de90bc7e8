"""What `libgraph prompt` prints, and the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from libgraph.progress import in_words
from libgraph.runs.tables import print_table
from libgraph.screen import PlainTable, tell
from libgraph.visible import in_line

if TYPE_CHECKING:
    from libgraph.backend.contract import Json
    from libgraph.interventions.prompt_cost import Expected
    from libgraph.runs.prompted import Prompted

MOST_ROWS = 24
"""Nodes in the table, as many of each node layer, at least one; JSON has all."""


ROUGH = 0.01
"""Share of a change from which on it is worth a word that edges do not explain it."""


def print_prompt(console: Console, prompted: Prompted, top: int) -> None:
    """Print outputs, the nodes with most influence, and the edges that carry most."""
    whole = prompted.whole
    if prompted.text:
        tell(console, (in_line(prompted.text), "bold"))
    said = [
        f"{in_line(name)} {100 * float(probability):.1f} %"
        for name, probability in zip(whole.class_names, whole.probabilities, strict=True)
    ]
    tell(console, f"Next: {', '.join(said)}.")
    console.print()
    table = PlainTable(
        ["node", "at", "stands for", "value", "influence"], words=[2], left=[0, 1, 2]
    )
    in_layer = max(1, min(3, MOST_ROWS // len(prompted.nodes)))
    for layer in prompted.nodes[:-1]:
        for place in range(min(in_layer, len(layer))):
            position, feature = int(layer.positions[place]), int(layer.features[place])
            label = prompted.label(layer.layer, feature).split(" | ")[0]
            table.add_row(
                layer.ids[place],
                _token(prompted.token(layer.layer, position)) or str(position),
                in_line(label),
                f"{float(layer.values[place]):+.3g}",
                f"{100 * float(layer.influence[place]):.1f} %",
            )
    print_table(console, "What it is made of", table)
    table = PlainTable(
        ["from", "to", "adds", "by pattern", "of input", "carries"], words=[], left=[0, 1]
    )
    for edge in prompted.edges(top):
        table.add_row(
            edge.source,
            edge.target,
            f"{edge.effect:+.3g}",
            "-" if edge.pattern is None else f"{edge.pattern:+.3g}",
            f"{100 * edge.share:.0f} %",
            f"{100 * edge.carried:.1f} %",
        )
    print_table(console, "Edges that carry most", table)
    nodes = sum(map(len, prompted.nodes))
    kept = sum(int(mask.sum()) for mask in prompted.pruned.kept.values())
    worst = max(whole.completeness.items(), key=lambda item: item[1])
    tell(
        console,
        f"{nodes} nodes and {kept} edges kept. All edges, with those left out, explain what "
        f"changes along the path but for {worst[1]:.1g} of it at most (from {worst[0][0]} on; "
        f"{whole.integration}, baseline {whole.baseline}).",
    )
    if worst[1] > ROUGH and whole.integration != "auto":
        tell(console, "--integration auto, from the mean, explains more of it.")


def print_pattern_edges(console: Console, prompted: Prompted, top: int) -> None:
    """Print the edges that move attention most, and by which heads."""
    found = prompted.pattern_edges(top)
    console.print()
    if not found:
        tell(console, "No kept edge moves attention.")
        return
    count = max(len(heads) for _, heads in found)
    columns = ["from", "to", "by pattern", *(f"head {head}" for head in range(count))]
    table = PlainTable(columns, words=[], left=[0, 1])
    for edge, heads in found:
        cells = [f"{effect:+.2g}" for effect in heads]
        table.add_row(edge.source, edge.target, f"{edge.pattern or 0:+.3g}", *cells)
    print_table(console, "Edges that move attention most, by head", table)


def _token(text: str) -> str:
    """A token in a table: space alone can be seen."""
    return in_line(text).strip() or "␣" * len(text)


def prompt_values(prompted: Prompted) -> dict[str, Json]:
    """Nodes and edges that were kept, as JSON holds them."""
    whole = prompted.whole
    nodes: list[Json] = []
    for layer in prompted.nodes:
        for place, name in enumerate(layer.ids):
            position, feature = int(layer.positions[place]), int(layer.features[place])
            nodes.append(
                {
                    "id": name,
                    "layer": layer.layer,
                    "feature": feature,
                    "position": position,
                    "token": prompted.token(layer.layer, position),
                    "label": prompted.label(layer.layer, feature),
                    "value": float(layer.values[place]),
                    "baseline": float(layer.baseline[place]),
                    "influence": float(layer.influence[place]),
                }
            )
    return {
        "tokens": list(whole.tokens),
        "outputs": [
            {"number": number, "name": name, "probability": float(probability)}
            for number, name, probability in zip(
                prompted.nodes[-1].features.tolist(),
                whole.class_names,
                whole.probabilities,
                strict=True,
            )
        ],
        "integration": whole.integration,
        "baseline": whole.baseline,
        "completeness": {"->".join(pair): error for pair, error in whole.completeness.items()},
        "nodes": nodes,
        "edges": [edge._asdict() for edge in prompted.edges()],
    }


def print_expected(console: Console, cost: Expected) -> None:
    """Print what `--dry-run` found."""
    table = PlainTable(["node layer", "positions", "features", "nodes"], words=[], left=[0])
    for layer in cost.layers:
        table.add_row(layer.name, str(layer.positions), str(layer.features), str(layer.nodes))
    print_table(console, "Nodes, before any is left out", table)
    tell(
        console,
        f"About {in_words(cost.seconds)}, {cost.bytes / 2**20:.0f} MiB of edges at most.",
    )
