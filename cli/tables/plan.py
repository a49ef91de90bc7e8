"""What `libgraph analyze --dry-run` and `libgraph communities --sweep` print beside modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from libgraph.files.limits import in_bytes
from libgraph.runs.tables import plain_table, print_table
from libgraph.screen import show, tell

if TYPE_CHECKING:
    from libgraph.analysis.plan import Plan
    from libgraph.modules.resolution import Sweep


def print_sweep(console: Console, sweep: Sweep, basis: str) -> None:
    """Print modules over a range of resolutions, and where they stay the same."""
    table = plain_table("γ", "modules", "modularity", "seeds agree", "like the next")
    for row in sweep.rows:
        table.add_row(
            f"{row.resolution:g}",
            str(row.modules),
            f"{row.modularity:.3f}",
            f"{row.agreement:.2f}",
            "-" if row.similarity is None else f"{row.similarity:.2f}",
        )
    print_table(console, f"Modules over resolutions, {basis.upper()}", table)
    if not sweep.plateaus:
        tell(console, "No modules stay the same over three resolutions or more.\n")
        return
    table = plain_table("γ from", "to", "modules", "least alike")
    for plateau in sweep.plateaus:
        table.add_row(
            f"{plateau.lowest:g}",
            f"{plateau.highest:g}",
            str(plateau.modules),
            f"{plateau.similarity:.2f}",
        )
    print_table(console, "Where modules stay the same, longest first", table)


def print_plan(console: Console, plan: Plan) -> None:
    """Print what `--dry-run` found."""
    table = plain_table("node layer", "coordinates", "positions")
    for layer in plan.layers:
        table.add_row(layer.name, str(layer.size), str(layer.positions))
    show(console, table)
    samples = ", ".join(f"{count} {split}" for split, count in plan.samples.items())
    tell(console, f"\nsamples: {samples}")
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in plan.seconds.items())
    tell(console, f"about {sum(plan.seconds.values()):.0f} s: {times}")
    tell(console, f"about {in_bytes(plan.memory)} at most")
