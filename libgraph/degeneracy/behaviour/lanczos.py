"""Eigenvalues of a large matrix that is known by its products alone, as far as counting them goes.

From a random vector the Lanczos method finds the nodes and weights of a Gauss quadrature over the
matrix's spectrum; the average over vectors stands for all eigenvalues (stochastic Lanczos
quadrature). What so few nodes leave open is known, and is part of the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from libgraph.accumulate.halfway import steps as resumable
from libgraph.bases.method import Truncation
from libgraph.progress import Progress, silent

NOTHING = 1e-11
"""Share of the largest eigenvalue below which a Lanczos vector is rounding errors."""


Product = Callable[[Float[Tensor, "m P"]], Float[Tensor, "m P"]]
"""With a symmetric positive semidefinite matrix, vector by vector."""


SHARP = Truncation(True, 1e-10)
"""Below which eigenvalue a direction counts as free, unless told otherwise."""


@dataclass(frozen=True, eq=False)
class HessianSpectrum:
    """Eigenvalues of the Hessian of the behavioural loss, or what stands for them.

    Args:
        parameters: P, how many there are with zeros.
        values: eigenvalues, largest first; or the Lanczos nodes of each probe in turn, in the same
            order.
        shares: how many eigenvalues each value stands for; they add up to P.
        exact: whether these are all eigenvalues.
        probes: how many estimates the values make up, equally many in each; 1 where exact.
        resolved: whether every probe took all the steps that it can, so that its values are
            eigenvalues.
        truncation: below which eigenvalue a direction counts as free.
        most: how many eigenvalues can be above zero, where fewer outputs than parameters say so.
    """

    parameters: int
    values: Float[Tensor, " k"]
    shares: Float[Tensor, " k"]
    exact: bool
    probes: int = 1
    resolved: bool = True
    truncation: Truncation = SHARP
    most: float = math.inf

    def effective(self, epsilon: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """N_eff(ε): how many eigenvalues lie above each ε."""
        return self._counts(epsilon).mean(0).clamp(max=self.most)

    def error(self, epsilon: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Standard error of that; 0 where exact.

        Over probes, and from what so many steps do not resolve, as if all between the `bounds`
        were equally likely.
        """
        counts = self._counts(epsilon)
        if self.exact:
            return torch.zeros_like(counts[0])
        low, high = self.bounds(epsilon)
        return (counts.var(0) / self.probes + (high - low).square() / 12).sqrt()

    def bounds(self, epsilon: Float[Tensor, " m"]) -> tuple[Tensor, Tensor]:
        """Between what N_eff(ε) of the probes lies, however few the steps.

        The share above ε is known up to the nodes on either side of it (the Chebyshev–Markov–
        Stieltjes inequalities for Gauss quadrature).
        """
        if self.resolved:
            return self.effective(epsilon), self.effective(epsilon)
        _, shares = self._by_probe
        sums = pad(shares.cumsum(1), (2, 1))
        sums[:, -1] = sums[:, -2]
        above = self._above(epsilon)
        ends = (sums.gather(1, place).mean(0) for place in (above, above + 2))
        low, high = (end.clamp(max=self.most) for end in ends)
        return low, high

    @property
    def rank(self) -> int:
        """How many eigenvalues lie above the threshold; rounded where they are estimated."""
        scale = float(self.values.max()) if self.truncation.relative else 1.0
        threshold = self.values.new_tensor([max(self.truncation.tolerance * scale, 0.0)])
        return round(float(self.effective(threshold)))

    @property
    def _by_probe(self) -> tuple[Float[Tensor, "probes k"], Float[Tensor, "probes k"]]:
        shape = (self.probes, -1)
        return self.values.unflatten(0, shape), self.shares.unflatten(0, shape) * self.probes

    def _above(self, epsilon: Float[Tensor, " m"]) -> Int[Tensor, "probes m"]:
        """How many values of each probe lie above each ε."""
        values, _ = self._by_probe
        wanted = epsilon.to(values).expand(self.probes, -1).contiguous()
        upwards = values.flip(1).contiguous()
        return values.shape[1] - torch.searchsorted(upwards, wanted, right=True)

    def _counts(self, epsilon: Float[Tensor, " m"]) -> Float[Tensor, "probes m"]:
        _, shares = self._by_probe
        sums = pad(shares.cumsum(1), (1, 0))
        return sums.gather(1, self._above(epsilon))


def lanczos(
    product: Product,
    probes: Float[Tensor, "m P"],
    steps: int,
    progress: Progress = silent,
    *,
    label: str = "lanczos",
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "m k"], Bool[Tensor, " m"]]:
    """Nodes, largest first, and weights of each probe's Gauss quadrature; weights add up to 1.

    Last, whether nothing was left of a probe that further steps could resolve. In a stage of a run
    that was interrupted it goes on after the last step that was kept.

    Args:
        product: with the matrix.
        probes: where to start from, each on its own.
        steps: how many nodes, at most P.
        progress: told of every step.
        label: under which it is kept: of the same number of probes under the same name.
    """
    count, size = probes.shape
    steps = min(steps, size)
    vectors = probes.new_zeros(count, steps, size)
    tridiagonal = probes.new_zeros(count, steps, steps)
    length = probes.new_zeros(count, 1)
    q = probes / probes.norm(dim=1, keepdim=True)
    with resumable(label) as kept:
        if kept.state:
            before = kept.state["vectors"].to(q)
            vectors[:, : before.shape[1]] = before
            tridiagonal, length, q = (
                kept.state[name].to(q) for name in ("tridiagonal", "length", "q")
            )
        for step in range(kept.done, steps):
            progress("lanczos", step, steps)
            vectors[:, step] = q
            residual = product(q)
            tridiagonal[:, step, step] = (residual * q).sum(1)
            # A second time, because the first leaves rounding errors of what it takes away.
            for _ in range(2):
                along = vectors[:, : step + 1] @ residual.unsqueeze(2)
                residual = residual - (vectors[:, : step + 1] * along).sum(1)
            length = residual.norm(dim=1, keepdim=True)
            # Nothing but rounding errors is left where a probe's vectors span all that it reaches;
            # to leave out so little moves no node by more.
            scale = tridiagonal.diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
            length = torch.where(length > NOTHING * scale, length, 0)
            if step + 1 < steps:
                tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = length.squeeze(1)
                q = torch.where(length > 0, residual / length, 0)
            # Of vectors those up to here, which stay as they are.
            state = {"tridiagonal": tridiagonal.clone(), "length": length, "q": q}
            # When all is done they have done their work.
            left = 0 if step + 1 == steps else step + 1
            kept.note(step + 1, {"vectors": vectors[:, :left], **state})
    progress("lanczos", steps, steps)
    values, along = torch.linalg.eigh(tridiagonal)
    ended = (length == 0).squeeze(1) | (steps == size)
    return values.flip(1).clamp(min=0), along[:, 0].square().flip(1), ended
