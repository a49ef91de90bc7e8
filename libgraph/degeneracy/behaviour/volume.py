"""How many parameters matter at a tolerance, by sampling: how fast a loss's volume grows.

V(ε) is the volume of {L < ε} within a box around the parameters; N_eff(ε) = 2 d log V / d log ε is
the number of eigenvalues above ε where the loss is quadratic, and holds where it is not, as when
directions are free only one at a time (arXiv 2405.10927). Every ε has chains at a temperature of
its own, at which half of what is drawn lies below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from libgraph.accumulate.halfway import steps as resumable
from libgraph.accumulate.memory import chunk_bytes
from libgraph.backend.data import Data
from libgraph.degeneracy.behaviour.chains import Chains, Loss, Sampling
from libgraph.degeneracy.weights.jacobians import (
    CHUNK_BYTES,
    count_parameters,
    jacobian_gram,
    split_change,
)
from libgraph.degeneracy.weights.weights import Weight, moved, weights_of
from libgraph.errors import TooLarge, UsageError
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

MOST_PARAMETERS = 4000
"""Beyond, a step of the chains costs too much: it turns by all eigenvectors of the Hessian."""


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
    sampling: Sampling,
    *,
    hessian: Float[Tensor, "P P"] | None = None,
    at_once: int | None = None,
    progress: Progress = silent,
) -> VolumeCurve:
    """N_eff(ε) of a loss within |θ_i − centre_i| ≤ radius.

    Chains draw from exp(−β L) on the box. What is drawn below ε e^±h, weighted by exp(β L), gives
    the ratio of V(ε e^h) and V(ε e^−h).

    Args:
        loss: of one vector of parameters, never negative; it is batched and differentiated.
        centre: where it is zero, or lowest.
        epsilons: tolerances. A dense grid that reaches far up mixes best.
        sampling: the box, and how chains draw from it.
        hessian: of the loss at the centre; the first steps are then long where it is flat.
        at_once: how many losses are computed together; all by default.

    Raises:
        UsageError: for tolerances that are not positive.
        NumericalError: if the loss at the centre is not finite.
    """
    wanted = torch.tensor(epsilons, dtype=torch.float64)
    if not len(wanted) or not bool(((wanted > 0) & wanted.isfinite()).all()):
        raise UsageError("Tolerances of a volume must be positive numbers.")
    order = wanted.argsort(descending=True)
    chains = Chains(loss, centre, wanted[order], sampling, hessian, at_once)
    steps, warm = sampling.steps, sampling.steps // 3
    accepted = torch.zeros_like(chains.beta)
    drawn = chains.losses.new_zeros(steps - warm, *chains.losses.shape)
    with resumable("volume") as kept:
        if kept.state:
            state = {name: tensor.to(drawn.device) for name, tensor in kept.state.items()}
            before, accepted = state.pop("drawn"), state.pop("accepted")
            drawn[: len(before)] = before
            chains.restore({**state, "random": kept.state["random"]})
        for step in range(kept.done, steps):
            progress("volume", step, steps)
            if step < warm:
                chains.adapt(chains.step(), step / warm)
            else:
                accepted = accepted + chains.step()
                drawn[step - warm] = chains.losses
            past = {"drawn": drawn[: max(step + 1 - warm, 0)], "accepted": accepted}
            kept.note(step + 1, {**chains.state(), **past})
    progress("volume", steps, steps)
    growth = _growth(drawn, chains.beta, chains.epsilons, sampling.half_width)
    back = order.argsort()
    columns = (column.cpu()[back] for column in (*growth, accepted / len(drawn)))
    return VolumeCurve(wanted, *columns)


def network_volume(
    network: Network,
    data: Data,
    epsilons: Sequence[float],
    sampling: Sampling,
    weights: Sequence[Weight] | None = None,
    progress: Progress = silent,
) -> VolumeCurve:
    """N_eff(ε) of the behavioural loss on all of the data at once.

    Args:
        epsilons: tolerances.
        sampling: how far each entry may move, and how chains draw.
        weights: whose entries move, all by default.

    Raises:
        TooLarge: for more than `MOST_PARAMETERS` parameters.
        UsageError: for no parameters, and as `local_volume`.
        NumericalError: if the network's outputs are not finite.
    """
    weights = weights_of(network) if weights is None else weights
    parameters = sampled_parameters(weights)
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
        sampling,
        hessian=jacobian_gram(network, inputs, weights, data.memory) * (2 / len(inputs)),
        at_once=max(1, chunk_bytes(CHUNK_BYTES, data.memory) // held),
        progress=progress,
    )


def sampled_parameters(weights: Sequence[Weight]) -> int:
    """How many entries these weights have, once a volume of so many can be sampled.

    Raises:
        TooLarge: for more than `MOST_PARAMETERS`.
        UsageError: for none.
    """
    parameters = count_parameters(weights)
    if not parameters:
        raise UsageError("A volume without parameters: choose weights that are trained.")
    if parameters > MOST_PARAMETERS:
        raise TooLarge(
            f"{parameters} parameters are too many to sample their volume, which takes at most "
            f"{MOST_PARAMETERS}: count eigenvalues alone (volume=False, behaviour_spectrum)."
        )
    return parameters


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
        total = by_chain.sum(1, keepdim=True)
        halves = torch.stack([part.sum((0, 2)) for part in (below[:half], below[half:])], dim=1)
        return total, total - by_chain, halves

    # Twice the logarithm of the ratio, over a window of twice the half-width.
    together, without, halves = (
        (upper / lower).log() / widths.unsqueeze(1)
        for upper, lower in zip(volumes(1), volumes(-1), strict=True)
    )
    mean = without.mean(1)
    # The jackknife: chains left out one by one give the error, and the bias of a ratio.
    effective = chains * together.squeeze(1) - (chains - 1) * mean
    errors = ((chains - 1) * (without - mean.unsqueeze(1)).square().mean(1)).sqrt()
    effective = torch.where(effective.isfinite(), effective, torch.nan)
    return effective, errors, halves[:, 1] - halves[:, 0], widths
