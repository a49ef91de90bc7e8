"""The sparse basis: LIB's subspaces, rotated so that interactions are few (this project's own).

LIB aligns directions with what they do to the next node layer, and hopes that interactions are
sparse. Here the leading K features of every node layer, divided by their standard deviation, are
turned by orthogonal matrices Q, all node layers together, so that Σ_pairs Σ_ij (E_ij/E_total)^p is
small. Afterwards features are scaled by the root of their Jacobian importance (QᵀΛQ)_jj, and sorted
by it, as in LIB. Isolated features and those beyond the first K stay what they are.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.ranks import trained
from libgraph.backend.data import Data
from libgraph.bases.lib import lib
from libgraph.bases.method import BasisMethod, MakeBases, Setting, Truncation, fixed_signs
from libgraph.bases.sparse.cost import sparse_seconds
from libgraph.bases.sparse.options import (
    BATCH,
    CHECKPOINTS,
    DEFAULTS,
    PAIR_BYTES,
    READS,
    SAMPLES,
    SparseOptions,
    checkpoint_file,
    sparse_options,
)
from libgraph.bases.sparse.pair_edges import Features, enough
from libgraph.bases.sparse.problem import Problem
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network
from libgraph.progress import Progress

log = logging.getLogger("libgraph")


def sparse(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
    options: SparseOptions = DEFAULTS,
    start: Bases | None = None,
) -> dict[str, Basis]:
    """Rotations of LIB with few interactions; the best of several starts by the objective.

    LIB itself, with a warning, where there is nothing to turn.

    Args:
        network: as for every method.
        statistics: likewise.
        data: rotations are found on its first samples.
        truncation: of LIB.
        progress: told the objective beside the steps.
        options: see there.
        start: LIB, if it is known already.

    Raises:
        UsageError: if no node layer has so many features.
        NumericalError: if an interaction stops being finite, naming the layer pair; the last good
            rotation is kept in the options' directory.
    """
    start = dict(start or lib(network, statistics, data, truncation, progress))
    positions = max(layer.positions for layer in statistics.values())
    count = min(data.limit or SAMPLES, SAMPLES, enough(BATCH, positions))
    problem = Problem.of(network, start, replace(data, limit=count), options)
    if not problem.pairs:
        log.warning("The sparse basis is LIB: no node layer has two features that interact.")
        return start

    def descend() -> dict[str, Float[Tensor, "k k"]]:
        with tempfile.TemporaryDirectory() as temporary:
            directory, starts = options.directory or Path(temporary), range(options.starts)
            outcomes = [problem.minimise(number, directory, progress) for number in starts]
            for number in starts:
                (directory / checkpoint_file(number)).unlink(missing_ok=True)
        return min(outcomes, key=lambda outcome: outcome[0])[1]

    best = trained(descend, torch.device(data.device))
    return start | {name: turned(start[name], rotation) for name, rotation in best.items()}


def prepared_sparse(setting: Setting) -> MakeBases:
    """The method with the options of an analysis, from LIB if it is known."""
    options = sparse_options(setting.options, setting.directory)
    return partial(sparse, options=options, start=setting.bases.get("lib"))


def turned(basis: Basis, rotation: Float[Tensor, "k k"]) -> Basis:
    """The basis with its leading features turned, scaled by their importance and sorted by it."""
    features = Features.of(basis, len(rotation), basis.encoder.dtype)
    rotation = rotation.to(basis.encoder)
    # Λ of LIB is the Jacobian Gram of its features at variance 1.
    order = features.scale(rotation).argsort(descending=True, stable=True)
    rotation = fixed_signs(rotation[:, order])
    root = features.scale(rotation).sqrt()
    encoder, decoder, importance = (
        tensor.clone() for tensor in (basis.encoder, basis.decoder, basis.importance)
    )
    leading = slice(basis.isolated, basis.isolated + len(rotation))
    encoder[:, leading] = features.encoder @ rotation * root
    decoder[leading] = (rotation / root).T @ features.decoder
    importance[leading] = root.square()
    return replace(basis, encoder=encoder, decoder=decoder, importance=importance)


METHOD = BasisMethod(
    sparse,
    reads=READS,
    prepare=prepared_sparse,
    begins_with="lib",
    jacobian_gram=True,
    seconds=sparse_seconds,
    layer_bytes=PAIR_BYTES,
    leaves=CHECKPOINTS,
)
