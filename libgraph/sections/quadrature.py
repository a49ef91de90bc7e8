"""Quadrature on [0, 1] for integrated gradients.

An interaction averages the Jacobian along the straight path from zero to the activation, at points
α with weights w (∫dα J(αx) ≈ Σ w J(αx)). `gradient` takes the end of the path alone, which is
what every published figure of the Local Interaction Basis uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from libgraph.errors import UsageError

DEFAULT_POINTS = 8


MOST_POINTS = 1000
"""Rules of more are a mistake; making one takes minutes."""


@dataclass(frozen=True)
class Quadrature:
    """A rule for integrals over α from 0 to 1 (docs/math.md §3).

    Args:
        name: how it is asked for, such as `gauss-legendre:8`.
        points: α in [0, 1].
        weights: of the points; they sum to one.
    """

    name: str
    points: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def gradient(cls) -> Quadrature:
        """The Jacobian at the activation itself (α = 1)."""
        return cls("gradient", (1.0,), (1.0,))

    @classmethod
    def trapezoid(cls, points: int = DEFAULT_POINTS) -> Quadrature:
        """The trapezoidal rule on `points` ≥ 2 equidistant points, both ends among them.

        Raises:
            UsageError: if there are fewer.
        """
        if points < 2:
            raise UsageError(f"The trapezoidal rule needs at least 2 points, not {points}.")
        weights = np.full(points, 1 / (points - 1))
        weights[[0, -1]] /= 2
        return cls(
            f"trapezoid:{points}",
            tuple(np.linspace(0, 1, points).tolist()),
            tuple(weights.tolist()),
        )

    @classmethod
    def gauss_legendre(cls, points: int = DEFAULT_POINTS) -> Quadrature:
        """Gauss–Legendre: exact for polynomials in α of degree up to 2·`points` − 1.

        Raises:
            UsageError: if there is no point.
        """
        if points < 1:
            raise UsageError(f"Gauss–Legendre quadrature needs at least 1 point, not {points}.")
        nodes, weights = np.polynomial.legendre.leggauss(points)
        return cls(
            f"gauss-legendre:{points}",
            tuple(((nodes + 1) / 2).tolist()),
            tuple((weights / 2).tolist()),
        )

    @classmethod
    def parse(cls, text: str) -> Quadrature:
        """Read `gradient`, `trapezoid[:POINTS]` or `gauss-legendre[:POINTS]`.

        Raises:
            UsageError: if the text names no rule, or a number of points that it cannot have.
        """
        name, _, count = text.partition(":")
        if count and not count.isdecimal():
            raise UsageError(f"Integration '{text}': '{count}' is not a number of points.")
        if count and (len(count) > len(str(MOST_POINTS)) or int(count) > MOST_POINTS):
            raise UsageError(
                f"Integration '{text}' asks for more than {MOST_POINTS} points: a few are enough."
            )
        arguments = (int(count),) if count else ()
        match name:
            case "gradient" if not count:
                return cls.gradient()
            case "trapezoid":
                return cls.trapezoid(*arguments)
            case "gauss-legendre":
                return cls.gauss_legendre(*arguments)
        raise UsageError(
            f"Unknown integration '{text}': use gradient, trapezoid[:POINTS] "
            "or gauss-legendre[:POINTS]."
        )
