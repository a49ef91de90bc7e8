"""Jacobian Grams and interactions of any section, by automatic differentiation.

One pass of forward mode serves one input coordinate, one of reverse mode one output coordinate;
the mode with fewer passes is taken, and passes run side by side (`torch.func.vmap`) in chunks that
keep the derivatives of one chunk below `chunks.DERIVATIVES`. Nothing of size samples × outputs ×
inputs × positions is ever held. Structured sections are tested against these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp, vmap

from libgraph.sections.chunks import DERIVATIVES
from libgraph.sections.estimate import Estimate
from libgraph.sections.quadrature import Quadrature


class Map(Protocol):
    """What is differentiated: activations `(n, s, d_in)` to `(n, t, d_out)`, as a section does.

    Attributes:
        d_out: coordinates of an activation that goes out.
        positionwise: whether output position t depends on input position t alone.
    """

    d_out: int
    positionwise: bool

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map activations; samples do not see each other."""


def jacobian_gram(section: Map, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "d_in d_in"]:
    """Σ_x Σ_ts J_ts J_tsᵀ; cost: the smaller of t·d_out reverse and s·d_in forward passes."""
    x = _positions_as_samples(section, x)
    _, s, d_in = x.shape
    t, d_out = section(x[:1]).shape[1:]
    total = x.new_zeros(d_in, d_in, dtype=torch.float64)
    if t * d_out <= s * d_in:
        for gradients in _reverse(section, x, t, d_out):
            rows = gradients.reshape(-1, d_in)
            total += rows.T @ rows
        return total
    # Forward mode gives one row of J at a time, and a Gram needs all rows of a sample together.
    samples = _fitting(d_in * t * d_out, x)
    eye = torch.eye(d_in, dtype=x.dtype, device=x.device)
    for part in x.split(samples):
        for position in range(s):
            at = torch.zeros(s, 1, dtype=x.dtype, device=x.device)
            at[position] = 1

            def directional(direction: Tensor, part: Tensor = part, at: Tensor = at) -> Tensor:
                tangent = (at * direction).expand_as(part)
                return _directional(section, part, tangent)

            rows = vmap(directional)(eye).reshape(d_in, -1)
            total += rows @ rows.T
    return total


def interactions(
    section: Map,
    x: Float[Tensor, "n s d_in"],
    features: Float[Tensor, "n s k"],
    decoder: Float[Tensor, "k d_in"],
    quadrature: Quadrature,
) -> Float[Tensor, "d_out k"]:
    """Σ_x Σ_t (Σ_s f_sj ∫dα (decoder J_ts(αx))_ji)².

    The sum over s is one directional derivative along f_·j decoder_j, so forward mode needs k
    passes whatever the number of positions; reverse mode needs t·d_out.
    """
    x, features = _positions_as_samples(section, x), _positions_as_samples(section, features)
    k = decoder.shape[0]
    t, d_out = section(x[:1]).shape[1:]
    total = x.new_zeros(d_out, k, dtype=torch.float64)
    path = list(zip(quadrature.points, quadrature.weights, strict=True))
    if k <= t * d_out:
        for chosen in _chunks(k, x.numel() + x.shape[0] * t * d_out, x):

            def along(j: Tensor) -> Tensor:
                tangent = features[..., j].unsqueeze(-1) * decoder[j]
                return _total(w * _directional(section, a * x, tangent) for a, w in path)

            total[:, chosen] = vmap(along)(chosen).square().sum(dim=(1, 2)).T.double()
        return total
    passes = [_reverse(section, a * x, t, d_out) for a, _ in path]
    done = 0
    for gradients in zip(*passes, strict=True):
        mean = _total(w * g for (_, w), g in zip(path, gradients, strict=True))
        effect = torch.einsum("cnsd,kd,nsk->cnk", mean, decoder, features)
        squares = effect.square().sum(1).double()
        outputs = torch.arange(done, done + len(squares), device=x.device) % d_out
        total.index_add_(0, outputs, squares)
        done += len(squares)
    return total


def estimate(
    section: Map,
    x: Float[Tensor, "n s d_in"],
    features: Float[Tensor, "n s k"],
    decoder: Float[Tensor, "k d_in"],
    quadrature: Quadrature,
    signs: Float[Tensor, "r n t"],
) -> Estimate:
    """The same from r ≥ 2 draws of signs, by r·d_out reverse passes: Σ_t φ_rt y_ti is a scalar."""
    parts = []
    path = list(zip(quadrature.points, quadrature.weights, strict=True))
    pullbacks = [vjp(section, a * x)[1] for a, _ in path]
    # All draws of an output are together in a chunk, because their variance is asked for.
    wide = x[..., 0].numel() * max(2 * x.shape[2], len(decoder))
    for chosen in _chunks(section.d_out, len(signs) * wide, x):

        def effects(output: Tensor) -> Tensor:
            at = torch.arange(section.d_out, device=x.device) == output

            def signed(phi: Tensor) -> Tensor:
                cotangent = phi.unsqueeze(-1) * at.to(x.dtype)
                gradient = _total(
                    w * pullback(cotangent)[0]
                    for (_, w), pullback in zip(path, pullbacks, strict=True)
                )
                return torch.einsum("nsd,kd,nsk->nk", gradient, decoder, features)

            return vmap(signed)(signs)

        parts.append(Estimate.from_draws(vmap(effects)(chosen).permute(2, 3, 1, 0)))
    totals, variances = zip(*parts, strict=True)
    return Estimate(torch.cat(totals), torch.cat(variances))


def linearize(section: Map, x: Float[Tensor, "n s d_in"]) -> Callable[[Tensor], Tensor]:
    """Tangents `(n, k, s, d_in)` to directional derivatives `(n, k, t, d_out)`, by forward mode."""

    def linear(tangents: Tensor) -> Tensor:
        along = tangents.expand(len(x), -1, *x.shape[1:]).transpose(0, 1)
        derivatives: Tensor = vmap(lambda tangent: _directional(section, x, tangent))(along)
        return derivatives.transpose(0, 1)

    return linear


def _total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


def _positions_as_samples(section: Map, x: Tensor) -> Tensor:
    return x.reshape(-1, 1, x.shape[-1]) if section.positionwise else x


def _directional(section: Map, x: Tensor, tangent: Tensor) -> Tensor:
    derivative: Tensor = jvp(section, (x,), (tangent,))[1]
    return derivative


def _fitting(elements: int, x: Tensor) -> int:
    """How many passes of so many numbers a chunk holds, which take four times that."""
    return max(1, DERIVATIVES.at(x) // (4 * elements * x.element_size()))


def _chunks(passes: int, elements: int, x: Tensor) -> Iterator[Tensor]:
    yield from torch.arange(passes, device=x.device).split(_fitting(elements, x))


def _reverse(section: Map, x: Tensor, t: int, d_out: int) -> Iterator[Tensor]:
    """Gradients `(chunk, n, s, d_in)` of the outputs (position-major), a chunk at a time."""
    y, pullback = vjp(section, x)[:2]

    def gradient(index: Tensor) -> Tensor:
        cotangent = torch.arange(t * d_out, device=x.device) == index
        along: Tensor = pullback(cotangent.to(x.dtype).reshape(1, t, d_out).expand_as(y))[0]
        return along

    for chosen in _chunks(t * d_out, 2 * x.numel(), x):
        yield vmap(gradient)(chosen)
