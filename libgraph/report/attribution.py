"""Attribution graphs, the JSON that circuit-tracer and Neuronpedia draw: written, read, annotated.

Features become features, outputs logits, modules supernodes. A graph of ours has no prompt: its
"tokens" are the modules, so that a front end, which has a column for each token, shows every module
in a column of its own, and features of one module side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libgraph.errors import DataError
from libgraph.files.atomic import writing
from libgraph.graph.arrays import FloatArray
from libgraph.graph.features import FeatureLabel, LayerFeatures, feature_ids
from libgraph.graph.interaction_graph import InteractionGraph, check_graph
from libgraph.modules.summary import module_table

Json = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

FEATURE, LOGIT, EMBEDDING = "cross layer transcoder", "logit", "embedding"

METADATA = "graph-metadata.json"
"""What lists the graphs of a folder."""

MOST_PINNED = 100
"""Nodes that the drawing of supernodes begins with."""


@dataclass(frozen=True)
class Titles:
    """What a graph is called.

    Args:
        slug: Its short name, which is that of its file.
        model: What was analysed.
        prompt: What there is instead of a prompt.
    """

    slug: str
    model: str
    prompt: str


def write_attribution(graph: InteractionGraph, path: str | Path, titles: Titles) -> None:
    """Write the kept edges as an attribution graph, and name it in the folder's list.

    ``influence`` is the share of importance that a feature and all that are more important have,
    over all node layers: front ends leave out what is above a threshold. ``importance`` itself,
    ``module`` and ``interaction`` are there besides.

    Args:
        graph: whose kept edges they are.
        path: of the JSON file, beside the list ``graph-metadata.json``.
        titles: what front ends show of it.

    Raises:
        DataError, UsageError: If the list cannot be read, or a file not written.
    """
    check_graph(graph)
    write_listed(attribution(graph, titles), Path(path), titles.slug)


def write_listed(document: dict[str, Json], path: Path, slug: str) -> None:
    """Name a document in its folder's list, then write it: one half alone is written again.

    Raises:
        DataError, UsageError: If the list cannot be read, or a file not written.
    """
    listed = _listed(path.parent / METADATA, slug)
    _write(path.parent / METADATA, {"graphs": [*listed, document["metadata"]]})
    _write(path, document)


def attribution(graph: InteractionGraph, titles: Titles) -> dict[str, Json]:
    """The document itself."""
    count = 0 if graph.partition is None else graph.partition.size
    names = _module_names(graph)
    # Front ends need at least two positions, or drop features for being everywhere.
    tokens: list[Json] = [*names, *["no module"] * max(1, 2 - len(names))]
    influence = _influence(graph)
    keys = node_keys(graph)
    nodes: list[Json] = []
    for place, layer in enumerate(graph.layers):
        is_output = place == len(graph.layers) - 1 and not layer.rotated
        membership = graph.membership(layer.name).tolist()
        ids = feature_ids(layer)
        for index in range(layer.size):
            module = membership[index]
            label = layer.labels[index] if layer.labels is not None else None
            text = ids[index] if label is None else label.text
            nodes.append(
                {
                    "node_id": keys[layer.name][index],
                    "feature": cantor(place, index),
                    "layer": str(place),
                    "ctx_idx": module if module >= 0 else count,
                    "feature_type": LOGIT if is_output else FEATURE,
                    "jsNodeId": f"{place}_{index}-0",
                    "clerp": f'Output "{text}" (p=0.000)' if is_output else f"{ids[index]}: {text}",
                    "influence": influence[layer.name][index],
                    "activation": None,
                    "token_prob": 0.0,
                    "is_target_logit": False,
                    "importance": float(layer.importance[index]),
                    "node_layer": layer.name,
                    "isolated": index < layer.isolated,
                    "id": ids[index],
                    "label": None if label is None else label.text,
                    "concepts": {} if label is None else dict(label.concepts),
                }
            )
    links: list[Json] = []
    for pair in graph.edges:
        kept = graph.kept_edges(pair)
        sources, targets = keys[pair[0]], keys[pair[1]]
        columns = (column.tolist() for column in kept)
        links += [
            {"source": sources[i], "target": targets[j], "weight": weight, "interaction": e}
            for i, j, e, weight in zip(*columns, strict=True)
        ]
    members = _members(graph, keys)
    pinned = sorted((influence_of, key) for group in members for influence_of, key in group)[
        :MOST_PINNED
    ]
    return {
        "metadata": {
            "slug": titles.slug,
            "scan": titles.model,
            "prompt_tokens": tokens,
            "prompt": titles.prompt,
            "transcoder_list": [],
            "schema_version": 1,
            "node_threshold": 1.0,
            "info": {
                "description": "Interactions between features; a column for each module.",
                "generator": {"name": "libgraph"},
            },
        },
        "qParams": {
            "pinnedIds": [key for _, key in pinned],
            "supernodes": [
                [name, *(key for _, key in group)]
                for name, group in zip(names, members, strict=True)
            ],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": nodes,
        "links": links,
    }


def node_keys(graph: InteractionGraph) -> dict[str, list[str]]:
    """Ids of nodes: node layer, feature, and the position, which front ends read from them."""
    count = 0 if graph.partition is None else graph.partition.size
    return {
        layer.name: [
            f"{place}_{index}_{module if module >= 0 else count}"
            for index, module in enumerate(graph.membership(layer.name).tolist())
        ]
        for place, layer in enumerate(graph.layers)
    }


def _module_names(graph: InteractionGraph) -> list[str]:
    if graph.partition is None:
        return []
    return [
        f"module {module.index}" + ("" if module.concept is None else f": {module.concept}")
        for module in module_table(graph)
    ]


def _members(
    graph: InteractionGraph, keys: Mapping[str, Sequence[str]]
) -> list[list[tuple[float, str]]]:
    count = 0 if graph.partition is None else graph.partition.size
    members: list[list[tuple[float, str]]] = [[] for _ in range(count)]
    influence = _influence(graph)
    for layer in graph.layers:
        for index, module in enumerate(graph.membership(layer.name).tolist()):
            if module >= 0:
                members[module].append((influence[layer.name][index], keys[layer.name][index]))
    return [sorted(group) for group in members]


def _influence(graph: InteractionGraph) -> dict[str, list[float]]:
    """Cumulated share of importance, each node layer counting alike, the largest first."""
    shares = []
    for layer in graph.layers:
        importance = layer.importance.clip(min=0)
        importance = np.where(np.arange(layer.size) < layer.isolated, 0, importance)
        shares.append(importance / max(importance.sum(), 1e-300) / len(graph.layers))
    flat = np.concatenate(shares) if shares else np.empty(0)
    order = np.argsort(-flat, kind="stable")
    cumulated = np.empty_like(flat)
    cumulated[order] = np.minimum(np.cumsum(flat[order]), 1.0)
    ends = np.cumsum([layer.size for layer in graph.layers])[:-1]
    parts = np.split(cumulated, ends)
    return {layer.name: part.tolist() for layer, part in zip(graph.layers, parts, strict=True)}


def cantor(x: int, y: int) -> int:
    """One number for a pair, as front ends make it of layer and feature."""
    return (x + y) * (x + y + 1) // 2 + y


def is_attribution(document: object) -> bool:
    """Whether a JSON document looks like an attribution graph."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("nodes"), list)
        and isinstance(document.get("links"), list)
    )


