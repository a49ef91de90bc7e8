"""Circuits as EAP-IG and MIB write them: scores of edges between attention and MLPs.

A graph of ours is a chain: every node layer holds the whole of the network there. So its circuit is
the chain of components, and the score of an edge is the sum of the kept interactions in the layer
pairs of the component that it leads to. Which component a layer pair belongs to is read off the
names of its node layers; attention counts as one head, because interactions are of all heads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from libgraph.errors import UsageError
from libgraph.files.atomic import writing
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph, check_graph

BLOCK = re.compile(r"^(\d+)\.|\.(\d+)$|(\d+)$")
ATTENTION = re.compile(r"resid_pre|ln1|attn")
UNEMBED = re.compile(r"^(ln_final|unembed|final)")

Values = Mapping[str, object]


def write_circuit(graph: InteractionGraph, path: str | Path) -> None:
    """Write the scores of components and of the edges between them.

    Raises:
        UsageError: If the file cannot be written, or there are no edges.
    """
    check_graph(graph)
    text = json.dumps(circuit(graph), indent=1, allow_nan=False)
    with writing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def circuit(graph: InteractionGraph) -> dict[str, Values]:
    """The document itself: `cfg`, `nodes` and `edges`."""
    scores: dict[str, float] = {}
    pairs = list(graph.edges)
    if not pairs:
        raise UsageError("The graph has no edges, so that there is no circuit in it.")
    for number, pair in enumerate(pairs):
        name = _component(pair, number, pairs)
        scores[name] = scores.get(name, 0.0) + float(graph.kept_edges(pair).interaction.sum())
    scores.setdefault("logits", 0.0)
    logits = scores.pop("logits")
    chain = ["input", *scores, "logits"]
    scores["logits"] = logits
    blocks = 1 + max((_block(name) for name in scores if name != "logits"), default=0)
    edges = {
        f"{a}->{b}" + ("<v>" if b.startswith("a") else ""): {
            "score": scores[b],
            "in_graph": True,
        }
        for a, b in pairwise(chain)
    }
    return {
        "cfg": {
            "n_layers": blocks,
            "n_heads": 1,
            "parallel_attn_mlp": False,
            "d_model": max(layer.size for layer in graph.layers),
        },
        "nodes": {
            name: {"in_graph": True, **({"score": scores[name]} if name in scores else {})}
            for name in chain
        },
        "edges": edges,
    }


def _block(component: str) -> int:
    return int(re.findall(r"\d+", component)[0])


def _component(pair: Pair, number: int, pairs: list[Pair]) -> str:
    """What lies between two node layers: attention of a block, its MLP, or the unembedding."""
    source = pair[0]
    if UNEMBED.search(source) or (number == len(pairs) - 1 and "output" in pair[1] and number):
        return "logits"
    found = BLOCK.search(source)
    block = int(next(group for group in found.groups() if group)) if found else number
    if ATTENTION.search(source):
        return f"a{block}.h0"
    return f"m{block}"
