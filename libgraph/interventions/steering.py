"""Steering: what a network says of one input when features are changed, and how it goes on.

Probabilities are softmax of the backend's logits at the last position. A text goes on with the most
probable token, or with one drawn at a temperature, with the same draws with and without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.errors import UsageError
from libgraph.interventions.changes import Intervention
from libgraph.interventions.intervene import intervene
from libgraph.interventions.subject import Subject
from libgraph.progress import Progress, silent


@dataclass(frozen=True)
class Steered:
    """Probabilities of what comes next, and what came.

    Args:
        base: of every class or token without the intervention `(c)`.
        steered: with it.
        base_chosen: numbers of the classes or tokens that followed without it.
        chosen: with it.
    """

    base: Float[Tensor, " c"]
    steered: Float[Tensor, " c"]
    base_chosen: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()

    def strongest(self, top: int = 10) -> list[int]:
        """Classes whose probability changes most, the largest change first."""
        change = (self.steered - self.base).abs()
        return change.argsort(descending=True, stable=True)[:top].tolist()


def steer(
    subject: Subject,
    intervention: Intervention,
    inputs: Tensor,
    *,
    tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Steered:
    """Change features while the network looks at one input, and let it go on.

    Args:
        subject: whose features.
        intervention: what is done, at every step.
        inputs: raw inputs of one sample.
        tokens: how many follow.
        temperature: of the choice of each; 0 for the most probable.
        seed: of the draws.
        progress: told after each token.

    Raises:
        UsageError: if there is no such feature, position or temperature, or outputs do not continue
            inputs.
    """
    if not 0 <= temperature < math.inf:
        raise UsageError(f"A temperature of {temperature} is none: use 0 or more.")
    probabilities = first = _probabilities(subject, intervention, inputs, inputs)
    chosen: tuple[list[int], list[int]] = ([], [])
    texts = [inputs, inputs]
    generator = torch.Generator().manual_seed(seed)
    for step in range(tokens):
        progress("continuation", step, tokens)
        if step:
            probabilities = _probabilities(subject, intervention, *texts)
        draw = torch.rand((), generator=generator, dtype=torch.float64)
        for which in range(2):
            token = _choice(probabilities[which], temperature, draw)
            chosen[which].append(token)
            texts[which] = subject.backend.continued(texts[which], token)
    if tokens:
        progress("continuation", tokens, tokens)
    return Steered(first[0], first[1], tuple(chosen[0]), tuple(chosen[1]))


def _probabilities(
    subject: Subject, intervention: Intervention, base: Tensor, steered: Tensor
) -> list[Float[Tensor, " c"]]:
    """Of what follows one text without and another with the intervention."""
    with torch.no_grad():
        plain = subject.network(base)
    changed = intervene(subject, [intervention], steered, outputs=True).outputs
    both = [plain] if changed is None else [plain, changed[0]]
    return [subject.logits(outputs)[0, -1].double().softmax(-1).cpu() for outputs in both]


def _choice(probabilities: Float[Tensor, " c"], temperature: float, draw: Tensor) -> int:
    """The most probable, or the one that a draw from [0, 1) falls on."""
    if temperature == 0:
        return int(probabilities.argmax())
    sharpened = ((probabilities / probabilities.max()).log() / temperature).softmax(-1)
    return min(int((sharpened.cumsum(-1) <= draw).sum()), len(probabilities) - 1)
