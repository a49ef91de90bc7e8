"""Chains that draw parameters from a box by their loss, at many temperatures side by side.

Metropolis-adjusted Langevin steps, reflected at the walls of the box; neighbours in temperature
change places. In the warming up temperatures and step sizes adapt, and chains learn from their own
slopes how long steps should be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value, vmap

from libgraph.errors import NumericalError, UsageError

ACCEPTANCE = 0.574
"""At which share of accepted proposals Langevin chains move fastest in many dimensions."""


MOST_LEARNED = 512
"""Parameters up to which chains learn from their own slopes how long steps should be."""


ALIKE = 20
"""Steps of a chain that are taken to tell as much as one that has nothing to do with it."""


Loss = Callable[[Float[Tensor, " P"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Sampling:
    """How a volume is sampled.

    Args:
        radius: half the side of the box around the parameters.
        chains: independent ones for each ε, at least 2.
        steps: of every chain, at least 30, the warming up in the first third included.
        seed: of all that is random.
        half_width: in log ε, of what the growth is averaged over, at most: errors grow as its
            inverse square root, what it smooths away shrinks.

    Raises:
        UsageError: if one of them is out of its range.
    """

    radius: float
    chains: int = 64
    steps: int = 2000
    seed: int = 0
    half_width: float = 0.3

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise UsageError(f"A box of radius {self.radius}: use a positive number.")
        if self.chains < 2 or self.steps < 30:
            raise UsageError(
                f"{self.chains} chains of {self.steps} steps: use at least 2 chains of 30 steps."
            )
        if not self.half_width > 0:
            raise UsageError(
                f"A half-width of {self.half_width}: use a positive number, such as 0.3."
            )


class Chains:
    """Chains `(tolerances, chains)` in the box, whose coordinates run from −1 to 1.

    Args:
        loss: of one vector of parameters; it is batched and differentiated.
        centre: of the box.
        epsilons: tolerances, largest first.
        sampling: how chains draw.
        hessian: of the loss at the centre; without it steps are as long in every direction.
        at_once: how many losses are computed together; all for None.

    Raises:
        NumericalError: if the loss at the centre is not finite.
    """

    def __init__(
        self,
        loss: Loss,
        centre: Tensor,
        epsilons: Tensor,
        sampling: Sampling,
        hessian: Tensor | None,
        at_once: int | None,
    ) -> None:
        radius = sampling.radius
        self.centre, self.radius = centre.detach(), radius
        self.epsilons = epsilons.to(device=centre.device)
        self.generator = torch.Generator().manual_seed(sampling.seed)
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
        self.x = self.curvatures.new_zeros(len(epsilons), sampling.chains, len(centre))
        self.losses, self.slopes = self._look(self.x)
        if not bool(self.losses.isfinite().all()):
            raise NumericalError("The loss at the centre of the box is NaN or infinite.")

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step; later steps leave these tensors as they are."""
        tensors = {
            name: getattr(self, name)
            for name in ("curvatures", "squares", "beta", "scale", "x", "losses", "slopes")
        }
        numbers = torch.tensor([self.counted, self.odd, self.next], dtype=torch.float64)
        turn = {} if self.turn is None else {"turn": self.turn}
        return {**tensors, **turn, "numbers": numbers, "random": self.generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Be as it was when this was its state."""
        for name, tensor in state.items():
            if name not in ("numbers", "random"):
                setattr(self, name, tensor.to(self.x.device))
        counted, odd, self.next = state["numbers"].tolist()
        self.counted, self.odd = int(counted), int(odd)
        self.generator.set_state(state["random"])

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
        before = torch.zeros_like(squares) if self.hessian is None else self.hessian
        values, self.turn = torch.linalg.eigh(share * squares + (1 - share) * before)
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
        reached, sign, shift = folded(self.x + self._back(root * ahead))
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
        losses, slopes = (t.double().unflatten(0, x.shape[:2]) for t in (losses, slopes))
        return losses, self.radius * slopes

    def _turned(self, x: Tensor) -> Tensor:
        return x if self.turn is None else x @ self.turn

    def _back(self, x: Tensor) -> Tensor:
        return x if self.turn is None else x @ self.turn.mT

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.x)

    def _uniform(self, shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).to(self.x)


def folded(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in the box with u = sign·x + shift: u reflected at the walls as often as need be."""
    cells = ((u + 1) / 2).floor()
    sign = 1 - 2 * cells.remainder(2)
    shift = 2 * cells
    return sign * (u - shift), sign, shift
