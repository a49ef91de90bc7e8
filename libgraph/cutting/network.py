"""A network that `lg.cut` made, and the table of what was cut where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from libgraph.cutting.layouts import Layout
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Section


class Row(NamedTuple):
    """A node layer, and the section that leads to it.

    Attributes:
        name: of the node layer.
        positions: that it has.
        coordinates: the constant left out.
        section: its kind; nothing for the first node layer.
        how: `closed form`, `autodiff`, or `chain` of closed forms that mix positions: their
            derivatives are multiplied, and their Jacobian Grams left to autodiff.
    """

    name: str
    positions: int
    coordinates: int
    section: str
    how: str


class CutNetwork(Network):
    """Sections of a module of somebody's; made by :func:`cut`.

    Args:
        embed: raw inputs to activations `(n, positions, coordinates)` of the first node layer.
        sections: one fewer than node layers.
        node_layers: where the module was cut.

    Attributes:
        rows: what was cut, a row for each node layer.
        how: what captured the module.
        error: the largest difference from the module's own outputs, relative to the largest.
        last: how the last node layer's rows are the module's outputs.
    """

    def __init__(
        self,
        embed: nn.Module,
        sections: Sequence[Section],
        node_layers: Sequence[NodeLayer],
        rows: Sequence[Row],
        how: str,
        last: Layout,
    ) -> None:
        super().__init__(embed, sections, node_layers)
        self.rows = tuple(rows)
        self.how = how
        self.last = last
        self.error = float("nan")

    def table(self) -> str:
        """Which node layers there are, and which sections have closed forms."""
        head = ("node layer", "positions", "coordinates", "section to it", "")
        lines = [head, *[tuple(map(str, row)) for row in self.rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        text = [
            "  ".join(
                cell.rjust(width) if 1 <= i <= 2 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        closed = sum(row.how in ("closed form", "chain") for row in self.rows)
        alike = f"to {self.error:.0e} of the largest" if self.error else "exactly"
        text.append(
            f"{closed} of {len(self.rows) - 1} sections have closed forms; outputs agree with the "
            f"model's {alike} ({self.how})."
        )
        return "\n".join(text)

    def __str__(self) -> str:
        return self.table()
