"""What makes a basis: the protocol of methods, truncation, and what eigenbases share."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.bases.statistics import Statistics
from libgraph.errors import NumericalError, UsageError
from libgraph.network.basis import Basis
from libgraph.network.network import Network
from libgraph.progress import Progress

EIGH_ON_DEVICE = 512
"""Smaller eigenproblems are solved on the CPU, whatever device holds the matrix."""


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
        """Read `rel:TOL` or `abs:TOL`."""
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


class BasisMethod(Protocol):
    """A way to choose bases: from statistics and, if it needs them, passes over the data."""

    def __call__(
        self,
        network: Network,
        statistics: Mapping[str, Statistics],
        data: Data,
        truncation: Truncation,
        progress: Progress,
    ) -> dict[str, Basis]:
        """A basis for every node layer, in float64."""


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
        each.to(gram.device).flip(-1) for each in torch.linalg.eigh(symmetric.to(place))
    )
    kept = truncation.count(values)
    values, vectors = values[:kept], vectors[:, :kept]
    return values, fixed_signs(vectors) if kept else vectors


def fixed_signs(vectors: Float[Tensor, "k m"]) -> Float[Tensor, "k m"]:
    """Columns with their largest entry positive."""
    largest = vectors.abs().argmax(0, keepdim=True)
    return vectors * vectors.gather(0, largest).sign()
