"""The figures of a run as tables: features, edges, sparsity and modules, bases side by side.

What `libgraph analyze` prints, and what `print(run)` and a notebook show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

Metrics = Mapping[str, Any]


MOST_COLUMNS = 4
"""Node layers with a column of their own in the table of modules."""


MOST_MODULES = 20
"""Modules in the table; `metrics.json` has all of them."""


WIDTH = 120
"""Characters in a line, where there is no terminal to ask."""


def metrics_text(metrics: Metrics, concept: str) -> str:
    """What `print_metrics` prints, as a text."""
    with StringIO() as file:
        print_metrics(Console(file=file, width=WIDTH), metrics, concept)
        return file.getvalue().rstrip()


def print_metrics(console: Console, metrics: Metrics, concept: str) -> None:
    """Print features, edges, sparsity and modules, the basis asked for beside the baseline.

    Args:
        console: where to.
        metrics: what `metrics.json` holds.
        concept: what concepts in labels are called, such as `frequency`.
    """
    score = metrics["score"]
    console.print(
        f"[bold]{metrics['backend']}[/]: test {score['name']} {score['test']:.4f}", highlight=False
    )
    console.print()
    names = " / ".join(name.upper() for name in metrics["bases"])
    tables = {f"Features, {names}": _features(metrics)}
    if any(entry["edges_required"] for entry in metrics["bases"].values()):
        tables[f"Edges needed, {names}"] = _edges(metrics)
    tables[f"Sparsity of all interactions, {names}"] = _sparsity(metrics)
    for title, table in tables.items():
        print_table(console, title, table)
    for name, entry in metrics["bases"].items():
        print_modules(console, entry["modules"], name, metrics["node_layers"], concept)
    if metrics["signs"]:
        console.print(_estimated(metrics), highlight=False)


def print_modules(
    console: Console, found: Metrics, basis: str, node_layers: Sequence[str], concept: str
) -> None:
    """Print the modules of one basis.

    Args:
        console: where to.
        found: what `metrics.json` says of the basis's modules.
        basis: its name.
        node_layers: from input to output.
        concept: what concepts in labels are called.
    """
    title = _modules_title(found, basis, concept)
    print_table(console, title, _modules(found, node_layers, concept))


def _features(metrics: Metrics) -> Table:
    """Features kept, and how many of them the score needs, per node layer."""
    bases = metrics["bases"]
    ablated = any(entry["features_required"] for entry in bases.values())
    columns = ["kept", "needed"] if ablated else ["kept"]
    table = plain_table("node layer", *columns)
    for layer in metrics["node_layers"]:
        kept = [str(entry["features"][layer]) for entry in bases.values()]
        found = [entry["features_required"].get(layer, {}) for entry in bases.values()]
        needed = [_count(next(iter(by_delta.values()))) for by_delta in found if by_delta]
        table.add_row(layer, *(_side_by_side(each) for each in (kept, needed)[: len(columns)]))
    return table


def _edges(metrics: Metrics) -> Table:
    """Edges that the score needs, per layer pair and tolerance."""
    required = [entry["edges_required"] for entry in metrics["bases"].values()]
    deltas = list(next(iter(required[0].values())))
    table = plain_table("layer pair", *(f"Δ {float(delta):g}" for delta in deltas))
    for pair in required[0]:
        needed = ([_count(found[pair][delta]) for found in required] for delta in deltas)
        table.add_row(pair.replace("->", " → "), *map(_side_by_side, needed))
    return table


def _sparsity(metrics: Metrics) -> Table:
    """Measures of sparsity without ablation, per layer pair."""
    sparsity = [entry["sparsity"] for entry in metrics["bases"].values()]
    measures = {"participation_ratio": "{:.1f}", "hoyer": "{:.3f}", "gini": "{:.4f}"}
    table = plain_table("layer pair", "effective edges", "Hoyer", "Gini")
    for pair in sparsity[0]:
        row = (
            ["-" if each[pair] is None else form.format(each[pair][name]) for each in sparsity]
            for name, form in measures.items()
        )
        table.add_row(pair.replace("->", " → "), *map(_side_by_side, row))
    return table


def _estimated(metrics: Metrics) -> str:
    """How far the choice of signs moves interactions, over the layer pairs that are estimated."""
    entries = (entry["standard_error"].values() for entry in metrics["bases"].values())
    errors = sorted(error for by_pair in entries for error in by_pair if error)
    if not errors:
        return f"Interactions are exact: {metrics['signs']} random signs would not be faster."
    return (
        f"Interactions estimated from {metrics['signs']} random signs; "
        f"standard error {errors[0]:.1%} to {errors[-1]:.1%}."
    )


def _modules_title(found: Metrics, basis: str, concept: str) -> str:
    title = f"Modules, {basis.upper()}: modularity {found['modularity']:.3f}"
    title += f", seeds agree {found['agreement']:.2f}"
    if found["within_concept"] is not None:
        title += f", {found['within_concept']:.0%} within one {concept}"
    if found.get("homogeneity") is not None:
        title += f"; homogeneity {found['homogeneity']:.2f}"
        title += f", adjusted Rand index {found['adjusted_rand_index']:.2f}"
    return title


def _modules(found: Metrics, node_layers: Sequence[str], concept: str) -> Table:
    """Modules with their size, layers and dominant concept."""
    layers = [
        layer
        for layer in node_layers
        if any(layer in module["features"] for module in found["table"])
    ]
    wide = len(layers) > MOST_COLUMNS
    columns = ["features", "from", "to"] if wide else ["features", *layers]
    shares = ["share", "within"] if wide else ["its share", "weight within"]
    table = plain_table("module", *columns, concept, *shares)
    for module in found["table"][:MOST_MODULES]:
        known = module["concept"] is not None
        inside = module["within_concept"]
        here = [layer for layer in layers if layer in module["features"]]
        table.add_row(
            str(module["index"]),
            str(module["size"]),
            *((here[0], here[-1]) if wide else _counts(module["features"], layers)),
            module["concept"] if known else "-",
            f"{module['concept_share']:.0%}" if known else "-",
            "-" if inside is None else f"{inside:.0%}",
        )
    count_the_rest(table, len(found["table"]))
    return table


def _counts(features: Mapping[str, int], layers: Iterable[str]) -> Iterable[str]:
    return (str(features.get(layer, 0)) for layer in layers)


def print_table(console: Console, title: str, table: Table) -> None:
    """A heading, the table, and an empty line."""
    console.print(title, style="bold", highlight=False)
    console.print(table, "")


def count_the_rest(table: Table, modules: int) -> None:
    """Say below a table of modules how many it leaves out."""
    if modules > MOST_MODULES:
        table.caption = f"and {modules - MOST_MODULES} more"


def plain_table(first: str, *columns: str) -> Table:
    """A table without lines: names to the left, the other columns to the right.

    Where the terminal is narrow, names go on in the next line, and no number is cut.
    """
    table = Table(box=None, pad_edge=False, caption_style="", caption_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _side_by_side(values: Iterable[str]) -> str:
    return " / ".join(values)


def _count(number: int | None) -> str:
    return "more" if number is None else str(number)
