"""Outputs that keep some of the inputs: every mask is met once, whatever goes side by side."""

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ATTENTIONS, KINDS, random_section
from hypothesis import given
from hypothesis import strategies as st

from libgraph.sections import kept_inputs
from libgraph.sections.attention import kept as attention_kept
from libgraph.sections.kept_inputs import growing_products, sort_masks


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 9))
def test_every_output_is_in_one_place_with_what_it_keeps(d_in, d_out, share, seed):
    keep = torch.rand(d_in, d_out, generator=seeded(seed)) < share
    # Some masks are shared, as that of outputs which keep nothing but the constant.
    keep = keep[:, torch.randint(0, d_out, (d_out,), generator=seeded(seed + 1))]
    met = []
    for masks in sort_masks(keep):
        sizes = (masks.rows < d_in).sum(1)
        assert int(sizes.min()) >= kept_inputs.PADDING * int(sizes.max())
        for rows, columns, counted in zip(*masks, strict=True):
            assert rows.tolist() == sorted(rows.tolist())
            for column in columns[counted].tolist():
                assert rows[rows < d_in].tolist() == keep[:, column].nonzero().squeeze(1).tolist()
                met.append(column)
    assert sorted(met) == list(range(d_out))


def left_out(section, x, keep):
    return torch.stack([section(x * mask)[..., i] for i, mask in enumerate(keep.T)], -1)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_do_not_matter(kind, monkeypatch):
    section, x = random_section(kind, 5, 4), normal(seeded(1), 3, 3, 5)
    keep = torch.rand(5, 4, generator=seeded(2)) < 0.6
    monkeypatch.setattr(kept_inputs, "CACHE_BYTES", 1)
    assert_close(section.masked(x, keep), left_out(section, x, keep))


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_queries_go_block_by_block(kind, block, monkeypatch):
    section, x = random_section(kind, 4, 6, width=3), normal(seeded(3), 2, 7, 4)
    monkeypatch.setattr(attention_kept, "BLOCK", block)
    for share in (0.3, 1.0):
        keep = torch.rand(4, 6, generator=seeded(4)) < share
        assert_close(section.masked(x, keep), left_out(section, x, keep))


@pytest.mark.parametrize("d_in", [2, 30])
@pytest.mark.parametrize("kind", ATTENTIONS)
def test_few_inputs_and_many(kind, d_in):
    """Products of factors are made first where that is less, and else queries and keys."""
    section, x = random_section(kind, d_in, 9), normal(seeded(5), 2, 4, d_in) / d_in
    keep = torch.rand(d_in, 9, generator=seeded(6)) < 0.9
    keep[:, 5:] = keep[:, :1]
    assert_close(section.masked(x, keep), left_out(section, x, keep))


def test_products_grow():
    x, factors = normal(seeded(7), 2, 3, 5), [normal(seeded(i), 5, i) for i in (1, 4)]
    sizes = [0, 2, 2, 5]
    for size, products in zip(sizes, growing_products(x, factors, sizes), strict=True):
        for product, factor in zip(products, factors, strict=True):
            assert_close(product, x[..., :size] @ factor[:size])
