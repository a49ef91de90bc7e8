"""Dictionaries that are learned from the network: more features than dimensions (this project's).

At every rotated node layer latents z = TopK(u E + b) of LIB's coordinates u, in which an error is
as large as what it does to the next node layer, and û = z D. Encoders begin with directions that
the next node layer reads, found as a sparse code of gradients; then all node layers learn together
what is written (reconstruction), that active latents pass gradients and do not read each other,
and, if asked to, to interact little. Source: docs/superposition.md.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from libgraph.accumulate.ranks import trained
from libgraph.backend.data import Data
from libgraph.bases.learned.coordinates import coordinates
from libgraph.bases.learned.cost import dictionary_seconds
from libgraph.bases.learned.options import (
    CHECKPOINT,
    DEFAULTS,
    FOLDER,
    LAYER_BYTES,
    READS,
    DictionaryOptions,
    dictionary_options,
)
from libgraph.bases.learned.problem import Problem
from libgraph.bases.learned.saelens import write_saelens
from libgraph.bases.learned.samples import most_samples
from libgraph.bases.lib import lib
from libgraph.bases.method import BasisMethod, MakeBases, Setting, Truncation
from libgraph.bases.statistics import Statistics
from libgraph.network.basis import Bases, Basis
from libgraph.network.dictionary import Dictionary
from libgraph.network.network import Network
from libgraph.progress import Progress

log = logging.getLogger("libgraph")


def learned(
    network: Network,
    statistics: Mapping[str, Statistics],
    data: Data,
    truncation: Truncation,
    progress: Progress,
    options: DictionaryOptions = DEFAULTS,
    start: Bases | None = None,
) -> dict[str, Basis]:
    """A `Dictionary` for every rotated node layer; LIB where nothing varies or is not rotated.

    Args:
        network: as for every method.
        statistics: likewise.
        data: dictionaries are learned from its first samples.
        truncation: of LIB.
        progress: told the shares that are missed and dead beside the steps.
        options: see there.
        start: LIB, if it is known already.

    Raises:
        NumericalError: if gradients or the loss are not finite.
    """
    start = dict(start or lib(network, statistics, data, truncation, progress))
    places = coordinates(network, statistics, start, options.metric, truncation)
    if not places:
        log.warning("The dictionaries are LIB: no node layer is rotated and varies.")
        return start
    positions = max(layer.positions for layer in statistics.values())
    count = most_samples(data, positions, max(layer.size for layer in network.node_layers))
    problem = Problem.of(network, places, start, replace(data, limit=count), options)

    def descend() -> dict[str, Tensor]:
        with tempfile.TemporaryDirectory() as temporary:
            directory = options.directory or Path(temporary)
            parameters = problem.minimise(directory, progress)
            (directory / CHECKPOINT).unlink(missing_ok=True)
        return parameters

    parameters = trained(descend, torch.device(data.device))
    found: dict[str, Dictionary] = {}
    for name, place in places.items():
        weights = problem.learner(parameters, name).weights()
        strength = problem.strength(parameters, name)
        whole = place.dictionary(weights, options.active, strength)
        # Sorted by what they do, so that those that were never active come last.
        alive = torch.arange(int((strength > 0).sum()), device=whole.encoder.device)
        found[name] = whole.of(alive, whole.importance[whole.isolated :][: len(alive)])
        _tell_of_the_dead(name, int((strength == 0).sum()), len(strength))
    return start | found


def written(network: Network, bases: Bases, directory: Path) -> None:
    """Dictionaries in SAELens's layout, in a folder of the run's directory."""
    folder = directory / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    for layer in network.node_layers:
        basis = bases[layer.name]
        if isinstance(basis, Dictionary):
            write_saelens(folder, layer, basis)


def _tell_of_the_dead(name: str, dead: int, count: int) -> None:
    if 2 * dead > count:
        log.warning(
            "Of the %d latents of %s %d are never active: fewer would do.", count, name, dead
        )


def prepared(setting: Setting) -> MakeBases:
    """The method with the options of an analysis, from LIB if it is known."""
    options = dictionary_options(setting.options, setting.directory)
    return partial(learned, options=options, start=setting.bases.get("lib"))


METHOD = BasisMethod(
    learned,
    reads=READS,
    prepare=prepared,
    begins_with="lib",
    jacobian_gram=True,
    seconds=dictionary_seconds,
    layer_bytes=LAYER_BYTES,
    leaves=CHECKPOINT,
    latent=True,
    writes=written,
)
