"""How many parameters matter at a tolerance, by sampling: how fast a loss's volume grows.

V(ε) is the volume of {L < ε} within a box around the parameters; N_eff(ε) = 2 d log V / d log ε is
the number of eigenvalues above ε where the loss is quadratic, and holds where it is not, as when
directions are free only one at a time (arXiv 2405.10927). Every ε has chains at a temperature of
its own, at which half of what is drawn lies below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from libgraph.backend.data import Data
from libgraph.degeneracy.weights.jacobians import (
    CHUNK_BYTES,
    count_parameters,
    jacobian_gram,
    split_change,
)
from libgraph.degeneracy.weights.weights import Weight, moved, weights_of
from libgraph.errors import NumericalError, TooLarge, UsageError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

MOST_PARAMETERS = 4000
"""Beyond, a step of the chains costs too much: it turns by all eigenvectors of the Hessian."""


ACCEPTANCE = 0.574
"""At which share of accepted proposals Langevin chains move fastest in many dimensions."""


MOST_LEARNED = 512
"""Parameters up to which chains learn from their own slopes how long steps should be."""


ALIKE = 20
"""Steps of a chain that are taken to tell as much as one that has nothing to do with it."""


Loss = Callable[[Float[Tensor, " P"]], Float[Tensor, ""]]


@dataclass(frozen=True, eq=False)
class VolumeCurve:
    """Effective number of parameters over tolerances.

    Args:
        epsilons: tolerances, as given.
        effective: N_eff = 2 d log V / d log ε, as a finite ratio around each ε; NaN where too few
            chains came near.
        errors: standard errors over chains.
        drift: N_eff from the second half of the draws less that from the first: far beyond the
            errors, chains have not spread yet, and more steps are needed.
        half_widths: N_eff is averaged over log ε ± so much.
        acceptance: share of accepted proposals.
    """

    epsilons: Float[Tensor, " m"]
    effective: Float[Tensor, " m"]
    errors: Float[Tensor, " m"]
    drift: Float[Tensor, " m"]
    half_widths: Float[Tensor, " m"]
    acceptance: Float[Tensor, " m"]


@torch.no_grad()
def local_volume(
    loss: Loss,
    centre: Float[Tensor, " P"],
    epsilons: Sequence[float],
    *,
    radius: float,
    chains: int = 64,
    steps: int = 2000,
    seed: int = 0,
    hessian: Float[Tensor, "P P"] | None = None,
    half_width: float = 0.3,
    at_once: int | None = None,
    progress: Progress = silent,
) -> VolumeCurve:
    """N_eff(ε) of a loss within |θ_i − centre_i| ≤ radius.

    Metropolis-adjusted Langevin chains draw from exp(−β L) on the box, reflected at its walls;
    those of neighbouring ε change places. What is drawn below ε e^±h, weighted by exp(β L), gives
    the ratio of V(ε e^h) and V(ε e^−h). In the first third of the steps temperatures and step
    sizes adapt.

    Args:
        loss: of one vector of parameters, never negative; it is batched and differentiated.
        centre: where it is zero, or lowest.
        epsilons: tolerances. A dense grid that reaches far up mixes best.
        radius: half the box's side.
        chains: independent ones for each ε, at least 2.
        steps: of every chain, warming up included.
        seed: of all that is random.
        hessian: of the loss at the centre; the first steps are then long where it is flat.
        half_width: in log ε, of what the growth is averaged over, at most: errors grow as its
            inverse square root, what it smooths away shrinks.
        at_once: how many losses are computed together; all by default.

    Raises:
        UsageError: for tolerances or a radius that are not positive, or too few chains or steps.
        NumericalError: if the loss at the centre is not finite.
    """
    wanted = torch.tensor(epsilons, dtype=torch.float64)
    if not len(wanted) or not bool(((wanted > 0) & wanted.isfinite()).all()) or not radius > 0:
        raise UsageError("Tolerances and the radius of the box must be positive numbers.")
    if chains < 2 or steps < 30:
        raise UsageError(f"{chains} chains of {steps} steps: use at least 2 chains of 30 steps.")
    if not half_width > 0:
        raise UsageError(f"A half-width of {half_width}: use a positive number, such as 0.3.")
    order = wanted.argsort(descending=True)
    sampler = _Sampler(loss, centre, wanted[order], radius, chains, seed, hessian, at_once)
    warm = steps // 3
    drawn, accepted = [], torch.zeros_like(sampler.beta)
    for step in range(steps):
        progress("volume", step, steps)
        if step < warm:
            sampler.adapt(sampler.step(), step / warm)
        else:
            accepted += sampler.step()
            drawn.append(sampler.losses)
    progress("volume", steps, steps)
    back = order.argsort()
    growth = _growth(torch.stack(drawn), sampler.beta, sampler.epsilons, half_width)
    found = (each.cpu()[back] for each in (*growth, accepted / len(drawn)))
    return VolumeCurve(wanted, *found)


def network_volume(
    network: Network,
    data: Data,
    epsilons: Sequence[float],
    weights: Sequence[Weight] | None = None,
    *,
    radius: float,
    chains: int = 64,
    steps: int = 2000,
    seed: int = 0,
    half_width: float = 0.3,
    progress: Progress = silent,
) -> VolumeCurve:
    """N_eff(ε) of the behavioural loss on all of the data at once.

    Args:
        weights: whose entries move, all by default.
        radius: how far each entry may move.
        chains, steps, seed, half_width: as for `local_volume`.

    Raises:
        TooLarge: for more than `MOST_PARAMETERS` parameters.
        UsageError: for no parameters, and as `local_volume`.
        NumericalError: if the network's outputs are not finite.
    """
    weights = weights_of(network) if weights is None else weights
    parameters = count_parameters(weights)
    if not parameters:
        raise UsageError("A volume without parameters: choose weights that are trained.")
    if parameters > MOST_PARAMETERS:
        raise TooLarge(
            f"{parameters} parameters are too many to sample their volume: choose weights with at "
            f"most {MOST_PARAMETERS}, or count eigenvalues (behaviour_spectrum) instead."
        )
    inputs = torch.cat([batch.inputs for batch in data])
    with torch.no_grad():
        outputs = network(inputs)
        held = sum(x.numel() * x.element_size() for x in network.activations(inputs))

    def loss(flat: Tensor) -> Tensor:
        tensors = moved(split_change(flat, weights))
        difference: Tensor = (
            functional_call(network, tensors, (inputs,), tie_weights=False) - outputs
        )
        return difference.square().sum() / len(inputs)

    return local_volume(
        loss,
        torch.zeros(parameters).to(outputs),
        epsilons,
        radius=radius,
        chains=chains,
        steps=steps,
        seed=seed,
        hessian=jacobian_gram(network, inputs, weights) * (2 / len(inputs)),
        half_width=half_width,
        at_once=max(1, CHUNK_BYTES // held),
        progress=progress,
    )


class _Sampler:
    """Chains `(tolerances, chains)` in the box, whose coordinates run from −1 to 1."""

    def __init__(
        self,
        loss: Loss,
        centre: Tensor,
        epsilons: Tensor,
        radius: float,
        chains: int,
        seed: int,
        hessian: Tensor | None,
        at_once: int | None,
    ) -> None:
        self.centre, self.radius = centre.detach(), radius
        self.epsilons = epsilons.to(device=centre.device)
        self.generator = torch.Generator().manual_seed(seed)
        self.both = vmap(grad_and_value(loss), chunk_size=at_once)
        self.curvatures = centre.new_zeros(len(centre), dtype=torch.float64)
        self.turn: Tensor | None = None
        self.hessian: Tensor | None = None
        if hessian is not None:
            self.hessian = hessian.to(self.curvatures) * radius**2
            values, self.turn = torch.linalg.eigh(self.hessian)
            self.curvatures = values.clamp(min=0)
        self.squares, self.counted = self.curvatures.new_zeros(()), 0
        self.beta = len(centre) / (2 * self.epsilons) if hessian is None else self._quadratic()
        self.scale = torch.full_like(self.beta, len(centre) ** (-1 / 3))
        self.odd, self.next = 0, 0.375
        self.x = self.curvatures.new_zeros(len(epsilons), chains, len(centre))
        self.losses, self.slopes = self._look(self.x)
        if not bool(self.losses.isfinite().all()):
            raise NumericalError("The loss at the centre of the box is NaN or infinite.")

    def step(self) -> Float[Tensor, " m"]:
        """Move every chain once, then let neighbours change places; the shares that moved."""
        moves = self._move()
        self._exchange()
        return moves

    def adapt(self, accepted: Tensor, done: float) -> None:
        """Lead the median loss to ε and the acceptance to its best value, ever more gently."""
        gain = 0.5 * min(1.0, 0.25 / (done + 1e-9))
        self.scale = self.scale * ((accepted - ACCEPTANCE) * gain).exp()
        # Chains that have not yet spread from the centre say nothing about the temperature.
        if done < 0.25:
            return
        self._learn(done)
        # Along a power law the loss changes as much as the temperature.
        off = (self.losses.median(1).values / self.epsilons).log().clamp(-1, 1)
        self.beta = self.beta * (off * gain / 5).exp()
        # Where the loss never gets as high as ε, any temperature will do that is as good as none;
        # and chains that are slow to come down must not be frozen on the way.
        most = 4 * self.x.shape[2] / self.epsilons
        self.beta = self.beta.clamp(1e-9 / self.epsilons, most)

    def _quadratic(self) -> Float[Tensor, " m"]:
        """At which β the mean loss would be ε were it quadratic, by bisection."""
        low, high = torch.full_like(self.epsilons, -100), torch.full_like(self.epsilons, 100)
        for _ in range(60):
            middle = (low + high) / 2
            curved = middle.exp().unsqueeze(1) * self.curvatures
            above = (self.curvatures / (curved + 3)).sum(1) / 2 > self.epsilons
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return low.exp().clamp(min=1e-9 / self.epsilons)

    def _learn(self, done: float) -> None:
        """Mean curvatures, from slopes: E[∇²L] = β E[∇L ∇Lᵀ] but for what the walls add.

        Each eighth of the warming up, what was seen in it takes the place of what was known.
        """
        if self.x.shape[2] > MOST_LEARNED:
            return
        self.squares = self.squares + self.slopes.transpose(1, 2) @ self.slopes
        self.counted += self.x.shape[1]
        if done < self.next:
            return
        squares = self.squares / self.counted * self.beta[:, None, None]
        # Steps that follow each other are alike: fewer count, and what they leave open stays.
        share = self.counted / (self.counted + ALIKE * self.x.shape[2])
        known = torch.zeros_like(squares) if self.hessian is None else self.hessian
        values, self.turn = torch.linalg.eigh(share * squares + (1 - share) * known)
        self.curvatures = values.clamp(min=0).unsqueeze(1)
        self.scale = torch.full_like(self.scale, self.x.shape[2] ** (-1 / 3))
        self.squares, self.counted = torch.zeros_like(self.squares), 0
        self.next += 0.125

    def _move(self) -> Float[Tensor, " m"]:
        step, beta = self.scale[:, None, None], self.beta[:, None, None]
        # 3 is what the width of the box alone gives: the inverse variance of a uniform number.
        root = (beta * self.curvatures + 3).rsqrt()
        noise = self._normal(self.x.shape)
        ahead = noise * (2 * step).sqrt() - step * root * beta * self._turned(self.slopes)
        reached, sign, shift = _folded(self.x + self._back(root * ahead))
        losses, slopes = self._look(reached)
        # The way back starts from the reflected point, and must lead to the same reflection.
        target = sign * (self.x - shift) - reached
        behind = self._turned(target) / root + step * root * beta * self._turned(slopes)
        odds = (noise.square() - behind.square() / (2 * step)).sum(2) / 2
        odds = odds + self.beta[:, None] * (self.losses - losses)
        taken = self._uniform(odds.shape).log() < odds
        self.losses = torch.where(taken, losses, self.losses)
        self.x = torch.where(taken.unsqueeze(2), reached, self.x)
        self.slopes = torch.where(taken.unsqueeze(2), slopes, self.slopes)
        return taken.double().mean(1)

    def _exchange(self) -> None:
        """Neighbours in ε swap states, so that cold chains get across what only warm ones cross."""
        self.odd = 1 - self.odd
        lower = torch.arange(len(self.beta) - 1, device=self.x.device)[self.odd :: 2]
        odds = (self.beta[lower] - self.beta[lower + 1]).unsqueeze(1)
        odds = odds * (self.losses[lower] - self.losses[lower + 1])
        swap = (self._uniform(odds.shape).log() < odds).long()
        source = torch.arange(len(self.beta), device=self.x.device)
        source = source.unsqueeze(1).repeat(1, self.x.shape[1])
        source[lower] += swap
        source[lower + 1] -= swap
        self.losses = self.losses.gather(0, source)
        source = source.unsqueeze(2).expand_as(self.x)
        self.x, self.slopes = self.x.gather(0, source), self.slopes.gather(0, source)

    def _look(self, x: Float[Tensor, "m c P"]) -> tuple[Tensor, Tensor]:
        """Losses, and their gradients in the box's coordinates."""
        places = self.centre + (self.radius * x.flatten(0, 1)).to(self.centre)
        slopes, losses = self.both(places)
        losses, slopes = (each.double().unflatten(0, x.shape[:2]) for each in (losses, slopes))
        return losses, self.radius * slopes

    def _turned(self, x: Tensor) -> Tensor:
        return x if self.turn is None else x @ self.turn

    def _back(self, x: Tensor) -> Tensor:
        return x if self.turn is None else x @ self.turn.mT

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.x)

    def _uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).to(self.x)


