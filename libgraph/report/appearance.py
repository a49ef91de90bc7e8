"""Where features stand in a drawing and how they look there: order, colour and size.

The picture and the file for Gephi share these, so that a module has one colour in both. Layers are
columns; within one, modules stand together and neighbours at like heights, so that few edges cross.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from libgraph.graph.arrays import FloatArray, IndexArray, Pair
from libgraph.graph.interaction_graph import InteractionGraph, KeptEdges
from libgraph.report.style import PALETTE

if TYPE_CHECKING:
    from matplotlib.path import Path as Outline

NO_MODULE = (176, 176, 180)

DECADES = 4.0
"""Below the most important feature of a layer, where sizes end."""


def column_order(
    graph: InteractionGraph, kept: Mapping[Pair, KeptEdges], shown: Mapping[str, IndexArray]
) -> dict[str, IndexArray]:
    """Order each layer's shown features from top to bottom: by module, with few crossings.

    Inside a module, features are sorted by the weighted mean height of their neighbours, going
    through the layers to and fro (Sugiyama, Tagawa & Toda 1981, the barycentre method). Features
    outside modules come last, those of them without edges at the very end.
    """
    height = {layer.name: np.full(layer.size, np.nan) for layer in graph.layers}
    module = {}
    for layer in graph.layers:
        community = graph.membership(layer.name)
        module[layer.name] = np.where(community < 0, np.iinfo(np.int64).max, community)
    order = {name: features[np.argsort(module[name][features], kind="stable")]
             for name, features in shown.items()}  # fmt: skip
    names = [layer.name for layer in graph.layers]
    for name in names:
        height[name][order[name]] = _spread(len(order[name]))
    for sweep in range(6):
        for name in names if sweep % 2 == 0 else names[::-1]:
            total, weight = np.zeros((2, len(height[name])))
            for (source, target), edges in kept.items():
                if target == name:
                    here, there, neighbour = edges.outputs, edges.inputs, source
                elif source == name:
                    here, there, neighbour = edges.inputs, edges.outputs, target
                else:
                    continue
                seen = ~np.isnan(height[neighbour][there])
                part = edges.weight[seen]
                np.add.at(total, here[seen], part * height[neighbour][there[seen]])
                np.add.at(weight, here[seen], part)
            centre = np.divide(total, weight, out=np.full_like(total, np.inf), where=weight > 0)
            features = shown[name]
            keys = (features, centre[features], module[name][features])
            order[name] = features[np.lexsort(keys)]
            height[name][order[name]] = _spread(len(features))
    return order


def module_colour(community: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a module; grey for -1. The picture uses the same."""
    if community < 0:
        return NO_MODULE
    if community < len(PALETTE):
        return PALETTE[community]
    # Golden-ratio steps of hue never repeat and keep neighbours apart.
    shade = colorsys.hls_to_rgb(community * 0.618034 % 1, 0.35 + 0.1 * (community % 3), 0.5)
    red, green, blue = (round(255 * channel) for channel in shade)
    return red, green, blue


def relative_importance(importance: FloatArray, isolated: int) -> FloatArray:
    """Importance on a logarithmic scale from 0 to 1, shape ``(features,)``.

    1 is the layer's most important feature, 0 one that is four decades below it or isolated.
    """
    scaled = np.zeros_like(importance)
    positive = importance > 0
    positive[:isolated] = False
    decades = np.log10(importance[positive])
    scaled[positive] = 1 + (decades - decades.max(initial=-np.inf)) / DECADES
    return np.clip(scaled, 0, 1)


def curves(table: FloatArray) -> list[Outline]:
    """Smooth curves, level at both ends, from columns x and y of the start and of the end."""
    from matplotlib.path import Path as Outline

    x0, y0, x1, y1 = table[:, :4].T
    third = (x1 - x0) / 3
    points = np.stack([x0, y0, x0 + third, y0, x1 - third, y1, x1, y1], axis=1).reshape(-1, 4, 2)
    codes = [Outline.MOVETO, *[Outline.CURVE4] * 3]
    return [Outline(curve, codes) for curve in points]


def _spread(count: int) -> FloatArray:
    return (np.arange(count) + 0.5) / max(count, 1)
