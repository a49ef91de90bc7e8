"""What makes a basis: methods and what they say of themselves, truncation, eigenbases."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.accumulate.ranks import share_first
from libgraph.backend.data import Data
from libgraph.bases.statistics import Statistics, node_statistics
from libgraph.errors import NumericalError, UsageError
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network
from libgraph.progress import Progress

EIGH_ON_DEVICE = 128
"""Smaller eigenproblems are solved on the CPU, whatever device holds the matrix: at this size an
H200 takes as long as 16 cores, at 256 half, at 2305 a tenth of their time (benchmarks/gpu.py)."""


@dataclass(frozen=True)
class Truncation:
    """Below which eigenvalue a direction is dropped.

    Args:
        relative: whether `tolerance` is a share of the largest eigenvalue.
        tolerance: the threshold; the paper uses an absolute 1e-15 in float64.
    """

    relative: bool
    tolerance: float

    @classmethod
    def parse(cls, text: str) -> Truncation:
        """Read `rel:TOL` or `abs:TOL`.

        Raises:
            UsageError: if it is neither, or the tolerance is no share, or no number.
        """
        kind, _, number = text.partition(":")
        try:
            tolerance = float(number)
        except ValueError:
            tolerance = math.nan
        most = 1.0 if kind == "rel" else sys.float_info.max
        if kind not in ("rel", "abs") or not 0 <= tolerance <= most:
            raise UsageError(f"Truncation '{text}': use rel:TOL or abs:TOL, such as rel:1e-10.")
        return cls(kind == "rel", tolerance)

    def __str__(self) -> str:
        return f"{'rel' if self.relative else 'abs'}:{self.tolerance:g}"

    def count(self, eigenvalues: Float[Tensor, " k"]) -> int:
        """How many of the eigenvalues, sorted downwards, are kept."""
        if not len(eigenvalues):
            return 0
        scale = float(eigenvalues[0]) if self.relative else 1.0
        return int((eigenvalues > max(self.tolerance * scale, 0.0)).sum())


class MakeBases(Protocol):
    """Chooses bases: from statistics and, if it needs them, passes over the data."""

    def __call__(
        self,
        network: Network,
        statistics: Mapping[str, Statistics],
        data: Data,
        truncation: Truncation,
        progress: Progress,
    ) -> dict[str, Basis]:
        """A basis for every node layer, in float64.

        Of a node layer that has them, the constant is the first feature and other isolated
        coordinates are the next ones, unmixed, and `isolated` counts both; the importance of the
        rest decreases. Unrotated node layers keep their coordinates.

        Args:
            network: whose node layers these are bases of.
            statistics: of activations, by node layer.
            data: batch by batch, for further passes.
            truncation: below which eigenvalue directions are dropped.
            progress: told of every pass.
        """


@dataclass(frozen=True)
class Setting:
    """What a method may want beside activations.

    Args:
        options: values of the options that it reads, by name.
        directory: where it may keep work that is half done; None for nowhere.
        bases: those that were made before, by name.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    directory: Path | None = None
    bases: Mapping[str, Bases] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A look at a few samples, from which a method says what it is going to take.

    Args:
        network: whose bases are wanted.
        data: those samples.
        positions: of a sample, at the node layer that has most of them.
        limit: samples that are asked for; None for all.
        truncation: of bases.
        options: values of the options that the method reads, by name.
        seconds: measures how long something takes.
    """

    network: Network
    data: Data
    positions: int
    limit: int | None
    truncation: Truncation
    options: Mapping[str, object]
    seconds: Callable[[Callable[[], object]], float]


@dataclass(frozen=True)
class BasisMethod:
    """A way to choose bases, and all that others have to know of it.

    Args:
        make: makes bases.
        reads: names of the options that it depends on, beside those that all bases do.
        prepare: gives `make` in a setting, for a method that reads options, or begins with another
            basis.
        begins_with: name of the basis that it would make for itself if it was not made before.
        jacobian_gram: whether it adds up the Jacobian Grams of all sections.
        output_gram: whether it adds up the Grams of the outputs' gradients at all node layers.
        seconds: what it takes in all, beside these and the statistics.
        layer_bytes: what it holds of a node layer at most, beside activations.
        leaves: pattern of the files in which it keeps work that is half done.
        digest: SHA-256 of the file that directions come from, if they do.
        scattered: whether its directions are nothing to the network, which then needs most edges.
        latent: whether its bases are dictionaries, at some node layers at least.
        writes: puts files of its own into the directory of a run, from its finished bases.
    """

    make: MakeBases
    reads: tuple[str, ...] = ()
    prepare: Callable[[Setting], MakeBases] | None = None
    begins_with: str | None = None
    jacobian_gram: bool = False
    output_gram: bool = False
    seconds: Callable[[Probe], float] | None = None
    layer_bytes: int = 0
    leaves: str | None = None
    digest: str = ""
    scattered: bool = False
    latent: bool = False
    writes: Callable[[Network, Bases, Path], None] | None = None

    def __call__(
        self,
        network: Network,
        statistics: Mapping[str, Statistics],
        data: Data,
        truncation: Truncation,
        progress: Progress,
    ) -> dict[str, Basis]:
        """Make bases with options as they are by default."""
        return self.make(network, statistics, data, truncation, progress)

    def prepared(self, setting: Setting) -> MakeBases:
        """What makes bases in this setting."""
        return self.make if self.prepare is None else self.prepare(setting)


def make_bases(
    methods: Mapping[str, BasisMethod],
    network: Network,
    data: Data,
    truncation: Truncation,
    *,
    setting: Setting,
    progress: Progress,
) -> dict[str, Bases]:
    """Bases by several methods, from one pass over the data for the statistics of all.

    Args:
        methods: by the names of the bases.
        network: whose node layers these are bases of.
        data: what bases are made from.
        truncation: below which eigenvalue directions are dropped.
        setting: with the options of all methods.
        progress: told of every pass.
    """
    statistics = node_statistics(network, data, progress)
    bases: dict[str, Bases] = dict(setting.bases)
    # Those that begin with others come last.
    for name in sorted(methods, key=lambda name: methods[name].begins_with is not None):
        make = methods[name].prepared(replace(setting, bases={**bases}))
        bases[name] = make(network, statistics, data, truncation, progress)
    return {name: bases[name] for name in methods}


def eigenbasis(
    gram: Float[Tensor, "k k"], truncation: Truncation, where: str
) -> tuple[Float[Tensor, " m"], Float[Tensor, "k m"]]:
    """Eigenvalues above the threshold, largest first, and their eigenvectors as columns.

    The sign of each eigenvector is fixed (its largest entry is positive), so that the same Gram
    gives the same features.

    Raises:
        NumericalError: if the Gram is not finite; `where` names it.
    """
    if not bool(gram.isfinite().all()):
        raise NumericalError(f"The {where} holds NaN or infinite values: check the weights.")
    symmetric = (gram + gram.T) / 2
    place = gram.device if len(gram) >= EIGH_ON_DEVICE else torch.device("cpu")
    values, vectors = (
        tensor.to(gram.device).flip(-1) for tensor in torch.linalg.eigh(symmetric.to(place))
    )
    share_first(values, vectors)
    count = truncation.count(values)
    values, vectors = values[:count], vectors[:, :count]
    return values, fixed_signs(vectors) if count else vectors


def fixed_signs(vectors: Float[Tensor, "k m"]) -> Float[Tensor, "k m"]:
    """Columns with their largest entry positive."""
    largest = vectors.abs().argmax(0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()
