import pytest
import torch
from helpers.numbers import assert_close, normal, seeded

from libgraph.sections import split_norm


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_split_norm_is_the_norm_of_torch(size, centred, keep):
    stream = normal(seeded(size), 4, 3, size)
    x = torch.cat([stream, torch.ones(4, 3, 1, dtype=torch.float64)], dim=-1)
    first, second = (
        half.double() for half in split_norm(size, epsilon=1e-3, centred=centred, keep=keep)
    )
    variance = stream.var(-1, correction=0) if centred else stream.square().mean(-1)
    assert_close(first(x), torch.cat([variance.unsqueeze(-1), x], dim=-1))
    norm = torch.nn.functional.layer_norm if centred else torch.nn.functional.rms_norm
    expected = [norm(stream, (size,), eps=1e-3)] + ([stream] if keep else [])
    assert_close(second(first(x)), torch.cat([*expected, x[..., -1:]], dim=-1), 1e-9)
