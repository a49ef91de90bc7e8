"""Edges between latents (docs/math.md §10) from dense Jacobians, in loops."""

import pytest
import torch
from helpers.dictionaries import latents_by_definition, random_dictionary
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from torch.func import jacrev

from libgraph.edges.interactions import estimate_interactions, interactions
from libgraph.network.basis import Basis
from libgraph.sections.quadrature import Quadrature

RULES = ["gradient", "gauss-legendre:3"]


def linear_basis(size, kept, seed):
    generator = seeded(seed)
    return Basis(
        normal(generator, size, kept), normal(generator, kept, size), torch.ones(kept).double(), 1
    )


def expected(section, source, target, xs, rule):
    """E and, for every sample, position and open target, what is added up: by definition."""
    edges = torch.zeros(len(target), len(source), dtype=torch.float64)
    for x in xs:
        jacobian = sum(
            weight * jacrev(lambda x: section(x.unsqueeze(0)).squeeze(0))(point * x)
            for point, weight in zip(rule.points, rule.weights, strict=True)
        )
        y = section(x.unsqueeze(0)).squeeze(0)
        for t in range(len(y)):
            out = latents_by_definition(target, y[t])
            for j in range(len(target)):
                gated = not target.linear and j >= target.isolated
                if gated and out[j] == 0:
                    continue
                through = [jacobian[t, :, s].T @ target.encoder[:, j] for s in range(len(x))]
                for i in range(len(source)):
                    effect = 0.0
                    for s in range(len(x)):
                        f = latents_by_definition(source, x[s])
                        if not source.linear and i == source.error_place:
                            effect += (x[s] - f @ source.decoder) @ through[s]
                        else:
                            effect += f[i] * (source.decoder[i] @ through[s])
                    edges[j, i] += effect**2
    return edges / (len(xs) * len(xs[0]))


KINDS = ["threshold", "topk", "linear"]


def basis_of(kind, size, seed):
    if kind == "linear":
        return linear_basis(size, size, seed)
    return random_dictionary(size, 7, seed, k=3 if kind == "topk" else None, threshold=0.3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chain", ["relu", "attention", "mixing", "linear", "pooling"])
@pytest.mark.parametrize(
    ("before", "after"),
    [("threshold", "topk"), ("topk", "threshold"), ("linear", "topk"), ("threshold", "linear")],
)
def test_edges_are_those_of_the_definition(chain, before, after, rule):
    network = random_network([chain], [3, 4])
    inputs = normal(seeded(1), 6, 3, 3)
    bases = {"l0": basis_of(before, 4, 2), "l1": basis_of(after, 5, 3)}
    found = interactions(
        network, {"d": bases}, toy_data(network, inputs, batch_size=4), Quadrature.parse(rule)
    )
    (section,) = network.sections
    actual = found["d"]["l0", "l1"]
    assert_close(
        actual, expected(section, *bases.values(), network.embed(inputs), Quadrature.parse(rule))
    )
    assert float(actual.max()) > 0


@pytest.mark.parametrize("chain", ["tanh", "attention"])
def test_interactions_add_up_to_the_change_of_pre_activations(chain):
    network = random_network([chain], [3, 4])
    inputs = normal(seeded(1), 6, 3, 3)
    bases = {"d": {"l0": basis_of("threshold", 4, 2), "l1": basis_of("topk", 5, 3)}}
    data = toy_data(network, inputs, batch_size=4)
    missed = {
        rule: estimate_interactions(network, bases, data, Quadrature.parse(rule), 0).missed["d"]
        for rule in ("gradient", "gauss-legendre:32")
    }
    assert missed["gauss-legendre:32"]["l0", "l1"] < 1e-8
    assert missed["gradient"]["l0", "l1"] > 1e-3


def test_latents_that_are_left_out_go_on_competing():
    whole = random_dictionary(4, 7, 2, k=3)
    x = normal(seeded(3), 50, 4)
    first = whole.isolated
    chosen = torch.tensor([1, 4, 5])
    part = whole.gate.of(chosen, whole.encoder[:, first:])
    pre = x @ whole.encoder[:, first:]
    assert torch.equal(part.active(pre[:, chosen], x), whole.gate.active(pre, x)[:, chosen])


def test_features_and_error_make_the_activation():
    basis = random_dictionary(4, 7, 2, k=3)
    x = normal(seeded(3), 5, 2, 4)
    f = basis.features(x)
    assert_close(basis.latents(x) @ basis.decoder + basis.error(x), x)
    assert_close(f[..., basis.error_place], basis.error(x).norm(dim=-1))
    for row, found in zip(x.flatten(0, 1), basis.latents(x).flatten(0, 1), strict=True):
        assert_close(found, latents_by_definition(basis, row))
