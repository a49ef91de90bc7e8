"""Masks walked as a tree, and tables where activations repeat: the same as leaving inputs out."""

from dataclasses import replace
from math import log2

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import random_section
from hypothesis import given
from hypothesis import strategies as st

from libgraph.sections import mask_tree
from libgraph.sections.attention.attention import Attention
from libgraph.sections.attention.heads import AttentionMask
from libgraph.sections.attention.repeated import repeated
from libgraph.sections.mask_tree import MaskTree


@given(
    st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0, 0.3), st.integers(0, 9)
)
def test_a_walk_comes_to_every_mask_once(d_in, d_out, share, noise, seed):
    """About nested, as those of edges are, with some that are not and some that are shared."""
    generator = seeded(seed)
    strength = torch.rand(d_in, 1, generator=generator) * torch.rand(d_out, generator=generator)
    keep = strength + noise * torch.randn(d_in, d_out, generator=generator) > share / 2
    keep = keep[:, torch.randint(0, d_out, (d_out,), generator=generator)]
    tree = MaskTree.of(keep)
    held: dict[int, list[int]] = {}
    met = []
    for step in tree.steps:
        before = [] if step.source is None else held[step.source]
        assert not set(before) & set(step.added.tolist())
        held[step.target] = [*before, *step.added.tolist()]
        for column in tree.columns[step.columns].tolist():
            assert sorted(held[step.target]) == keep[:, column].nonzero().squeeze(1).tolist()
            met.append(column)
    assert sorted(met) == list(range(d_out))
    assert len(held) == tree.slots <= log2(len(tree.steps)) + 1
    assert tree.additions <= int(torch.unique(keep, dim=1).sum())


def test_nested_masks_add_every_input_once():
    order = torch.randperm(30, generator=seeded(1))
    sizes = torch.randint(0, 31, (50,), generator=seeded(2))
    keep = order.argsort()[:, None] < sizes
    assert MaskTree.of(keep).additions == int(sizes.max())


@pytest.mark.parametrize("block_bytes", [1, 200, 2**20])
def test_products_are_those_of_what_is_kept(block_bytes, monkeypatch):
    monkeypatch.setattr(mask_tree, "BLOCK_BYTES", block_bytes)
    x, factors = normal(seeded(3), 5, 2, 9), [normal(seeded(i), 9, i) for i in (4, 5)]
    keep = torch.rand(9, 12, generator=seeded(6)) < torch.rand(9, 1, generator=seeded(7))
    tree, met = MaskTree.of(keep), torch.zeros(12, 5)
    for columns, samples, products in tree.products(x, factors):
        for column in tree.columns[columns].tolist():
            kept = (x[samples] * keep[:, column]).flatten(0, 1)
            for product, factor in zip(products, factors, strict=True):
                assert_close(product, kept @ factor)
            met[column, samples] += 1
    assert bool((met == 1).all())


def left_out(section, x, keep):
    return torch.stack([section(x * mask)[..., i] for i, mask in enumerate(keep.T)], -1)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["relu", "gelu", "gated", "parallel-positionwise"])
def test_hidden_units_along_a_tree(kind, share, monkeypatch):
    monkeypatch.setattr(mask_tree, "STEP_ELEMENTS", 1)
    monkeypatch.setattr(mask_tree, "BLOCK_BYTES", 300)
    section, x = random_section(kind, 6, 11), normal(seeded(8), 3, 4, 6)
    keep = torch.rand(6, 11, generator=seeded(9)) < share
    assert_close(section.masked(x, keep), left_out(section, x, keep))


TABLES = {
    "plain": AttentionMask(last_only=True),
    "window": AttentionMask(last_only=True, window=2),
    "all": AttentionMask(causal=False, last_only=True),
}


def tokens(generator, samples=160):
    """Activations of three tokens out of three, two and two."""
    table = normal(generator, 3, 3, 9)
    which = torch.randint(0, 6, (samples, 3), generator=generator) % torch.tensor([3, 2, 2])
    return torch.stack([table[s][which[:, s]] for s in range(3)], 1)


@pytest.mark.parametrize("shared_heads", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("mask", TABLES)
def test_tables_of_what_repeats(mask, cap, shared_heads):
    generator = seeded(10)
    key_width = 3 if shared_heads else 6
    section = Attention(
        normal(generator, 9, 8),
        normal(generator, 9, 6),
        normal(generator, 9, key_width),
        normal(generator, 9, key_width),
        normal(generator, 6, 8),
        heads=2,
        mask=TABLES[mask],
        soft_cap=cap,
    )
    x = tokens(generator)
    known = repeated(section, x)
    assert known is not None
    assert len(known.keys) <= 7
    assert len(known.queries) == 2
    keep = torch.rand(9, 8, generator=generator) < 0.7
    keep[:, 6:] = keep[:, :1]
    assert_close(section.masked(x, keep), left_out(section, x, keep))


def test_what_does_not_repeat_has_no_table():
    section = random_section("attention", 9, 4)
    last = replace(section.mask, last_only=True)
    only_last = Attention(
        section.skip, section.query, section.key, section.value, section.output,
        heads=section.heads, mask=last,
    )  # fmt: skip
    x = tokens(seeded(11))
    assert repeated(only_last, x) is not None
    assert repeated(section, x) is None
    assert repeated(only_last, normal(seeded(12), 160, 3, 9)) is None
    # Nearly equal is not equal.
    x[0, 0, 0] += 1e-15
    known = repeated(only_last, x)
    if known is not None:
        assert torch.equal(known.keys[known.key].transpose(0, 1), x)
