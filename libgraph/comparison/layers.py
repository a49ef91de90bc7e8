"""Features of one node layer in two bases: how far their subspaces overlap, which is which.

A feature is compared by its decoder direction, what it adds to the activations, in the inner
product of the activations' own coordinates or of a linear basis's. Isolated features are left out,
and with them the constant, whose coordinate is 0 in every other decoder direction. Scales do not
count, nor do signs but those of latents, which are never negative. Chance is said beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from libgraph.errors import NumericalError
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.network.basis import Basis

BoolArray = NDArray[np.bool_]

ROUNDING = 8
"""Singular values below this many times size × machine precision count as zero."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Features of A assigned to features of B one to one, as columns of equal length.

    Args:
        a: features of A, ascending; isolated ones count, as everywhere, and come first.
        b: the feature of B for each of them.
        cosine: of their decoder directions; |cosine| unless both are latents.
    """

    a: IndexArray
    b: IndexArray
    cosine: FloatArray

    def above(self, threshold: float) -> Matching:
        """The pairs whose cosine is the threshold or more."""
        # The same direction computed twice has 1 up to rounding.
        enough = self.cosine >= threshold - 1e-9
        return Matching(self.a[enough], self.b[enough], self.cosine[enough])


class Closest(NamedTuple):
    """How near each feature's nearest in the other basis is, in the mean (MMCS); None of none.

    Args:
        a: over the features of A, of largest cosines with any of B.
        b: over those of B, with any of A.
    """

    a: float | None
    b: float | None


@dataclass(frozen=True)
class LayerDifference:
    """One node layer in A and in B.

    Args:
        name: of the node layer.
        rotated: whether it is, in either.
        features: how many in A and in B, without isolated ones.
        isolated: how many isolated ones come before them.
        overlap: of the subspaces that all features span, see :func:`subspace_overlap`.
        by_chance: what random subspaces of these dimensions would have in the mean.
        needed: how many leading features B's score needs, at most those of A; None where unknown.
        needed_overlap: overlap of so many leading features of both.
        leading: overlap of the leading k features, by k = 1, 2, 4, …
        matching: all features of the smaller basis with their counterpart.
        closest: mean largest cosines, of features that need not be one another's.
        closest_by_chance: the same where the other basis has random directions in place of its own,
            as many and of the same second moment.
        latents: whether some features of either are latents of a dictionary.
    """

    name: str
    rotated: bool
    features: tuple[int, int]
    isolated: tuple[int, int]
    overlap: float | None
    by_chance: float | None
    needed: int | None
    needed_overlap: float | None
    leading: dict[int, float | None]
    matching: Matching
    closest: Closest
    closest_by_chance: Closest
    latents: bool

    @property
    def mean_cosine(self) -> float | None:
        """Of all features of the smaller basis with their counterpart; None of none."""
        cosine = self.matching.cosine
        return float(cosine.mean()) if len(cosine) else None


def compare_layer(
    name: str,
    a: Basis,
    b: Basis,
    needed: int | None = None,
    coordinates: Basis | None = None,
) -> LayerDifference:
    """Compare two bases of a node layer with the same coordinates.

    Args:
        name: of the node layer.
        a: its basis in A.
        b: its basis in B.
        needed: how many features B's score needs, isolated ones included.
        coordinates: a linear basis in whose features directions are compared; None for the
            activations' own coordinates.

    Raises:
        NumericalError: if a decoder is not finite.
    """
    first, second = (decoder_directions(name, basis, coordinates) for basis in (a, b))
    signed = _latents(a)[:, None] & _latents(b)
    fewer = min(len(first), len(second))
    spans = orthonormal(first), orthonormal(second)
    ranks = [len(span) for span in spans]
    # Directions of isolated features are among the activations' coordinates alone.
    dimensions = first.shape[1] - (min(a.isolated, b.isolated) if coordinates is None else 0)
    leading = None if needed is None else min(max(needed - b.isolated, 0), fewer)
    return LayerDifference(
        name=name,
        rotated=a.rotated or b.rotated,
        features=(len(first), len(second)),
        isolated=(a.isolated, b.isolated),
        overlap=_overlap(*spans),
        by_chance=max(ranks) / dimensions if min(ranks) else None,
        needed=leading,
        needed_overlap=(
            None if leading is None else subspace_overlap(first[:leading], second[:leading])
        ),
        leading={
            k: subspace_overlap(first[:k], second[:k])
            for k in (2**power for power in range(fewer.bit_length()))
        },
        matching=match_features(first, second, (a.isolated, b.isolated), signed),
        closest=Closest(closest(first, second, signed), closest(second, first, signed.T)),
        closest_by_chance=Closest(
            closest(first, random_like(second), signed),
            closest(second, random_like(first), signed.T),
        ),
        latents=any(_latents(basis).any() for basis in (a, b)),
    )


def _latents(basis: Basis) -> BoolArray:
    """Which features that are not isolated are never negative: those of a dictionary."""
    first = basis.always - basis.isolated
    return np.arange(len(basis) - basis.isolated) >= first


def decoder_directions(name: str, basis: Basis, coordinates: Basis | None = None) -> FloatArray:
    """Unit decoder directions of the features that are not isolated, shape ``(features, d)``.

    Args:
        name: of the node layer.
        basis: whose features they are.
        coordinates: a linear basis in whose features, but for isolated ones, they are.

    Raises:
        NumericalError: if a decoder is not finite; `name` is that of its node layer.
    """
    directions = basis.decoder[basis.isolated :].double()
    if coordinates is not None:
        directions = directions @ coordinates.encoder[:, coordinates.isolated :].to(directions)
    decoder: FloatArray = directions.cpu().numpy()
    if not np.isfinite(decoder).all():
        raise NumericalError(
            f"Decoders of {name} are NaN or infinite: analyse again with force=True."
        )
    # Norms differ by many decades; squares of the largest and smallest may leave the range.
    largest = np.abs(decoder).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(decoder, largest, out=np.zeros_like(decoder), where=largest > 0)
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: FloatArray = np.divide(scaled, norm, out=scaled, where=norm > 0)
    return unit


def subspace_overlap(a: FloatArray, b: FloatArray) -> float | None:
    r"""Mean squared cosine of the principal angles θ between the spans of two sets of directions.

    .. math:: \frac 1m \sum_{i=1}^m \cos^2 θ_i = \frac{‖Q_A Q_Bᵀ‖_F^2}{m}, \quad
              m = \min(\dim A, \dim B)

    with orthonormal bases Q of the spans as rows. It is 1 if the smaller span lies in the larger,
    0 if they are orthogonal, and max(dim A, dim B) / d in the mean if they are random. Source:
    Björck & Golub (1973), doi:10.1090/S0025-5718-1973-0348991-3.

    Args:
        a: Directions of A, shape ``(k, d)``.
        b: Directions of B, shape ``(l, d)``.

    Returns:
        None if either spans nothing.
    """
    return _overlap(orthonormal(a), orthonormal(b))


def _overlap(a: FloatArray, b: FloatArray) -> float | None:
    """The same, of orthonormal directions."""
    smaller = min(len(a), len(b))
    # Rounding may carry the sum over 1 by a little.
    return min(float(np.square(a @ b.T).sum() / smaller), 1.0) if smaller else None


def orthonormal(directions: FloatArray) -> FloatArray:
    """Orthonormal directions with the same span, shape ``(rank, d)``.

    Over-complete dictionaries have more directions than dimensions: the rank is what counts.
    """
    if not directions.size:
        return np.zeros((0, directions.shape[1]))
    _, values, right = np.linalg.svd(directions, full_matrices=False)
    rounding = ROUNDING * max(directions.shape) * np.finfo(np.float64).eps
    span: FloatArray = right[values > rounding * values[0]]
    return span


def closest(a: FloatArray, b: FloatArray, signed: BoolArray | None = None) -> float | None:
    """Mean over directions of A of the largest |cosine| with any of B: MMCS.

    Args:
        a: unit directions of A, shape ``(k, d)``.
        b: unit directions of B, shape ``(l, d)``.
        signed: pairs whose cosine counts with its sign, shape ``(k, l)``.

    Returns:
        None where either has none.
    """
    if not (len(a) and len(b)):
        return None
    return float(_cosines(a, b, signed).max(axis=1).mean())


def random_like(directions: FloatArray) -> FloatArray:
    """As many random unit directions with the same second moment, shape ``(k, d)``; always those.

    Directions that many features share are as frequent among them, so that what is nearer than
    these is nearer than which part of the space is used can tell.
    """
    values, vectors = np.linalg.eigh(directions.T @ directions)
    # The symmetric root, of which there is one: no other vectors of a computer's choice are in it.
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    random = np.random.default_rng(0).standard_normal(directions.shape) @ root
    norm = np.linalg.norm(random, axis=1, keepdims=True)
    unit: FloatArray = np.divide(random, norm, out=random, where=norm > 0)
    return unit


def _cosines(a: FloatArray, b: FloatArray, signed: BoolArray | None) -> FloatArray:
    found = a @ b.T
    if signed is None:
        signed = np.zeros(found.shape, dtype=np.bool_)
    cosine: FloatArray = np.minimum(np.where(signed, found, np.abs(found)), 1.0)
    return cosine


def match_features(
    a: FloatArray,
    b: FloatArray,
    isolated: tuple[int, int] = (0, 0),
    signed: BoolArray | None = None,
) -> Matching:
    """Assign features one to one so that the sum of |cosine| is largest.

    Features of equal importance may come in any rotation, and then have smaller cosines although
    their subspaces are the same: compare the overlap. Source of the method: Crouse (2016), On
    implementing 2D rectangular assignment algorithms, doi:10.1109/TAES.2016.140952.

    Args:
        a: Unit directions of A, shape ``(k, d)``.
        b: Unit directions of B, shape ``(l, d)``.
        isolated: how many isolated features come before each.
        signed: pairs whose cosine counts with its sign, shape ``(k, l)``.
    """
    cosine = _cosines(a, b, signed)
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    return Matching(
        rows.astype(np.int64) + isolated[0],
        columns.astype(np.int64) + isolated[1],
        cosine[rows, columns],
    )
