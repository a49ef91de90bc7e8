"""Attention with norms of queries and keys, against one head and one query at a time."""

import pytest
import torch
from helpers.numbers import assert_close

from libgraph.sections import Attention, AttentionMask, NormedAttention
from libgraph.testing import check_section


def parts(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(5, 4), (5, 8), (5, 4), (5, 4), (8, 4)]
    return [torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes]


def rms(x, scale, epsilon):
    return x / (x.square().mean() + epsilon).sqrt() * scale


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_it_is_what_it_says(wide, cap):
    skip, query, key, value, output = parts()
    g = torch.arange(1.0, 9.0).double() if wide else torch.arange(1.0, 5.0).double()
    h = torch.tensor([2.0, 1.0, 3.0, 1.0]).double()
    section = NormedAttention(
        skip, query, key, value, output, heads=2, scale=0.7, soft_cap=cap,
        query_norm=(g, 0.1), key_norm=(h, 0.2),
    )  # fmt: skip
    x = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in range(3):
        y = x[0, t] @ skip
        queries = x[0, t] @ query
        if wide:
            queries = rms(queries, g, 0.1)
        for head in range(2):
            q = queries[4 * head : 4 * head + 4]
            q = q if wide else rms(q, g, 0.1)
            scores = torch.stack([0.35 * q @ rms(x[0, s] @ key, h, 0.2) for s in range(t + 1)])
            scores = scores if cap is None else cap * torch.tanh(scores / cap)
            mixed = scores.softmax(0) @ (x[0, : t + 1] @ value)
            y = y + mixed @ output[4 * head : 4 * head + 4]
        assert_close(section(x)[0, t], y, 1e-12)


def test_it_keeps_the_contract():
    skip, query, key, value, output = parts()
    scale = torch.tensor([1.0, 2.0, 0.5, 1.0]).double()
    section = NormedAttention(
        skip, query, key, value, output, heads=2, mask=AttentionMask(window=2),
        rotary=torch.tensor([1.0, 0.3]).double(), query_norm=(scale, 0.1), key_norm=(scale, 0.2),
    )  # fmt: skip
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    check_section(section, x)


def test_a_prefix_is_a_position_before_the_others():
    skip, query, key, value, output = parts()
    scale = torch.tensor([1.0, 2.0, 0.5, 1.0]).double()
    options = {"heads": 2, "rotary": torch.tensor([1.0, 0.3]).double()}
    section = NormedAttention(
        skip, query, key, value, output, **options, query_norm=(scale, 0.1), key_norm=(scale, 0.2)
    )
    x = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_close(section.with_prefix(x[0, :1])(x[:, 1:]), section(x)[:, 1:], 1e-12)
    # Without norms it is attention.
    plain = NormedAttention(skip, query, key, value, output, **options)
    assert_close(plain(x), Attention(skip, query, key, value, output, **options)(x), 1e-12)
