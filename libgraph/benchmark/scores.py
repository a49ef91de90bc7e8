"""How near features, edges and modules that were found are to those that are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor

from libgraph.benchmark.known import Known
from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import Edges
from libgraph.modules.agreement import adjusted_rand_index
from libgraph.modules.communities import find_communities
from libgraph.network.basis import Bases, Basis


class Match(NamedTuple):
    """Features that were found for those that are known.

    Args:
        cosines: of each known feature, with what was matched to it, whatever the sign; 0 where
            there was nothing left.
        places: feature of the basis for each known one; −1 for none.
    """

    cosines: Float[np.ndarray, " k"]
    places: np.ndarray


def match(features: Float[Tensor, "k d"], basis: Basis, coordinates: int) -> Match:
    """One feature of the basis for each known one, so that cosines add up to most."""
    cosines = _cosines(features, basis, coordinates)
    rows, columns = linear_sum_assignment(-cosines)
    best, places = np.zeros(len(cosines)), np.full(len(cosines), -1)
    best[rows] = cosines[rows, columns]
    places[rows] = columns + basis.isolated
    return Match(best, places)


def largest_cosines(
    features: Float[Tensor, "k d"], basis: Basis, coordinates: int
) -> Float[np.ndarray, " k"]:
    """Of each known feature with any of the basis, as in MMCS."""
    largest: np.ndarray = _cosines(features, basis, coordinates).max(1)
    return largest


def length_ratios(
    features: Float[Tensor, "k d"], basis: Basis, coordinates: int
) -> Float[np.ndarray, " k"]:
    """How long a known feature comes out of the one most like it, relative to what went in."""
    cosines = _cosines(features, basis, coordinates)
    best = torch.as_tensor(cosines.argmax(1)) + basis.isolated
    read = (features @ basis.encoder[:coordinates, best]).diagonal()
    lengths = basis.decoder[best, :coordinates].norm(dim=1)
    ratios: np.ndarray = (read.abs() * lengths / features.norm(dim=1)).numpy()
    return ratios


def _cosines(features: Tensor, basis: Basis, coordinates: int) -> Float[np.ndarray, "k f"]:
    written = basis.decoder[basis.isolated :, :coordinates]
    unit = torch.nn.functional.normalize(written, dim=1)
    cosines: np.ndarray = (torch.nn.functional.normalize(features, dim=1) @ unit.T).abs().numpy()
    return cosines


def average_precision(scores: Float[np.ndarray, "*n"], truth: Bool[np.ndarray, "*n"]) -> float:
    """Σ precision × step of recall over falling scores, those that are equal at once."""
    order = np.argsort(-scores.ravel(), kind="stable")
    hits, values = np.cumsum(truth.ravel()[order]), scores.ravel()[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / max(1, hits[-1])
    return float((np.diff(recall, prepend=0) * precision).sum())


def area_under_curve(scores: Float[np.ndarray, "*n"], truth: Bool[np.ndarray, "*n"]) -> float:
    """The chance that a true one has a larger score than a false one, ties counted half."""
    true, false = int(truth.sum()), int((~truth).sum())
    if not true or not false:
        return float("nan")
    ranks = rankdata(scores.ravel())[truth.ravel()].sum()
    return float((ranks - true * (true + 1) / 2) / (true * false))


def matched_edges(
    edges: Float[Tensor, "out in"], source: Match, target: Match
) -> Float[np.ndarray, "out in"]:
    """Edges between known features: of those that were matched to them, or nothing."""
    found = edges.cpu().numpy()[np.ix_(target.places, source.places)]
    found = found * (target.places >= 0)[:, None] * (source.places >= 0)
    result: np.ndarray = found
    return result


def module_agreement(
    known: Known, bases: Bases, edges: Edges, matches: Mapping[str, Match], seed: int
) -> float:
    """Adjusted Rand index of modules of the graph with those of the features they stand for."""
    if known.modules is None:
        return float("nan")
    layers = {name: bases[name] for name in known.features}
    inner = {pair: edges[pair] for pair in known.edges}
    graph = graph_of(layers, inner)
    partition = find_communities(graph, 1.0, seed, 5)
    names: list[object] = []
    truth: list[int] = []
    for name, matched in matches.items():
        for place, module in zip(matched.places.tolist(), known.modules, strict=True):
            found = int(partition.membership[name][place]) if place >= 0 else -1
            # What belongs to no module is alone.
            names.append(found if found >= 0 else ("alone", len(names)))
            truth.append(module)
    return adjusted_rand_index(names, truth)
