"""How the results of a run are stored.

Tensors go to `bases.safetensors` (`lib/ln1.0/encoder`, …) and `edges.safetensors`
(`lib/ln1.0->ln2.0`, as `[out, in]`; where they are estimates also `lib/ln1.0->ln2.0/error`),
ablations to `ablation.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from libgraph.edges.edge_ablation import EdgeAblation
from libgraph.edges.interactions import Edges, Interactions
from libgraph.files.atomic import read_json, read_parts, write_json
from libgraph.files.tensors import read_tensors, write_tensors
from libgraph.graph.arrays import Pair
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import NodeLayer
from libgraph.runs.run import Ablation, arrow

PARTS = ("encoder", "decoder", "importance")


ERROR = "/error"


def save_bases(path: Path, bases: Mapping[str, Bases]) -> None:
    """Write encoders, decoders and importance of every basis and node layer."""
    tensors = {
        f"{name}/{layer}/{part}": getattr(basis, part)
        for name, by_layer in bases.items()
        for layer, basis in by_layer.items()
        for part in PARTS
    }
    write_tensors(path, tensors)


def load_bases(
    path: Path, names: Sequence[str], layers: Sequence[NodeLayer], device: str
) -> dict[str, Bases]:
    """Read what `save_bases` wrote for these node layers."""
    tensors = read_tensors(path, device)

    def basis(name: str, layer: NodeLayer) -> Basis:
        encoder, decoder, importance = (tensors[f"{name}/{layer.name}/{part}"] for part in PARTS)
        isolated = len(layer.isolated_coordinates)
        return Basis(encoder, decoder, importance, isolated, layer.rotated)

    return {name: {layer.name: basis(name, layer) for layer in layers} for name in names}


def save_interactions(path: Path, interactions: Interactions) -> None:
    """Write the interactions of every basis and layer pair, and their errors if there are any."""
    tensors: dict[str, Tensor] = {
        f"{name}/{arrow(pair)}{suffix}": matrix
        for matrices, suffix in ((interactions.edges, ""), (interactions.errors, ERROR))
        for name, by_pair in matrices.items()
        for pair, matrix in by_pair.items()
    }
    write_tensors(path, tensors)


def load_interactions(
    path: Path, names: Sequence[str], pairs: Sequence[Pair], device: str
) -> Interactions:
    """Read what `save_interactions` wrote for these layer pairs."""
    tensors = read_tensors(path, device)
    estimated = f"{names[0]}/{arrow(pairs[0])}{ERROR}" in tensors

    def matrices(suffix: str) -> dict[str, Edges]:
        return {
            name: {pair: tensors[f"{name}/{arrow(pair)}{suffix}"] for pair in pairs}
            for name in names
        }

    return Interactions(matrices(""), matrices(ERROR) if estimated else {})


def save_ablation(path: Path, ablation: Ablation, name: str) -> None:
    """Write one basis's ablations beside those of the others."""
    write_json(path, {**read_parts(path), name: _ablation_values(ablation)})


def save_ablations(path: Path, ablations: Mapping[str, Ablation]) -> None:
    """Write the ablations of these bases, by name, and of no others; no file where there are none.

    As `save_ablation` does for one after the other, but at no moment there are fewer than before.
    """
    if ablations:
        write_json(path, {name: _ablation_values(found) for name, found in ablations.items()})
    else:
        path.unlink(missing_ok=True)


def _ablation_values(ablation: Ablation) -> dict[str, object]:
    edges = {arrow(pair): asdict(of_pair) for pair, of_pair in ablation.edges.items()}
    return {"nodes": ablation.nodes, "edges": edges}


def load_ablation(path: Path, name: str, pairs: Sequence[Pair]) -> Ablation:
    """Read what `save_ablation` wrote; JSON has turned the numbers that are keys into strings."""
    stored = read_json(path)[name]
    edges = {}
    for pair in pairs:
        of_pair = stored["edges"][arrow(pair)]
        score = {int(kept): value for kept, value in of_pair["score"].items()}
        required = {float(delta): kept for delta, kept in of_pair["required"].items()}
        edges[pair] = EdgeAblation(of_pair["available"], score, required, of_pair["epsilon"])
    nodes = {
        layer: {int(kept): value for kept, value in curve.items()}
        for layer, curve in stored["nodes"].items()
    }
    return Ablation(nodes, edges)
