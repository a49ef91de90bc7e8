"""What a graph of one input explains: some logits at the last position, as one more section."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.interventions.subject import Subject
from libgraph.sections.section import LinearMap, Section


class Readout(Section):
    """Outputs of a network to the logits of some classes at the last position.

    Args:
        subject: whose logits.
        numbers: of the classes.
    """

    numbers: Tensor

    def __init__(self, subject: Subject, numbers: Sequence[int]) -> None:
        super().__init__(subject.network.node_layers[-1].size, len(numbers))
        self.logits = subject.logits
        self.plain = not subject.has_logits and not subject.network.node_layers[-1].rotated
        self.register_buffer("numbers", torch.tensor(numbers))

    def forward(self, x: Float[Tensor, "n s d_in"]) -> Float[Tensor, "n 1 d_out"]:
        """The logits, whose position is the only one."""
        return self.logits(x)[:, -1:, self.numbers]

    def linearize(self, x: Float[Tensor, "n s d_in"]) -> LinearMap:
        """By one gradient for each class, which are few."""
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            gradients = torch.stack(
                [
                    torch.autograd.grad(logits.sum(), at, retain_graph=True)[0]
                    for logits in self(at)[:, 0].unbind(-1)
                ]
            )
        return lambda tangents: torch.einsum("nksd,cnsd->nkc", tangents, gradients).unsqueeze(2)
