"""Numbers for tests: seeded draws in float64, and when two tensors agree."""

import torch
from torch import Tensor


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal shapes, and entries that agree relative to the largest."""
    assert actual.shape == expected.shape
    actual, expected = actual.detach(), expected.detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    assert float((actual - expected).abs().max()) <= tolerance * (scale or 1.0)


def assert_within(
    actual: Tensor, expected: Tensor | float, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Equal shapes, and entries that agree relative to the largest, or to an absolute bound."""
    expected = torch.as_tensor(expected).to(actual.dtype)
    bound = max(atol, rtol * float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
