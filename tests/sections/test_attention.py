"""Attention: what masks hide, what a prefix is, and how batches are cut."""

import pytest
import torch
from helpers.jacobians import Shape, build, build_features, chunks_of
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import random_section
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

from libgraph.sections import Attention, AttentionMask
from libgraph.sections.attention import kept
from libgraph.sections.quadrature import Quadrature


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [
        (AttentionMask(), ["011", "001", "000"]),
        (AttentionMask(causal=False), ["000", "000", "000"]),
        (AttentionMask(window=2), ["011", "001", "100"]),
        (AttentionMask(causal=False, window=1), ["000", "100", "110"]),
    ],
)
def test_masks(mask, hidden):
    positions = torch.arange(3)
    found = mask.hidden(positions.unsqueeze(1) - positions)
    assert ["".join(str(int(entry)) for entry in row) for row in found] == hidden


def test_a_prefix_is_attended_to_like_positions_that_are_the_same_for_all_samples():
    section, x = random_section("attention-rotary", 3, 2), normal(seeded(1), 4, 3, 3)
    before = normal(seeded(2), 2, 3)
    joined = torch.cat([before.expand(4, -1, -1), x], dim=1)
    inside = section.with_prefix(before)
    assert_close(inside(x), section(joined)[:, 2:])
    assert_close(inside.attention_pattern(x), section.attention_pattern(joined)[:, :, 2:])
    assert section.before == 0
    # It stays as it is where the input is seen from other coordinates.
    decoder = normal(seeded(3), 4, 3)
    f = normal(seeded(4), 4, 3, 4)
    assert_close(inside.rebase(decoder)(f), inside(f @ decoder))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [1, 2, 70])
def test_values_are_mixed_as_by_patterns(causal, positions, dtype):
    seed, mask = seeded(5), AttentionMask(causal=causal)
    factors = [normal(seed, 3, width) for width in (2, 8, 8, 8)]
    section = Attention(*factors, normal(seed, 8, 2), heads=2, mask=mask).to(dtype)
    x = normal(seed, 2, positions, 3).to(dtype)
    p, queries = section.project(x), section.queries(x)
    by_pattern = section.attend(p, queries)[1]
    assert_close(section.attended(p, queries), by_pattern, 64 * torch.finfo(dtype).eps)
    # As what is differentiated as well, forwards and backwards.
    tangent = normal(seed, 2, positions, 3).to(dtype)
    _, forwards = torch.func.jvp(section, (x,), (tangent,))
    step = section.linearize(x)(tangent.unsqueeze(1)).squeeze(1)
    assert_close(forwards, step, 1e4 * torch.finfo(dtype).eps)
    with dual_level():
        by_hand = unpack_dual(section(make_dual(x, tangent))).tangent
    assert_close(by_hand, step, 1e4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", ["attention", "attention-last", "attention-rotary-prefix"])
def test_no_samples_add_nothing(kind):
    gram = random_section(kind, 5, 4).jacobian_gram(torch.zeros(0, 3, 5).double())
    assert torch.equal(gram, torch.zeros(5, 5).double())


def test_small_chunks_attend_to_samples_apart(monkeypatch):
    sizes = []
    attend = Attention.attend
    monkeypatch.setattr(
        Attention,
        "attend",
        lambda self, p, queries: (
            sizes.append((len(p.v), queries.stop - queries.start)) or attend(self, p, queries)
        ),
    )
    shape = Shape(0, 4, 3, 3, 2, 2, 2, 2)
    section, x = build("attention", shape)
    with chunks_of(1):
        section.jacobian_gram(x)
        section.interactions(x, *build_features(shape), Quadrature.gradient())
    # The Gram goes query by query, the interactions feature by feature for all queries at once.
    assert sizes == [(1, 1)] * 4 * x.shape[1] + [(1, x.shape[1])] * 4


@pytest.mark.parametrize(
    "mask", [AttentionMask(causal=False), AttentionMask(), AttentionMask(window=3)]
)
def test_what_is_hidden_is_kept_without_what_is_not(mask):
    added = kept._hiding.__wrapped__(mask, 0, 9, 40, 0, torch.float64, torch.device("cpu"))[1]
    assert added.untyped_storage().nbytes() == added.numel() * added.element_size()
