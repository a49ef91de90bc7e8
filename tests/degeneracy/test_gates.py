"""Units and heads that act as one: against brute force, planted groups and counted directions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.examples import examples
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ACTIVATIONS, ATTENTIONS, AppendOne, random_section
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev

from libgraph.degeneracy.synchrony import gates
from libgraph.degeneracy.synchrony import watchers as products
from libgraph.degeneracy.synchrony.directions import GatedBlock, extra_directions
from libgraph.degeneracy.synchrony.gates import (
    GateStatistics,
    gate_statistics,
    ungated,
    unit_groups,
)
from libgraph.degeneracy.synchrony.groups import complete_linkage
from libgraph.degeneracy.synchrony.heads import HeadStatistics, head_groups, head_statistics
from libgraph.degeneracy.synchrony.swaps import SwapLoss, swap_loss, swapped
from libgraph.errors import NumericalError, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import (
    Attention,
    AttentionMask,
    Chain,
    Convolution,
    GatedMLP,
    Linear,
    Parallel,
    SkipMLP,
)
from libgraph.sections.chunks import ChunkSize
from libgraph_backends.shared.layers import Layer, network_of

GATED = ["relu", "gelu", "tanh", "gated", "convolution-of-3", "chain", "parallel"]
quick = examples(6)


def network_around(*sections, embed=None):
    """These sections between node layers without a constant."""
    sizes = [sections[0].d_in, *(section.d_out for section in sections)]
    layers = [NodeLayer(f"l{i}", size, constant=False) for i, size in enumerate(sizes)]
    return Network(embed or nn.Identity(), sections, layers)


def groups_of(network, data, tolerance=0.0):
    found = {n: unit_groups(s, tolerance) for n, s in gate_statistics(network, data).items()}
    return found | {n: head_groups(s, tolerance) for n, s in head_statistics(network, data).items()}


def only(found):
    (value,) = found.values()
    return value


# Brute force


def through(section, x):
    """Sections inside with what they get, in order."""
    if isinstance(section, Chain):
        for part in section.parts:
            yield from through(part, x)
            x = part(x)
    elif isinstance(section, Parallel):
        for branch in section.branches:
            yield from through(branch, x)
    else:
        yield section, x


def gates_and_units(section, x):
    """γ and h, one row per sample and position, from the formulas of each non-linearity."""
    if isinstance(section, Convolution):
        z = torch.zeros(len(x), len(section.reads), section.inner.shape[2]).double()
        for t, places in enumerate(section.reads.tolist()):
            for offset, place in enumerate(places):
                if place >= 0:
                    z[:, t] += x[:, place] @ section.inner[offset]
    else:
        z = x @ section.inner
    if isinstance(section, GatedMLP):
        gate = z * z.sigmoid()
        h = gate * (x @ section.gate)
        gate = gate / gate.square().mean((0, 1)).sqrt()
    elif section.activation is ACTIVATIONS["gelu"]:
        gate = (1 + (z / math.sqrt(2)).erf()) / 2
        h = z * gate
    elif section.activation is ACTIVATIONS["tanh"]:
        h = z.tanh()
        gate = h / z
    else:
        gate = (z > 0).double()
        h = z * gate
    return gate.flatten(0, 1), h.flatten(0, 1)


@pytest.mark.parametrize("kind", GATED)
@quick
@given(
    seed=st.integers(0, 2**16),
    samples=st.integers(1, 6),
    positions=st.integers(1, 4),
    d=st.integers(1, 4),
    width=st.integers(1, 5),
    batch=st.integers(1, 6),
)
def test_moments_and_distances_are_those_of_all_pairs(
    kind, seed, samples, positions, d, width, batch
):
    section = random_section(kind, d, d, seed=seed, width=width)
    positions = 3 if "convolution" in kind else positions
    x = normal(seeded(seed + 1), samples, positions, d)
    network = network_around(section)
    found = gate_statistics(network, toy_data(network, x, batch_size=batch))
    parts = [(s, y) for s, y in through(section, x) if isinstance(s, SkipMLP | Convolution)]
    assert len(parts) == len(found) >= 1
    for (part, y), each in zip(parts, found.values(), strict=True):
        gate, h = gates_and_units(part, y)
        assert each.rows == len(gate)
        assert_close(each.hidden, h.mean(0), 1e-9)
        assert_close(each.hidden_square, h.square().mean(0), 1e-9)
        assert_close(each.gate / each.scale, gate.mean(0), 1e-9)
        expected = (gate.unsqueeze(2) - gate.unsqueeze(1)).square().mean(0)
        assert float((each.distances - expected).abs().max()) < 1e-9
        assert not each.distances.diagonal().any()


def test_sections_are_named_by_their_place():
    network = random_network(["relu", "parallel", "chain"], [3, 3, 3, 3])
    found = gate_statistics(network, toy_data(network, normal(seeded(0), 4, 2, 3)))
    assert list(found) == ["l0->l1", "l1->l2 branches.0", "l2->l3 parts.0", "l2->l3 parts.2"]


def test_relu_distance_is_the_share_at_which_one_is_on():
    x = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]]).double().unsqueeze(1)
    inner = torch.tensor([[1.0, -1.0, 1.0], [0.0, 0.0, 2.0]]).double()
    section = SkipMLP(torch.zeros(2, 1).double(), inner, torch.ones(3, 1).double())
    network = network_around(section, embed=AppendOne())
    found = only(gate_statistics(network, toy_data(network, x)))
    expected = torch.tensor([[0, 1, 0.25], [1, 0, 0.75], [0.25, 0.75, 0]]).double()
    assert_close(found.distances, expected)


@pytest.mark.parametrize(("kind", "limit"), [("relu", 0.0), ("gelu", 0.5), ("tanh", 1.0)])
def test_at_zero_the_gate_is_the_slope(kind, limit):
    section = random_section(kind, 3, 2, width=4)
    network = network_around(section)
    found = only(gate_statistics(network, toy_data(network, torch.zeros(5, 2, 3).double())))
    assert_close(found.gate, torch.full((4,), limit).double())


@pytest.mark.parametrize("kind", GATED)
def test_batches_and_parts_make_no_difference(kind, monkeypatch):
    # Fewer units than a sample has rows, so that a sample is cut as well.
    network = network_around(random_section(kind, 3, 3, width=2))
    x = normal(seeded(1), 11, 3, 3)
    whole = gate_statistics(network, toy_data(network, x))
    monkeypatch.setattr(products, "HELD_BYTES", 1)
    monkeypatch.setattr(gates, "chunk_length", lambda *_: 1)
    for size in (1, 4):
        cut = gate_statistics(network, toy_data(network, x, batch_size=size))
        for name, each in whole.items():
            assert cut[name].rows == each.rows
            assert_close(cut[name].gate_products, each.gate_products, 1e-12)
            assert_close(cut[name].hidden_square, each.hidden_square, 1e-12)


def test_batches_make_no_difference_to_heads(monkeypatch):
    network = network_around(random_section("attention", 3, 3, heads=3))
    x = normal(seeded(1), 11, 4, 3)
    whole = only(head_statistics(network, toy_data(network, x)))
    monkeypatch.setattr("libgraph.sections.chunks.CLOSED_FORMS", ChunkSize(1, 1))
    for size in (11, 4):
        cut = only(head_statistics(network, toy_data(network, x, batch_size=size)))
        assert_close(cut.distances, whole.distances, 1e-12)


def test_parts_of_a_batch_are_small(monkeypatch):
    network = random_network(["relu", "attention"], [3, 3, 3])
    data = toy_data(network, normal(seeded(0), 9, 6, 3))
    seen = []
    monkeypatch.setattr(products, "HELD_BYTES", 2 * 8 * 6 * 6 * 2)
    network.sections[0].register_forward_hook(lambda module, x, y: seen.append(len(y)))
    gate_statistics(network, data)
    # The largest is the pattern: two heads, six queries, six positions.
    assert seen[1:] == [2, 2, 2, 2, 1]


def test_sections_without_gates_are_left_out_with_a_reason():
    generator = seeded(0)
    skip, inner, gate, outer = (normal(generator, 3, 3) for _ in range(4))
    network = network_around(
        SkipMLP(skip, inner, outer, torch.sigmoid),
        SkipMLP(skip, inner, outer, torch.relu),
        GatedMLP(skip, inner, gate, outer, torch.sigmoid),
    )
    data = toy_data(network, normal(generator, 4, 1, 3))
    assert list(gate_statistics(network, data)) == ["l1->l2", "l2->l3"]
    assert list(ungated(network)) == ["l0->l1"]
    assert "sigmoid" in ungated(network)["l0->l1"]
    linear = network_around(Linear(skip))
    data = toy_data(linear, normal(generator, 4, 1, 3))
    assert gate_statistics(linear, data) == head_statistics(linear, data) == {}


@pytest.mark.parametrize("kind", ["relu", "attention"])
def test_what_is_not_finite_is_named(kind):
    network = network_around(random_section(kind, 3, 3))
    data = toy_data(network, torch.full((2, 2, 3), torch.inf).double())
    with pytest.raises(NumericalError, match="'l0->l1'"):
        groups_of(network, data)


# Planted units


def planted_inner(generator, d):
    """Columns for x with a constant: parallel ones, always on, dead, and one of each own kind."""
    a, b = normal(generator, 2, d + 1)
    tilted = 0.1 * normal(generator, d + 1, 3)
    tilted[-1] = 20
    columns = [
        a, 3.7 * a, 0.2 * a, 11 * a,  # 0-3
        b, 0.6 * b,  # 4, 5
        *tilted.T,  # 6-8 always on
        -tilted[:, 0], torch.zeros(d + 1).double(),  # 9, 10 dead
        torch.eye(d + 1).double()[-1],  # 11 constant, and always on
        *normal(generator, 4, d + 1),  # 12-15 on their own
        -a,  # 16 the opposite of 0
    ]  # fmt: skip
    return torch.stack(columns, dim=1)


def planted(kind, seed=0, d=5):
    """A network of one section with planted units, and data."""
    generator = seeded(seed)
    inner = planted_inner(generator, d)
    units = inner.shape[1]
    skip, outer = normal(generator, d + 1, 4), normal(generator, units, 4)
    x = normal(generator, 60, 5, d)
    if kind == "convolution":
        reads = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]])
        offsets = torch.stack([inner, 0.4 * inner])
        section = Convolution(torch.stack([skip, skip]), offsets, outer, reads)
    elif kind == "gated":
        section = GatedMLP(skip, inner, normal(generator, d + 1, units), outer, torch.relu)
    elif kind == "rebased":
        section = SkipMLP(skip, inner, outer).rebase(encoder=normal(generator, 4, 4))
    else:
        section = SkipMLP(skip, inner, outer)
    if kind == "chain":
        section = Chain([section, random_section("tanh", 4, 3)])
    if kind == "parallel":
        section = Parallel([random_section("attention", d + 1, 4), section])
    network = network_around(section, embed=AppendOne())
    return network, toy_data(network, x, batch_size=17)


@pytest.mark.parametrize("kind", ["plain", "convolution", "rebased", "chain", "parallel"])
def test_planted_groups_are_found(kind):
    network, data = planted(kind)
    name = {"chain": "l0->l1 parts.0", "parallel": "l0->l1 branches.1"}.get(kind, "l0->l1")
    found = unit_groups(gate_statistics(network, data)[name])
    assert found.groups == [[0, 1, 2, 3], [6, 7, 8, 11], [4, 5]]
    assert found.extra == [12, 12, 2]
    assert found.dead == [9, 10]
    assert found.constant == [11]
    assert found.membership.tolist() == [0] * 4 + [2] * 2 + [1] * 3 + [-1] * 2 + [1] + [-1] * 5
    assert sorted(found.order) == list(range(17))
    assert found.order[-2:] == [9, 10]
    for group in found.groups:
        places = sorted(found.order.index(unit) for unit in group)
        assert places == list(range(places[0], places[0] + len(group)))


def test_gates_are_compared_apart_from_their_size():
    network, data = planted("gated")
    found = unit_groups(only(gate_statistics(network, data)))
    # Units that are always on have gates of different shapes here.
    assert found.groups == [[0, 1, 2, 3], [4, 5]]
    assert found.dead == [9, 10]
    assert float(found.scale[1] / found.scale[0]) == pytest.approx(3.7)


def test_rescaled_units_are_the_same_units():
    network, data = planted("plain")
    before = only(gate_statistics(network, data))
    section = network.sections[0]
    factors = torch.logspace(-3, 3, 17).double()
    section.inner *= factors
    section.outer /= factors.unsqueeze(1)
    after = only(gate_statistics(network, data))
    assert_close(after.distances, before.distances)
    assert unit_groups(after).groups == unit_groups(before).groups
    assert unit_groups(after).dead == unit_groups(before).dead


def test_single_precision_is_enough():
    network, data = planted("plain")
    data = replace(data, dtype=torch.float32)
    found = unit_groups(only(gate_statistics(network.float(), data)))
    assert [6, 7, 8, 11] in found.groups
    assert found.dead == [9, 10]
    assert found.constant == [11]


def test_dead_and_constant_have_tolerances():
    z = torch.zeros(3, 3).double()
    square = torch.tensor([1.0, 1e-4, 0.01]).double()
    mean = torch.tensor([0.0, 0.0099, 0.1]).double()
    each = GateStatistics(5, z[0], z, mean, square, False, 2.2e-16)
    assert (unit_groups(each).dead, unit_groups(each).constant) == ([], [2])
    assert unit_groups(each, dead=0.011).dead == [1]
    assert unit_groups(each, dead=0.009).dead == []
    assert unit_groups(each, constant=0.15).constant == [1, 2]
    assert unit_groups(each, constant=0.13).constant == [2]
    assert unit_groups(each, dead=0.11, constant=0.15).constant == []
    nothing = replace(each, hidden=mean * 0, hidden_square=square * 0)
    assert unit_groups(nothing).dead == [0, 1, 2]
    assert unit_groups(nothing).groups == []


@examples(30)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 30), threshold=st.floats(0, 3))
def test_no_two_of_a_group_are_further_apart_than_the_tolerance(seed, count, threshold):
    points = normal(seeded(seed), count, 2)
    distances = (points.unsqueeze(1) - points).norm(dim=-1)
    use = normal(seeded(seed + 1), count) > -1
    groups, order = complete_linkage(distances, threshold, use)
    assert sorted(order) == list(range(count))
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    members = [member for group in groups for member in group]
    assert len(set(members)) == len(members)
    assert all(use[member] for member in members)
    everything = [[i] for i in range(count) if use[i] and i not in members] + groups
    for i, one in enumerate(everything):
        assert float(distances[one][:, one].max()) <= threshold
        for other in everything[:i]:
            # What is left apart would not fit.
            assert float(distances[one][:, other].max()) > threshold


@pytest.mark.parametrize("name", ["tolerance", "dead", "constant"])
def test_tolerances_are_not_negative(name):
    z = torch.zeros(2, 2).double()
    each = GateStatistics(1, z[0], z, z[0], z[0], False, 1e-16)
    for value in (-1.0, math.nan):
        with pytest.raises(UsageError, match=f"'{name}' must be at least 0"):
            unit_groups(each, **{name: value})
    with pytest.raises(UsageError, match="'tolerance' must be at least 0"):
        head_groups(HeadStatistics(z, 1, True, 0.0), -1.0)


# Free directions


def rank(matrix):
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    return int((values > 1e-9 * max(1.0, values.max(initial=0))).sum())


def explicit_rank(group, inner, outer, projections, directions):
    """Rank of X ↦ (P_G A X P_K, P_G X B P_K) from what it makes of each of these X."""
    g_in, k_in, g_out, k_out = projections
    images = []
    for i, j in directions:
        x = torch.zeros(len(inner[0]), len(outer)).double()
        x[group[i], group[j]] = 1
        both = (g_in @ inner @ x @ k_in).flatten(), (g_out @ x @ outer @ k_out).flatten()
        images.append(torch.cat(both))
    return rank(torch.stack(images))


def projection(generator, size, dimension):
    """Onto a random space, half the time one along coordinates."""
    if not dimension:
        return torch.zeros(size, size).double()
    if float(torch.rand(1, generator=generator)) < 0.5:
        on = torch.randperm(size, generator=generator) < dimension
        return torch.diag(on.double())
    q = torch.linalg.qr(normal(generator, size, dimension)).Q
    return q @ q.T


@examples(40)
@given(seed=st.integers(0, 2**16), data=st.data())
def test_new_directions_are_counted_as_in_the_explicit_map(seed, data):
    generator = seeded(seed)
    rows, units, columns = (data.draw(st.integers(1, 6)) for _ in range(3))
    sizes = rows, units, units, columns
    projections = [projection(generator, s, data.draw(st.integers(0, s))) for s in sizes]
    c = data.draw(st.integers(1, units))
    group = torch.randperm(units, generator=generator)[:c].tolist()
    inner = normal(generator, rows, units)
    outer = 100 * normal(generator, units, columns)
    if data.draw(st.booleans()):
        inner[:, group[-1]] = 2 * inner[:, group[0]]
    every = [(i, j) for i in range(c) for j in range(c)]
    expected = explicit_rank(group, inner, outer, projections, every)
    expected -= explicit_rank(group, inner, outer, projections, [(i, i) for i in range(c)])
    block = GatedBlock(inner, outer, *projections)
    assert extra_directions(group, block) == (c * c - c, expected)


def test_directions_of_gates_of_different_size():
    generator = seeded(3)
    inner, outer, size = normal(generator, 3, 5), normal(generator, 5, 4), normal(generator, 5)
    size = size.abs() + 0.1
    group = [0, 2, 3]
    inner[:, group] = normal(generator, 3, 2) @ normal(generator, 2, 3)
    outer[group] = normal(generator, 3, 2) @ normal(generator, 2, 4)
    # What units give and what comes back to them is as large as their gates.
    sized = torch.zeros(5).double()
    sized[group] = size[group]
    projections = [
        torch.eye(3).double(),
        range_of((sized.unsqueeze(1) * outer).T),
        range_of(inner * sized),
        torch.eye(4).double(),
    ]
    g_in, k_in, g_out, k_out = projections
    images = []
    for i in range(9):
        x = torch.zeros(3, 3).double()
        x.view(-1)[i] = 1
        r = torch.diag(size[group])
        first = g_in @ inner[:, group] @ x @ k_in[group]
        second = g_out[:, group] @ r.inverse() @ x @ r @ outer[group] @ k_out
        images.append(torch.cat([first.flatten(), second.flatten()]))
    images = torch.stack(images)
    expected = rank(images) - rank(images[[0, 4, 8]])
    block = GatedBlock(inner, outer, *projections)
    assert extra_directions(group, block) != (6, expected)
    assert extra_directions(group, replace(block, scale=size)) == (6, expected)


def nullity(function, *weights):
    """Directions of the weights that change no output."""
    sizes = [weight.numel() for weight in weights]

    def flat(theta):
        parts = theta.split(sizes)
        return function(*(p.view_as(w) for p, w in zip(parts, weights, strict=True))).flatten()

    theta = torch.cat([weight.flatten() for weight in weights])
    return len(theta) - rank(jacrev(flat)(theta))


def range_of(rows):
    """Projection onto the span of these rows."""
    u, s, _ = torch.linalg.svd(rows.T @ rows)
    u = u[:, s > 1e-10 * s[0]]
    return u @ u.T


@pytest.mark.parametrize(("d_out", "new", "low_rank"), [(6, 6, 0), (2, 3, 6)])
def test_directions_of_a_planted_group_are_free_in_the_network(d_out, new, low_rank):
    generator = seeded(5)
    inner, outer = normal(generator, 6, 6), normal(generator, 6, d_out)
    inner[-1, :3] = 30
    network = network_around(SkipMLP(normal(generator, 6, d_out), inner, outer), embed=AppendOne())
    x = normal(generator, 300, 1, 5)
    found = unit_groups(only(gate_statistics(network, toy_data(network, x))))
    assert found.groups == [[0, 1, 2]]
    rows = AppendOne()(x)[:, 0]
    on = (rows @ inner > 0).double()
    projections = (
        range_of(rows),
        range_of((on.unsqueeze(2) * outer).transpose(1, 2).flatten(0, 1)),
        range_of(on * (rows @ inner)),
        torch.eye(d_out).double(),
    )
    assert extra_directions([0, 1, 2], GatedBlock(inner, outer, *projections)) == (6, new)
    ranks = [round(float(each.trace())) for each in projections]
    assert 36 - ranks[0] * ranks[1] + 6 * d_out - ranks[2] * ranks[3] == low_rank
    # Each unit can be rescaled besides.
    free = nullity(lambda a, b: (rows @ a).relu() @ b, inner, outer)
    assert free == 6 + new + low_rank


def test_heads_of_one_pattern_are_one_larger_head():
    generator = seeded(2)
    section = planted_heads(generator, 3, width=2, like={1: 0, 2: 0})
    x = normal(generator, 12, 4, 9)
    network = network_around(section)
    found = only(groups_of(network, toy_data(network, x)))
    free = nullity(
        lambda v, o: Attention(section.skip, section.query, section.key, v, o, heads=3)(x),
        section.value,
        section.output,
    )
    assert found.groups == [[0, 1, 2]]
    assert found.extra == [free - 3 * 2**2] == [24]


# Heads


def planted_heads(generator, heads, *, width=2, like=None, d=9, **options):
    """Attention in which some heads have the queries and keys of others."""
    q, k = (normal(generator, d, heads, width) for _ in range(2))
    for head, source in (like or {}).items():
        q[:, head], k[:, head] = 3 * q[:, source], k[:, source] / 3
    v, o = normal(generator, d, heads * width), normal(generator, heads * width, d)
    skip = normal(generator, d, d)
    return Attention(skip, q.flatten(1), k.flatten(1), v, o, heads=heads, **options)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_patterns_are_those_of_the_forward_pass(kind):
    section = random_section(kind, 4, 3, heads=2, width=2)
    x = normal(seeded(1), 3, 5, 4)
    queries = section.queries(x)
    a, p = section.attention_pattern(x), section.project(x)
    assert a.shape == (3, 2, 1 if section.mask.last_only else 5, 5 + section.before)
    assert_close(a.sum(-1), torch.ones_like(a[..., 0]))
    y = (a @ p.v).transpose(1, 2).flatten(2) @ section.output
    assert_close(y + x[:, queries.start - section.before :] @ section.skip, section(x))


@pytest.mark.parametrize("kind", ["attention", "attention-full", "attention-last"])
@quick
@given(
    seed=st.integers(0, 2**16),
    samples=st.integers(1, 5),
    positions=st.integers(1, 4),
    heads=st.integers(1, 4),
    batch=st.integers(1, 5),
)
def test_head_distances_are_total_variations(kind, seed, samples, positions, heads, batch):
    section = random_section(kind, 3, 3, seed=seed, heads=heads, width=2)
    x = normal(seeded(seed + 1), samples, positions, 3)
    network = network_around(Parallel([section, Linear(torch.eye(3).double())]))
    found = only(head_statistics(network, toy_data(network, x, batch_size=batch)))
    patterns = []
    for head in range(heads):
        own = slice(2 * head, 2 * head + 2)
        scores = x @ section.query[:, own] @ (x @ section.key[:, own]).transpose(1, 2) / 2**0.5
        if section.mask.causal:
            scores = scores + torch.full((positions, positions), -torch.inf).triu(1)
        a = scores.exp() / scores.exp().sum(-1, keepdim=True)
        patterns.append(a[:, -1:] if section.mask.last_only else a)
    expected = torch.tensor(
        [[float((a - b).abs().sum(-1).mean() / 2) for b in patterns] for a in patterns],
        dtype=torch.float64,
    )
    assert float((found.distances - expected).abs().max()) < 1e-10
    assert float(found.distances.max()) <= 1


PLANTED_HEADS = {
    "plain": {},
    "full": {"mask": AttentionMask(causal=False)},
    "last": {"mask": AttentionMask(last_only=True)},
    "rotary": {"rotary": torch.tensor([0.7]).double()},
}


@pytest.mark.parametrize("kind", [*PLANTED_HEADS, "prefix", "chain", "parallel"])
def test_planted_heads_are_found_and_swap_for_nothing(kind):
    generator = seeded(4)
    like = {2: 0, 5: 0, 4: 1}
    section = planted_heads(generator, 6, like=like, **PLANTED_HEADS.get(kind, {}))
    name = "l0->l1"
    if kind == "prefix":
        section = section.with_prefix(normal(generator, 2, 9))
    if kind == "chain":
        section, name = Chain([random_section("tanh", 9, 9), section]), "l0->l1 parts.1"
    if kind == "parallel":
        section = Parallel([random_section("gelu", 9, 9), section])
        name = "l0->l1 branches.1"
    network = network_around(section)
    data = toy_data(network, normal(generator, 8, 4, 9), batch_size=3)
    found = head_groups(head_statistics(network, data)[name])
    assert found.groups == [[0, 2, 5], [1, 4]]
    assert found.extra == [24, 8]
    assert found.membership.tolist() == [0, 1, 0, -1, 1, 0]
    assert swap_loss(network, data, {name: found}).loss < 1e-20
    wrong = replace(found, groups=[[0, 3]])
    assert swap_loss(network, data, {name: wrong}).loss > 1e-3


def test_swapped_heads_read_their_own_values_under_the_medoids_pattern():
    generator = seeded(6)
    section = planted_heads(generator, 3)
    network = network_around(section)
    x = normal(generator, 4, 5, 9)
    found = only(groups_of(network, toy_data(network, x)))
    pair = replace(found, groups=[[1, 2]])
    assert pair.medoids == [1]
    q, k = (getattr(section, name).unflatten(1, (3, 2)).clone() for name in ("query", "key"))
    q[:, 2], k[:, 2] = q[:, 1], k[:, 1]
    expected = Attention(
        section.skip, q.flatten(1), k.flatten(1), section.value, section.output, heads=3
    )(x)
    with swapped(network, {"l0->l1": pair}):
        assert_close(network(x), expected)


def test_heads_that_share_values_free_nothing():
    section = random_section("attention-grouped", 4, 4, heads=2, width=2)
    section.query[:, 2:] = section.query[:, :2]
    network = network_around(section)
    data = toy_data(network, normal(seeded(1), 5, 4, 4))
    found = only(groups_of(network, data))
    assert found.groups == [[0, 1]]
    assert found.extra == [0]
    assert swap_loss(network, data, {"l0->l1": found}).loss < 1e-20


# Swaps


@pytest.mark.parametrize("kind", ["plain", "gated", "convolution", "rebased", "chain", "parallel"])
def test_exact_groups_swap_for_nothing(kind):
    network, data = planted(kind)
    found = groups_of(network, data)
    assert sum(len(each.groups) for each in found.values()) >= 2
    loss = swap_loss(network, data, found)
    assert loss.loss < 1e-10 * loss.variance
    assert loss.share < 1e-10
    name = next(n for n, each in found.items() if len(each.distances) == 17)
    wrong = replace(found[name], groups=[[0, 12]])
    assert swap_loss(network, data, {name: wrong}).share > 1e-6
    assert swap_loss(network, data, {name: replace(wrong, groups=[])}).loss < 1e-20


def test_swapped_units_take_the_medoids_gate():
    generator = seeded(8)
    layers = [Layer(normal(generator, 4, 6), nn.GELU()), Layer(normal(generator, 7, 3), nn.ReLU())]
    network = network_of(layers)
    x = normal(generator, 30, 3)
    data = toy_data(network, x, batch_size=7)
    found = groups_of(network, data)
    group = [0, 2, 5]
    chosen = {"input->hidden1": replace(found["input->hidden1"], groups=[group])}
    (medoid,) = chosen["input->hidden1"].medoids
    sums = found["input->hidden1"].distances[group][:, group].sum(1)
    assert medoid == group[int(sums.argmin())] != 0
    ones = torch.ones(30, 1).double()
    z = torch.cat([x, ones], 1) @ layers[0].matrix
    h = nn.functional.gelu(z)
    for unit in group:
        h[:, unit] = z[:, unit] * h[:, medoid] / z[:, medoid]
    expected = (torch.cat([h, ones], 1) @ layers[1].matrix).relu()
    with swapped(network, chosen) as changed:
        assert changed is network
        assert_close(network(x)[:, 0], expected)
    outputs = network(x)[:, 0]
    loss = swap_loss(network, data, chosen)
    assert loss.loss == pytest.approx(float((outputs - expected).square().sum(1).mean()))
    assert loss.variance == pytest.approx(float(outputs.var(0, correction=0).sum()))
    assert loss.share == loss.loss / loss.variance > 1e-6


def test_variance_is_summed_over_positions():
    network, data = planted("plain")
    outputs = network(data.backend.inputs)
    expected = (outputs - outputs.mean((0, 1))).square().sum((1, 2)).mean()
    assert swap_loss(network, data, {}).variance == pytest.approx(float(expected))


def test_share_of_no_variance():
    assert SwapLoss(0.0, 0.0).share == 0
    assert SwapLoss(1.0, 0.0).share == math.inf


def test_everything_is_put_back():
    network, data = planted("parallel")
    found = groups_of(network, data)
    units = {name: replace(each, groups=[[0, 1]]) for name, each in found.items()}
    x = data.backend.inputs
    before = network(x)

    def watcher(section, name, x, z):
        return z

    branches = network.sections[0].branches
    branches[0].watcher = watcher
    with swapped(network, units):
        assert not torch.equal(network(x), before)
    with pytest.raises(ZeroDivisionError), swapped(network, units):
        _ = 1 / 0
    assert branches[0].watcher is watcher
    assert branches[1].watcher is None
    assert torch.equal(network(x), before)
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all("watcher" not in vars(m) or m.watcher in (None, watcher) for m in network.modules())


def test_an_error_on_the_way_leaves_no_watchers():
    network, data = planted("parallel")
    network.sections[0].branches[1].activation = lambda z: 1 / 0
    with pytest.raises(ZeroDivisionError):
        head_statistics(network, data)
    assert all(m.watcher is None for m in network.modules() if hasattr(m, "watcher"))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_groups_of_another_network_are_named():
    network, data = planted("plain")
    found = only(groups_of(network, data))
    heads = head_groups(HeadStatistics(torch.zeros(2, 2).double(), 1, True, 0.0))
    for groups in ({"l7": found}, {"l0->l1": heads}):
        with pytest.raises(UsageError, match=f"no section '{next(iter(groups))}'"):
            swap_loss(network, data, groups)
