import pytest
import torch
from helpers.numbers import assert_close, normal, seeded

from libgraph.sections import Divided, split_norm
from libgraph.sections.quadrature import Quadrature


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


def test_where_nothing_is_long_what_is_divided_by_it_does_not_move():
    """Not by numbers that overflow when they are squared: those of a stream of zeros, without ε."""
    read, stream = normal(seeded(0), 4, 2), torch.eye(4, 3).double()
    # As everywhere what is divided is of the stream alone.
    read[-1] = 0
    skip, outer = torch.eye(6).double().split([4, 2])
    section = Divided(skip, read, stream, outer)
    x = torch.tensor([[[0, 0, 0, 1.0]], [[1, 2, 3, 1]]]).double()
    tangents = normal(seeded(1), 2, 5, 1, 4)
    along = section.linearize_along(x, Quadrature.parse("gauss-legendre:2"))(tangents)
    assert_close(along[0], tangents[0] @ skip)
    assert_close(along[1, ..., :4], tangents[1])
    assert float(along[1, ..., 4:].abs().min()) > 0
    assert not section(x)[0, 0, 4:].any()
