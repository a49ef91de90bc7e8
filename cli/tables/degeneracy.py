"""What `libgraph degeneracy` prints: weights, units, heads, effective parameters, modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from libgraph.runs.tables import plain_table, print_table


def print_degeneracy(console: Console, found: Mapping[str, Any]) -> None:
    """Print every part, and what it comes to.

    Args:
        console: where to.
        found: what `degeneracy.json` holds.
    """
    totals, tolerance = found["totals"], found["options"]["synchrony"]
    console.print(
        f"[bold]{found['backend']}[/]: {totals['free']} of {totals['parameters']} directions in "
        f"the weights are free ({totals['free'] / totals['parameters']:.1%}), and "
        f"{totals['extra']} more by synchronised units and heads",
        highlight=False,
    )
    console.print()
    title = "Weights: ranks of inputs and gradients, and what moves of 0.1 % do to outputs"
    print_table(console, title, _weights(found["weights"]))
    for part, one in (("units", "unit"), ("heads", "head")):
        sections = {name: each for name, each in found[part].items() if "groups" in each}
        if sections:
            title = f"{part.capitalize()} that act as one, within {tolerance:g}"
            print_table(console, title, _groups(sections, part, one))
    for name, each in found["units"].items():
        if "skipped" in each:
            console.print(f"{name}: {each['skipped']}", highlight=False)
    print_table(console, _effective_title(found["behaviour"]), _effective(found))
    modules = found["modules"]
    if "skipped" in modules:
        console.print(f"Modules, {modules['basis'].upper()}: {modules['skipped']}", highlight=False)
        return
    print_table(console, _modules_title(modules), _modules(modules))


def _weights(weights: Mapping[str, Any]) -> Table:
    table = plain_table("weight", "shape", "inputs", "grads", "free", "", "free move", "other")
    for name, each in weights.items():
        table.add_row(
            name.replace("->", " → "),
            f"{each['rows']} × {each['columns']}",
            str(each["input_rank"]),
            str(each["gradient_rank"]),
            str(each["free"]),
            f"{each['free'] / each['parameters']:.0%}",
            "-" if each["moved_free"] is None else f"{each['moved_free']:.0e}",
            f"{each['moved_used']:.0e}",
        )
    return table


def _groups(sections: Mapping[str, Any], part: str, one: str) -> Table:
    units = part == "units"
    columns = [part, *(["dead", "const."] if units else []), "groups (of)", "exact", "extra"]
    table = plain_table("section", *columns, "swap loss", "score")
    for name, each in sections.items():
        # Where it is not known what of the extra is free already, all of it is an upper bound.
        new = each["new"]
        cells = [str(each[part])]
        if units:
            cells += [str(len(each["dead"])), str(len(each["constant"]))]
        cells += [_sizes(each["groups"]), _sizes(each["exact_groups"])]
        cells.append(f"≤ {each['extra']}" if new is None and each["extra"] else str(new or 0))
        cells.append("-" if each["swap_share"] is None else f"{each['swap_share']:.2%}")
        cells.append("-" if each["swap_score"] is None else f"{each['swap_score']:.4f}")
        table.add_row(name.replace("->", " → "), *cells)
    return table


def _sizes(groups: Sequence[Sequence[int]]) -> str:
    """How many groups, and of how many: from the smallest to the largest."""
    sizes = sorted({len(group) for group in groups})
    if not sizes:
        return "-"
    return f"{len(groups)} ({'–'.join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))})"


def _effective_title(behaviour: Mapping[str, Any]) -> str:
    how = "all eigenvalues" if behaviour["exact"] else "stochastic Lanczos"
    rank = f"; rank {behaviour['rank']}" if behaviour["exact"] else ""
    return (
        f"Effective parameters of {behaviour['parameters']}, on {behaviour['samples']} samples "
        f"({how}{rank})"
    )


def _effective(found: Mapping[str, Any]) -> Table:
    behaviour, volume = found["behaviour"], found.get("volume")
    table = plain_table("ε", "N_eff", *(["by volume"] if volume else []))
    sampled = {}
    if volume:
        rows = zip(volume["epsilons"], volume["effective"], volume["errors"], strict=True)
        sampled = {f"{epsilon:.2g}": _with_error(n, error) for epsilon, n, error in rows}
    rows = zip(behaviour["epsilons"], behaviour["effective"], behaviour["errors"], strict=True)
    for number, (epsilon, effective, error) in enumerate(rows):
        shown = f"{epsilon:.2g}"
        if number % 4 == 0 or shown in sampled:
            cells = [_with_error(effective, error)]
            table.add_row(shown, *cells, *([sampled.get(shown, "")] if volume else []))
    return table


def _with_error(value: float | None, error: float | None) -> str:
    if value is None or error is None:
        return "-"
    if error > max(value, 1) / 2:
        return "not resolved"
    return f"{value:.0f}" if error == 0 else f"{value:.1f} ± {error:.1f}"


def _modules_title(modules: Mapping[str, Any]) -> str:
    return f"tr H/(H + ε) by module, {modules['basis'].upper()}: do effective parameters add up?"


def _modules(modules: Mapping[str, Any]) -> Table:
    table = plain_table("ε", "together", "sum of modules", "of random modules", "interacting")
    rows = zip(
        modules["epsilons"],
        modules["together"]["effective"],
        modules["sum"],
        modules["random_mean"],
        modules["random_std"],
        modules["ratio"],
        strict=True,
    )
    for epsilon, together, parts, mean, deviation, ratio in rows:
        table.add_row(
            f"{epsilon:.2g}",
            f"{together:.1f}",
            f"{parts:.1f}",
            f"{mean:.1f} ± {deviation:.1f}",
            "-" if ratio is None else f"{ratio:.0%}",
        )
    return table
