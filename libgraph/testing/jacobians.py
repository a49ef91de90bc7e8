"""The Jacobians of a section that its closed forms are measured against.

They come from reverse-mode automatic differentiation of the section's `forward` alone: not from its
other methods, nor from `libgraph.sections.autodiff`, which is measured against them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property, reduce

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp, vmap

from libgraph.backend.streams import stream
from libgraph.sections import Function, Section, autodiff
from libgraph.sections.quadrature import Quadrature

DENSE_ELEMENTS = 2**23
"""Jacobians of more numbers than this are not held: passes of autodiff take their place."""


class Jacobians:
    """J_ts = ∂y_t/∂x_s of a section at activations, taken once for each point of a path to them.

    Args:
        section: differentiated by what `forward` says; samples must not see each other.
        x: activations `(n, s, d_in)`.
        decoder: `(k_in, d_in)`, if the section is seen from other coordinates of its input.
        encoder: `(d_out, k_out)`, the same of its output.

    Attributes:
        dense: whether they are small enough to be held.
        terms: at most so many products are added up in what follows: how many numbers they are,
            or how many numbers the section's largest tensor has.
    """

    def __init__(
        self,
        section: Section,
        x: Float[Tensor, "n s d_in"],
        decoder: Float[Tensor, "k_in d_in"] | None = None,
        encoder: Float[Tensor, "d_out k_out"] | None = None,
    ) -> None:
        self.section, self.x = section, x
        self.decoder, self.encoder = decoder, encoder
        positions = section(x[:1]).shape[1]
        elements = x.numel() * positions * section.d_out
        self.dense = elements <= DENSE_ELEMENTS
        tensors = (*section.parameters(), *section.buffers())
        self.terms = max([elements, *(tensor.numel() for tensor in tensors)])
        self._by_point: dict[float, Tensor] = {}
        self._chance: torch.Generator | None = None

    def rebased(
        self,
        decoder: Float[Tensor, "k_in d_in"] | None = None,
        encoder: Float[Tensor, "d_out k_out"] | None = None,
    ) -> Jacobians:
        """The same seen from other coordinates, as `Section.rebase` sees them."""
        decoder = _product(decoder, self.decoder, self.x)
        encoder = _product(self.encoder, encoder, self.x)
        other = Jacobians(self.section, self.x, decoder, encoder)
        other._by_point = self._by_point
        return other

    def outputs(self) -> Float[Tensor, "n t d_out"]:
        """What the section maps the activations to, one sample at a time."""
        y = torch.cat([self.section(self.x[i : i + 1]) for i in range(len(self.x))])
        return y if self.encoder is None else y @ self.encoder

    def map(self, activations: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t d_out"]:
        """Map other activations, in the coordinates from which the section is seen."""
        x = self._changed(activations.to(self.x))
        y: Tensor = self.section(x if self.decoder is None else x @ self.decoder)
        return y if self.encoder is None else y @ self.encoder

    def at(self, point: float = 1.0) -> Float[Tensor, "n t s d_in d_out"]:
        """J_ts(αx), α the point."""
        if point not in self._by_point:
            self._by_point[point] = _dense(self.section, point * self.x)
        jacobians = self._by_point[point]
        if self.decoder is not None:
            jacobians = self.decoder @ jacobians
        return jacobians if self.encoder is None else jacobians @ self.encoder

    def derivative(
        self, tangents: Float[Tensor, "n k s d_in"], point: float = 1.0
    ) -> Float[Tensor, "n k t d_out"]:
        """Σ_s τ_s J_ts(αx) of every tangent τ."""
        tangents = tangents.to(self.x)
        if self.dense:
            return torch.einsum("nksd,ntsde->nkte", tangents, self.at(point))
        along = tangents if self.decoder is None else tangents @ self.decoder
        moved = autodiff.linearize(self.section, point * self.x)(along)
        return moved if self.encoder is None else moved @ self.encoder

    def gram(self) -> Float[Tensor, "d_in d_in"]:
        """Σ_x Σ_ts J_ts J_tsᵀ."""
        if self.dense:
            return torch.einsum("ntsde,ntsfe->df", self.at(), self.at())
        total = autodiff.jacobian_gram(self._written, self.x)
        return total if self.decoder is None else self.decoder @ total @ self.decoder.T

    def effects(
        self,
        features: Float[Tensor, "n s k"],
        decoder: Float[Tensor, "k d_in"],
        quadrature: Quadrature,
    ) -> Float[Tensor, "n k t d_out"]:
        """Σ_s f_sj ∫dα (decoder J_ts(αx))_ji."""
        tangents = features.to(self.x).transpose(1, 2).unsqueeze(-1) * decoder.to(self.x)[:, None]
        path = zip(quadrature.points, quadrature.weights, strict=True)
        return reduce(torch.add, (w * self.derivative(tangents, point) for point, w in path))

    def diagonal_product(
        self, weights: Float[Tensor, "n t a"], vectors: Float[Tensor, "a d_out"]
    ) -> Float[Tensor, "d_in a"]:
        """Σ_x Σ_t J_tt v_a weights_ta; only of Jacobians that are held."""
        weights, vectors = weights.to(self.x), vectors.to(self.x)
        return torch.einsum("nttde,ae,nta->da", self.at(), vectors, weights)

    def condition(self, of: Callable[[Jacobians], Tensor]) -> float:
        """How much a relative change of activations and factors changes what is made of them.

        Args:
            of: what is made of Jacobians.
        """
        before, after = of(self), of(self._perturbed)
        scale = float(before.abs().max()) or 1.0
        return float((after - before).abs().max()) / scale / self._step

    @cached_property
    def _perturbed(self) -> Jacobians:
        """With every number changed by a normal deviate times `_step`."""
        other = Jacobians(deepcopy(self.section), self.x, self.decoder, self.encoder)
        other._chance = stream(0, 0)
        for tensor in (*other.section.parameters(), *other.section.buffers()):
            if tensor.is_floating_point():
                tensor.data = other._changed(tensor.data)
        other.x = other._changed(self.x)
        return other

    def _changed(self, tensor: Tensor) -> Tensor:
        if self._chance is None:
            return tensor
        deviates = torch.randn(tensor.shape, generator=self._chance, dtype=torch.float64)
        return tensor * (1 + self._step * deviates.to(tensor))

    @property
    def _step(self) -> float:
        """Large enough to stand out from rounding, small enough for a derivative."""
        return math.sqrt(torch.finfo(self.x.dtype).eps)

    @property
    def _written(self) -> Section:
        """The section with its outputs in other coordinates, known to automatic differentiation."""
        section, encoder = self.section, self.encoder
        if encoder is None:
            return section
        function = Function(
            lambda x: section(x) @ encoder, section.d_in, encoder.shape[1], section.positionwise
        )
        return function.to(self.x)


def _product(first: Tensor | None, second: Tensor | None, like: Tensor) -> Tensor | None:
    """Of two matrices, or the one that there is."""
    matrices = [matrix.to(like) for matrix in (first, second) if matrix is not None]
    return reduce(torch.matmul, matrices) if matrices else None


def _dense(section: Section, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n t s d_in d_out"]:
    """One pass for each output and output position, all of them and all samples side by side."""
    rows = x.reshape(-1, 1, x.shape[-1]) if section.positionwise else x
    y, pullback = vjp(section, rows)[:2]
    n, t, d_out = y.shape
    units = torch.eye(t * d_out).to(y).reshape(-1, 1, t, d_out).expand(-1, n, -1, -1)
    gradients = vmap(lambda unit: pullback(unit)[0])(units).detach()
    jacobians: Tensor = gradients.unflatten(0, (t, d_out)).permute(2, 0, 3, 4, 1)
    if not section.positionwise:
        return jacobians
    by_position = jacobians.reshape(*x.shape, d_out).movedim(1, -1)
    return torch.diag_embed(by_position, dim1=1, dim2=2)
