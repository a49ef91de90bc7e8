"""How the results of a run are stored.

Tensors go to `bases.safetensors` (`lib/ln1.0/encoder`, …) and `edges.safetensors`
(`lib/ln1.0->ln2.0`, as `[out, in]`; where they are estimates also `lib/ln1.0->ln2.0/error`),
ablations to `ablation.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.edges.edge_ablation import EdgeAblation
from libgraph.edges.interactions import Edges, Interactions
from libgraph.errors import UsageError
from libgraph.files.atomic import read_json, read_parts, write_json
from libgraph.files.tensors import read_tensors, write_tensors
from libgraph.graph.arrays import Pair
from libgraph.network.basis import Bases, Basis
from libgraph.network.cross_layer import CarriedLatents, CrossLayer
from libgraph.network.dictionary import Dictionary, Gate, Threshold, TopK
from libgraph.network.network import NodeLayer
from libgraph.network.size import Normalised, Size
from libgraph.network.transcoder import Transcoder
from libgraph.runs.run import Ablation, arrow

PARTS = ("encoder", "decoder", "importance")

GATE_PARTS = (
    *("isolated", "dead", "threshold", "k", "others"),
    *("carried", "base", "places", "numbers", "own"),
    *("stream", "epsilon", "read", "centred"),
)
"""Those of a dictionary beside them."""

ERROR = "/error"

MISSED = "/missed"

CSR = ("/values", "/columns", "/rows", "/shape")
"""Parts of a matrix that is stored by its rows: where each begins among values and columns."""

LARGE = 2**20
"""Numbers that a matrix has at least where it is stored without its zeros."""

FULL = 1 / 3
"""Share of them that are not zero, at most: two numbers are stored of each."""


def save_bases(path: Path, bases: Mapping[str, Bases]) -> None:
    """Write encoders, decoders and importance of every basis and node layer."""
    tensors = {
        f"{name}/{layer}/{part}": tensor
        for name, by_layer in bases.items()
        for layer, basis in by_layer.items()
        for part, tensor in (
            *((part, getattr(basis, part)) for part in PARTS),
            *_gate_tensors(basis).items(),
        )
    }
    write_tensors(path, tensors)


def _gate_tensors(basis: Basis) -> dict[str, Tensor]:
    """What a dictionary has beside a basis: a threshold for each latent, or k and competitors."""
    if isinstance(basis, CarriedLatents):
        return {"carried": torch.tensor(basis.carried)}
    if not isinstance(basis, Dictionary):
        return {}
    names = ("dead", "isolated", "carried")
    tensors = {name: torch.tensor(getattr(basis, name)) for name in names}
    if isinstance(basis, Transcoder):
        tensors |= _passage_tensors(basis)
    if basis.size is not None:
        epsilon = torch.tensor(basis.size.epsilon, dtype=torch.float64)
        tensors |= {"stream": basis.size.stream, "epsilon": epsilon, "read": basis.size.read}
    if isinstance(basis.gate, Threshold):
        return {**tensors, "threshold": basis.gate.threshold}
    if isinstance(basis.gate, TopK):
        others = {} if basis.gate.others is None else {"others": basis.gate.others}
        return {**tensors, "k": torch.tensor(basis.gate.k), **others}
    raise UsageError(f"A gate of the kind {type(basis.gate).__name__} cannot be written.")


def _passage_tensors(basis: Transcoder) -> dict[str, Tensor]:
    """What a transcoder has beside a dictionary."""
    slices = [basis.written, basis.passing]
    tensors = {"base": basis.base}
    if basis.numbers is not None:
        tensors["numbers"] = basis.numbers
    if basis.normalised is not None:
        tensors |= {name: getattr(basis.normalised, name) for name in ("centred", "stream", "read")}
        epsilon = torch.tensor(basis.normalised.epsilon, dtype=torch.float64)
        tensors["epsilon"] = epsilon
    if isinstance(basis, CrossLayer):
        slices.append(basis.kept)
        tensors["own"] = torch.tensor(basis.own)
    return {**tensors, "places": torch.tensor([(place.start, place.stop) for place in slices])}


def load_bases(
    path: Path, names: Sequence[str], layers: Sequence[NodeLayer], device: str
) -> dict[str, Bases]:
    """Read what `save_bases` wrote for these node layers."""
    tensors = read_tensors(path, device)

    return {
        name: {
            layer.name: stored_basis(
                tensors,
                f"{name}/{layer.name}/",
                len(layer.isolated_coordinates),
                rotated=layer.rotated,
            )
            for layer in layers
        }
        for name in names
    }


def stored_basis(
    tensors: Mapping[str, Tensor], start: str, isolated: int, *, rotated: bool
) -> Basis:
    """A basis whose tensors have names that start so; that of a dictionary has a gate.

    Args:
        tensors: what is stored.
        start: of the names.
        isolated: how many leading features are isolated; a dictionary says so itself.
        rotated: whether the node layer is.

    Raises:
        KeyError: if a tensor is missing.
    """
    encoder, decoder, importance = (tensors[start + part] for part in PARTS)
    k, dead = tensors.get(f"{start}k"), tensors.get(f"{start}dead")
    carried = tensors.get(f"{start}carried")
    if dead is None:
        plain = Basis(encoder, decoder, importance, isolated, rotated)
        return plain if carried is None else CarriedLatents(**vars(plain), carried=int(carried))
    gate: Gate = (
        Threshold(tensors[f"{start}threshold"])
        if k is None
        else TopK(int(k), tensors.get(f"{start}others"))
    )
    isolated = int(tensors[f"{start}isolated"])
    stream = tensors.get(f"{start}stream")
    size = normalised = None
    centred = tensors.get(f"{start}centred")
    if stream is not None and centred is not None:
        epsilon = float(tensors[f"{start}epsilon"])
        normalised = Normalised(centred, stream, epsilon, tensors[f"{start}read"])
    elif stream is not None:
        size = Size(stream, float(tensors[f"{start}epsilon"]), tensors[f"{start}read"])
    found = Dictionary(
        encoder,
        decoder,
        importance,
        isolated,
        gate=gate,
        dead=int(dead),
        size=size,
        carried=0 if carried is None else int(carried),
    )
    places = tensors.get(f"{start}places")
    if places is None:
        return found
    written, passing, *kept = (slice(*place) for place in places.tolist())
    transcoder = Transcoder(
        **vars(found),
        base=tensors[f"{start}base"],
        written=written,
        passing=passing,
        numbers=tensors.get(f"{start}numbers"),
        normalised=normalised,
    )
    if not kept:
        return transcoder
    return CrossLayer(**vars(transcoder), own=int(tensors[f"{start}own"]), kept=kept[0])


def save_interactions(path: Path, interactions: Interactions) -> None:
    """Write the interactions of every basis and layer pair, and their errors if there are any."""
    tensors: dict[str, Tensor] = {
        part: tensor
        for matrices, suffix in ((interactions.edges, ""), (interactions.errors, ERROR))
        for name, by_pair in matrices.items()
        for pair, matrix in by_pair.items()
        for part, tensor in _rows(f"{name}/{arrow(pair)}{suffix}", matrix).items()
    }
    for name, by_pair in interactions.missed.items():
        tensors |= {
            f"{name}/{arrow(pair)}{MISSED}": torch.tensor(value) for pair, value in by_pair.items()
        }
    write_tensors(path, tensors)


def _rows(name: str, matrix: Float[Tensor, "out in"]) -> dict[str, Tensor]:
    """A matrix as it is stored: compressed by rows if it is large and nearly all zeros."""
    if matrix.numel() < LARGE or int(matrix.count_nonzero()) > matrix.numel() * FULL:
        return {name: matrix}
    rows = matrix.cpu().to_sparse_csr()
    columns = rows.col_indices().to(torch.int32)
    shape = torch.tensor(matrix.shape)
    parts = (rows.values(), columns, rows.crow_indices(), shape)
    return {name + part: tensor for part, tensor in zip(CSR, parts, strict=True)}


def stored_edges(tensors: Mapping[str, Tensor], name: str) -> Float[Tensor, "out in"]:
    """A matrix that `save_interactions` stored under this name, dense.

    Raises:
        KeyError: if it is not there.
    """
    if name + CSR[0] not in tensors:
        return tensors[name]
    values, columns, starts, shape = (tensors[name + part] for part in CSR)
    rows = torch.arange(len(starts) - 1, device=starts.device).repeat_interleave(starts.diff())
    matrix = values.new_zeros(*shape.tolist())
    matrix[rows, columns.long()] = values
    return matrix


def load_interactions(
    path: Path, names: Sequence[str], pairs: Sequence[Pair], device: str
) -> Interactions:
    """Read what `save_interactions` wrote for these layer pairs."""
    tensors = read_tensors(path, device)
    start = f"{names[0]}/{arrow(pairs[0])}{ERROR}"
    estimated = any(name.startswith(start) for name in tensors)

    def matrices(suffix: str) -> dict[str, Edges]:
        return {
            name: {pair: stored_edges(tensors, f"{name}/{arrow(pair)}{suffix}") for pair in pairs}
            for name in names
        }

    missed = {
        name: {
            pair: float(tensors[f"{name}/{arrow(pair)}{MISSED}"])
            for pair in pairs
            if f"{name}/{arrow(pair)}{MISSED}" in tensors
        }
        for name in names
    }
    return Interactions(matrices(""), matrices(ERROR) if estimated else {}, missed)


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