def from_attribution(
    document: Mapping[str, list[dict[str, Json]]], source: str
) -> InteractionGraph:
    """The graph of an attribution graph: links by their absolute weight, between any two layers.

    Nodes keep their ids. A node layer is a layer of the model, with its embeddings before and its
    logits behind; where links run inside of one, as with dictionaries of attention, it is cut by
    the longest path of these. Reconstruction errors are isolated: they are of no module. Links
    from a node layer back to an earlier one are refused.

    Args:
        document: What was read as JSON.
        source: What it was read from, for messages.

    Raises:
        DataError: If it contradicts itself.
    """
    try:
        nodes = {str(node["node_id"]): node for node in document["nodes"]}
        links = [
            (str(link["source"]), str(link["target"]), float(str(link["weight"])), link)
            for link in document["links"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source} is no complete attribution graph ({error!r}).") from error
    if len(nodes) < len(document["nodes"]):
        raise DataError(f"{source} has two nodes of the same node_id: give each its own.")
    for start, end, weight, _ in links:
        if start not in nodes or end not in nodes:
            raise DataError(f"{source} has a link {start} -> {end} whose ends are not nodes of it.")
        if not np.isfinite(weight):
            raise DataError(f"{source} has a link {start} -> {end} of weight {weight}.")
    ours = all("node_layer" in node for node in nodes.values())
    ranks = {key: _rank(node, source) for key, node in nodes.items()}
    depth = _depth_within(ranks, [(a, b) for a, b, _, _ in links], source)
    groups: dict[tuple[float, int], list[str]] = {}
    for key in nodes:
        groups.setdefault((ranks[key], depth[key]), []).append(key)
    layers: list[LayerFeatures] = []
    place: dict[str, tuple[str, int]] = {}
    for group in sorted(groups):
        # Errors first: isolated features are the first ones of their node layer.
        keys = sorted(groups[group], key=lambda key: not _is_error(nodes[key]))
        name = str(nodes[keys[0]]["node_layer"]) if ours else _layer_name(nodes[keys[0]], group)
        layers.append(_layer(name, [nodes[key] for key in keys], keys, ours=ours))
        place |= {key: (name, index) for index, key in enumerate(keys)}
    sizes = {layer.name: layer.size for layer in layers}
    edges: dict[tuple[str, str], FloatArray] = {}
    for start, end, weight, link in links:
        (a, i), (b, j) = place[start], place[end]
        if (a, b) not in edges:
            edges[a, b] = np.zeros((sizes[b], sizes[a]))
        edges[a, b][j, i] += abs(float(str(link.get("interaction", weight))))
    return InteractionGraph(tuple(layers), edges)


def _layer(
    name: str, nodes: Sequence[Mapping[str, Json]], keys: Sequence[str], *, ours: bool
) -> LayerFeatures:
    labels = []
    for node in nodes:
        concepts = node.get("concepts") if ours else None
        shares = concepts if isinstance(concepts, dict) else {}
        text = node.get("label") if ours else node.get("clerp")
        labels.append(FeatureLabel(str(text or ""), {k: float(str(v)) for k, v in shares.items()}))
    return LayerFeatures(
        name,
        np.array([_importance(node) for node in nodes]),
        isolated=sum(_is_error(node) for node in nodes),
        rotated=not (ours and all(node.get("feature_type") == LOGIT for node in nodes)),
        labels=tuple(labels),
        ids=tuple(str(node["id"]) if ours else key for node, key in zip(nodes, keys, strict=True)),
    )


def _importance(node: Mapping[str, Json]) -> float:
    for name in ("importance", "activation", "token_prob"):
        value = node.get(name)
        if isinstance(value, int | float) and np.isfinite(value):
            return abs(float(value))
    return 0.0


def _is_error(node: Mapping[str, Json]) -> bool:
    """Whether a node is isolated: a reconstruction error, or one of ours that says so."""
    return node.get("isolated") is True or "error" in str(node.get("feature_type", ""))


def _rank(node: Mapping[str, Json], source: str) -> float:
    layer, kind = node.get("layer"), node.get("feature_type")
    if kind == EMBEDDING or layer == "E":
        return -1.0
    if kind == LOGIT:
        return float("inf")
    try:
        return float(str(layer))
    except ValueError:
        raise DataError(f"{source} has a node of layer {layer!r}, which is no number.") from None


def _layer_name(node: Mapping[str, Json], group: tuple[float, int]) -> str:
    rank, depth = group
    name = {-1.0: "embedding", float("inf"): "logits"}.get(rank, f"layer {rank:g}")
    return f"{name}, step {depth}" if depth else name


def _depth_within(
    ranks: Mapping[str, float], links: Sequence[tuple[str, str]], source: str
) -> dict[str, int]:
    """How many links inside of its layer lead up to each node at most."""
    depth = dict.fromkeys(ranks, 0)
    inside: dict[str, list[str]] = {}
    waiting = dict.fromkeys(ranks, 0)
    for start, end in links:
        if ranks[start] > ranks[end]:
            raise DataError(f"{source} has a link {start} -> {end} back to an earlier layer.")
        if ranks[start] == ranks[end]:
            inside.setdefault(start, []).append(end)
            waiting[end] += 1
    ready = [key for key, count in waiting.items() if count == 0]
    done = 0
    while ready:
        key = ready.pop()
        done += 1
        for end in inside.get(key, ()):
            depth[end] = max(depth[end], depth[key] + 1)
            waiting[end] -= 1
            if waiting[end] == 0:
                ready.append(end)
    if done < len(ranks):
        raise DataError(f"{source} has links in a circle inside of a layer.")
    return depth


def with_supernodes(document: Mapping[str, Json], graph: InteractionGraph) -> dict[str, Json]:
    """The same document, with the modules of its graph as supernodes.

    Members are the nodes of a module, all of which are pinned, so that front ends draw them.
    """
    params = document.get("qParams")
    members: dict[int, list[str]] = {}
    for name, module in graph.communities.items():
        members.setdefault(module, []).append(name)
    tables = {module.index: module for module in module_table(graph)}
    supernodes: list[Json] = []
    for module in sorted(members):
        concept = tables[module].concept
        title = f"module {module}" + (f": {concept}" if concept else "")
        supernodes.append([title, *members[module]])
    pinned: list[Json] = [name for module in sorted(members) for name in members[module]]
    kept = params if isinstance(params, dict) else {}
    return {**document, "qParams": {**kept, "pinnedIds": pinned, "supernodes": supernodes}}


def _listed(path: Path, slug: str) -> list[Json]:
    """Other graphs that the folder has already."""
    if not path.exists():
        return []
    try:
        graphs = json.loads(path.read_text(encoding="utf-8"))["graphs"]
        return [entry for entry in graphs if entry["slug"] != slug]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"'{path}' cannot be read as a list of graphs ({error!r}): move it away."
        ) from error


def _write(path: Path, document: object) -> None:
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    with writing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def write_document(document: Mapping[str, Json], path: Path) -> None:
    """Write an attribution graph as it is."""
    _write(path, document)
