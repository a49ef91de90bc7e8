"""How much of the activations, and of the score, a basis's dictionaries keep.

The error is what latents leave out; here it is left out in earnest, at one node layer at a time and
at all of them together. Recovered is the share of the way from the score with all coordinates but
isolated ones at zero, or the part that a transcoder imitates left out, to the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.sums import Sums, accumulate
from libgraph.backend.contract import Batch
from libgraph.edges.interactions import Edges
from libgraph.edges.score import Scoring
from libgraph.errors import NumericalError
from libgraph.graph.arrays import Pair
from libgraph.network.basis import Bases
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import NodeLayer
from libgraph.network.transcoder import Transcoder
from libgraph.progress import Progress, silent
from libgraph.sections.chunks import chunks


@dataclass(frozen=True)
class Reconstruction:
    """What one dictionary keeps, or all of a basis together.

    Args:
        score: with the error left out.
        recovered: share of the score; None where zeros score as the model does.
    """

    score: float
    recovered: float | None


@dataclass(frozen=True)
class LayerReconstruction(Reconstruction):
    """Of one node layer.

    Args:
        latents: that are features, of its own.
        dead: latents that were never active where the basis was made.
        active: mean number at a position.
        explained: share of the variance about the mean, of activations or of what a transcoder's
            part puts out; below 0, the mean would do better.
    """

    latents: int
    dead: int
    active: float
    explained: float


@dataclass(frozen=True)
class Reconstructions:
    """Of all dictionaries of a basis.

    Args:
        layers: by node layer.
        together: all of them in place at once.
    """

    layers: Mapping[str, LayerReconstruction]
    together: Reconstruction


def reconstructions(
    scoring: Scoring, bases: Bases, stage: str = "dictionaries", progress: Progress = silent
) -> Reconstructions:
    """Measure a basis's dictionaries in one pass over the samples that are scored.

    Args:
        scoring: the network, and what says how good its outputs are.
        bases: some of which are dictionaries.
        stage: name under which progress is reported.
        progress: told after every batch.

    Raises:
        NumericalError: naming the node layer where latents give values that are not finite.
    """
    scoring = scoring.carrying(bases)
    network, backend, data = scoring.network, scoring.backend, scoring.data
    cast = {
        name: basis.to(data.device, data.dtype)
        for name, basis in bases.items()
        if isinstance(basis, Dictionary) and basis.latent
    }

    # Variances are summed about a mean, and do not drown in its square.
    with torch.no_grad():
        first = network.activations(next(iter(data)).inputs)
        shifts = {
            layer.name: cast[layer.name].aim(x).flatten(0, 1).double().mean(0)
            for layer, x in zip(network.node_layers, first, strict=True)
            if layer.name in cast
        }

    def measure(batch: Batch) -> Sums:
        sums: dict[str, Tensor] = {"count": torch.tensor(float(len(batch.targets)))}

        def score(name: str, index: int, x: Tensor) -> None:
            outputs = network.from_layer(index, x)
            sums[name] = backend.score(outputs, batch.targets).sum()

        changed = nothing = network.embed(batch.inputs)
        for index, x in enumerate(network.activations(batch.inputs)):
            layer = network.node_layers[index]
            if index:
                changed, nothing = (network.sections[index - 1](y) for y in (changed, nothing))
            basis = cast.get(layer.name)
            if basis is None:
                continue
            kept, active, error = _kept(basis, x)
            rows = basis.aim(x).flatten(0, 1).double() - shifts[layer.name]
            sums[f"{layer.name} error"] = error
            sums[f"{layer.name} sum"] = rows.sum(0)
            sums[f"{layer.name} square"] = rows.square().sum()
            sums[f"{layer.name} rows"] = torch.tensor(float(len(rows)))
            sums[f"{layer.name} active"] = active
            score(f"{layer.name} kept", index, kept)
            score(f"{layer.name} zero", index, _without(basis, layer, x))
            changed = _kept(basis, changed)[0]
            nothing = _without(basis, layer, nothing)
        score("kept", len(network.sections), changed)
        score("zero", len(network.sections), nothing)
        return sums

    sums = accumulate(data, measure, stage=stage, progress=progress)
    count = float(sums["count"])

    def found(name: str) -> tuple[float, float | None]:
        kept, zero = (float(sums[f"{name}{part}"]) / count for part in ("kept", "zero"))
        whole = scoring.base_score - zero
        return kept, (kept - zero) / whole if whole else None

    layers = {}
    for name, basis in cast.items():
        rows = float(sums[f"{name} rows"])
        mean = sums[f"{name} sum"] / rows
        variance = float(sums[f"{name} square"] / rows - mean.square().sum())
        error = float(sums[f"{name} error"]) / rows
        layers[name] = LayerReconstruction(
            *found(f"{name} "),
            latents=len(range(len(basis))[basis.own_latents]),
            dead=basis.dead,
            active=float(sums[f"{name} active"]) / rows,
            explained=1 - error / variance if variance > 0 else 1.0,
        )
        _check_finite(layers[name], f"The dictionary at {name}")
    together = Reconstruction(*found(""))
    _check_finite(together, "All dictionaries at once")
    return Reconstructions(layers, together)


def _check_finite(found: Reconstruction, what: str) -> None:
    figures = [each for each in asdict(found).values() if each is not None]
    if not all(map(math.isfinite, figures)):
        raise NumericalError(
            f"{what} gives values that are not finite: check the size of its weights, or use "
            "dtype='float64' and score_dtype='float64'."
        )


def _kept(
    basis: Dictionary, x: Float[Tensor, "n s d"]
) -> tuple[Float[Tensor, "n s d"], Float[Tensor, ""], Float[Tensor, ""]]:
    """What latents write, how many are active in all, and Σ |ε|², a chunk at a time."""
    rows = x.flatten(0, 1)
    kept, active = torch.empty_like(rows), rows.new_zeros((), dtype=torch.float64)
    error = active.clone()
    for part in chunks(len(rows), len(basis), rows):
        f = basis.latents(rows[part])
        kept[part] = basis.imitated(rows[part], f)
        active += (f[:, basis.own_latents] > 0).sum()
        error += basis.missed(rows[part], f).double().square().sum()
    return kept.view_as(x), active, error


def _without(
    basis: Dictionary, layer: NodeLayer, x: Float[Tensor, "n s d"]
) -> Float[Tensor, "n s d"]:
    """The isolated coordinates, zero beside them; of a transcoder what passes its part by."""
    if isinstance(basis, Transcoder):
        return basis.without(x)
    kept = torch.zeros_like(x)
    isolated = list(layer.isolated_coordinates)
    kept[..., isolated] = x[..., isolated]
    return kept


def through_errors(bases: Bases, edges: Edges) -> dict[Pair, float]:
    """Share of a layer pair's interactions that errors have, those of isolated features aside."""
    shares = {}
    for (source, target), matrix in edges.items():
        before = bases[source]
        if isinstance(before, Dictionary):
            into = matrix[bases[target].isolated :, before.error_place :].sum(0)
            total = float(into.sum())
            shares[source, target] = float(into[0]) / total if total > 0 else 0.0
    return shares