def _folded(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in the box with u = sign·x + shift: u reflected at the walls as often as need be."""
    cells = ((u + 1) / 2).floor()
    sign = 1 - 2 * cells.remainder(2)
    shift = 2 * cells
    return sign * (u - shift), sign, shift


def _growth(
    drawn: Float[Tensor, "s m c"],
    beta: Float[Tensor, " m"],
    epsilons: Float[Tensor, " m"],
    widest: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """N_eff, its standard error and drift, and the half-width in log ε."""
    # Where the loss is zero in a whole region its logarithm still has to be a number.
    logs = (drawn / epsilons.unsqueeze(1)).log().clamp(min=-1e3)
    chains, half = drawn.shape[2], len(drawn) // 2
    # As wide as what is drawn: wider, and nothing is there; narrower, and there is more noise.
    ordered = logs.transpose(0, 1).flatten(1).sort(1).values
    low, high = (ordered[:, int(share * ordered.shape[1])] for share in (0.16, 0.84))
    widths = torch.where(high > low, (high - low) / 2, widest).clamp(max=widest)
    weighted = (beta.unsqueeze(1) * (drawn - epsilons.unsqueeze(1))).exp()

    def volumes(side: int) -> tuple[Tensor, Tensor, Tensor]:
        below = torch.where(logs < side * widths.unsqueeze(1), weighted, 0)
        by_chain = below.sum(0)
        whole = by_chain.sum(1, keepdim=True)
        halves = torch.stack([part.sum((0, 2)) for part in (below[:half], below[half:])], dim=1)
        return whole, whole - by_chain, halves

    # Twice the logarithm of the ratio, over a window of twice the half-width.
    whole, without, halves = (
        (upper / lower).log() / widths.unsqueeze(1)
        for upper, lower in zip(volumes(1), volumes(-1), strict=True)
    )
    mean = without.mean(1)
    # The jackknife: chains left out one by one give the error, and the bias of a ratio.
    effective = chains * whole.squeeze(1) - (chains - 1) * mean
    errors = ((chains - 1) * (without - mean.unsqueeze(1)).square().mean(1)).sqrt()
    effective = torch.where(effective.isfinite(), effective, torch.nan)
    return effective, errors, halves[:, 1] - halves[:, 0], widths
