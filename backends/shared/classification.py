"""How well a classifier does on samples that it was not trained on."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def test_figures(
    outputs: Float[Tensor, "n classes"], targets: Int[Tensor, " n"]
) -> dict[str, float]:
    """Mean cross-entropy in nats, and the share of samples whose class has the largest output."""
    right = outputs.argmax(-1) == targets
    return {
        "test_loss": float(cross_entropy(outputs, targets)),
        "test_accuracy": float(right.double().mean()),
    }
