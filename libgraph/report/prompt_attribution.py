"""The graph of one input as attribution-graph JSON, which circuit-tracer and Neuronpedia draw.

Positions are those of the tokens, influence is cumulated as front ends expect, tokens feed the
first node layer, and each link says besides how much of it comes from moving attention.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from libgraph.report.attribution import (
    EMBEDDING,
    FEATURE,
    LOGIT,
    Json,
    Titles,
    cantor,
    write_listed,
)
from libgraph.runs.prompted import Prompted


def write_prompt_attribution(prompted: Prompted, path: str | Path, titles: Titles) -> None:
    """Write the kept nodes and edges, and name the graph in its folder's list.

    Raises:
        DataError: If the folder has a list of graphs that cannot be read.
        UsageError: If a file cannot be written.
    """
    write_listed(prompt_attribution(prompted, titles), Path(path), titles.slug)


def prompt_attribution(prompted: Prompted, titles: Titles) -> dict[str, Json]:
    """The document itself."""
    whole = prompted.whole
    tokens = list(whole.tokens) or [
        f"position {number}" for number in range(max(whole.lengths.values()))
    ]
    # Front ends need at least two positions, or drop features for being everywhere.
    shown: list[Json] = [*tokens, *[""] * max(0, 2 - len(tokens))]
    nodes: list[Json] = []
    keys: dict[str, str] = {}
    cumulated = _cumulated(prompted)
    last = len(prompted.nodes) - 1
    for depth, layer in enumerate(prompted.nodes):
        offset = max(len(tokens) - whole.lengths.get(layer.layer, 1), 0)
        for place, name in enumerate(layer.ids):
            feature = int(layer.features[place])
            position = min(int(layer.positions[place]) + offset, len(tokens) - 1)
            label = prompted.label(layer.layer, feature)
            keys[name] = f"{depth}_{feature}_{position}"
            probability = float(whole.probabilities[place]) if depth == last else 0.0
            nodes.append(
                {
                    "node_id": keys[name],
                    "feature": cantor(depth, feature),
                    "layer": str(depth),
                    "ctx_idx": position,
                    "feature_type": LOGIT if depth == last else FEATURE,
                    "jsNodeId": f"{depth}_{feature}-{position}",
                    "clerp": f'Output "{label}" (p={probability:.3f})'
                    if depth == last
                    else f"{layer.layer}/{feature}: {label}",
                    "influence": cumulated[name],
                    "activation": float(layer.values[place]),
                    "token_prob": probability,
                    "is_target_logit": depth == last and place == 0,
                    "node_layer": layer.layer,
                    "id": name,
                }
            )
    links: list[Json] = [
        {
            "source": keys[edge.source],
            "target": keys[edge.target],
            "weight": edge.effect,
            "pattern": edge.pattern,
        }
        for edge in prompted.edges()
    ]
    first = prompted.nodes[0]
    offset = max(len(tokens) - whole.lengths.get(first.layer, 1), 0)
    embedded: set[int] = set()
    for place, name in enumerate(first.ids):
        position = min(int(first.positions[place]) + offset, len(tokens) - 1)
        key = f"E_{position}_{position}"
        if position not in embedded:
            embedded.add(position)
            nodes.append(_embedding(key, position, tokens[position]))
        change = float(first.values[place] - first.baseline[place])
        links.append({"source": key, "target": keys[name], "weight": change, "pattern": None})
    return {
        "metadata": {
            "slug": titles.slug,
            "scan": titles.model,
            "prompt_tokens": shown,
            "prompt": titles.prompt,
            "transcoder_list": [],
            "schema_version": 1,
            "node_threshold": 1.0,
            "info": {
                "description": f"Edges by {whole.integration} from the baseline {whole.baseline}.",
                "generator": {"name": "libgraph"},
            },
        },
        "qParams": {
            "pinnedIds": [],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": nodes,
        "links": links,
    }


def _embedding(key: str, position: int, token: str) -> dict[str, Json]:
    return {
        "node_id": key,
        "feature": position,
        "layer": "E",
        "ctx_idx": position,
        "feature_type": EMBEDDING,
        "jsNodeId": f"E_{position}-{position}",
        "clerp": f'Emb: "{token}"',
        "influence": 0.0,
        "activation": None,
        "token_prob": 0.0,
        "is_target_logit": False,
    }


def _cumulated(prompted: Prompted) -> dict[str, float]:
    """Share of the influence that a node and all with more of it have, by id."""
    names = [name for layer in prompted.nodes for name in layer.ids]
    influence = np.concatenate([layer.influence.numpy() for layer in prompted.nodes])
    order = np.argsort(-influence, kind="stable")
    shares = np.cumsum(influence[order]) / max(float(influence.sum()), 1e-300)
    return {names[place]: float(share) for place, share in zip(order, shares, strict=True)}
