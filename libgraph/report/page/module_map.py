"""The map of modules: what each holds of the node layers, and what flows between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.report.module_picture import LEAST_FLOW, MOST_ROWS, module_depth

Values = dict[str, Any]


def map_values(
    graph: InteractionGraph, modules: Sequence[Values], concept: str, coloured: int
) -> Values:
    """Rows, cells `(place, row, share)` and flows `(place, from, to, share)` of a graph.

    Args:
        graph: with modules.
        modules: what is known of them.
        concept: what concepts are called.
        coloured: modules whose flows have a colour of their own.
    """
    depth = module_depth(graph)
    own = min(depth.modules, MOST_ROWS)
    last = "no module" if own == depth.modules else f"no module, and {depth.modules - own} more"
    names = [
        f"{number}" + (f": {module['concept']}" if module["concept"] is not None else "")
        for number, module in enumerate(modules[:own])
    ]
    # What has no row of its own goes into the last one.
    row = np.minimum(np.arange(depth.modules + 1), own)
    cells, flows = [], []
    for place, shares in enumerate(depth.held):
        held = np.bincount(row, weights=shares, minlength=own + 1)
        cells += [[place, int(number), float(held[number])] for number in np.flatnonzero(held > 0)]
    for place, flow in enumerate(depth.flows):
        summed = np.zeros((own + 1, own + 1))
        np.add.at(summed, (row[:, None], row[None, :]), flow)
        chosen = np.argwhere(summed >= LEAST_FLOW)
        flows += [[place, int(a), int(b), float(summed[a, b])] for a, b in chosen]
    all_layers = [layer.name for layer in graph.layers]
    return {
        "rows": [*names, last],
        "places": [all_layers.index(name) for name in depth.layers],
        "cells": cells,
        "flows": flows,
        "groups": coloured,
        "concept": concept,
    }
