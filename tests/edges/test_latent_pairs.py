"""Edges between latents (docs/math.md §10) from dense Jacobians, in loops."""

import pytest
import torch
from helpers.dictionaries import (
    latents_by_definition,
    normalised_dictionary,
    random_dictionary,
)
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


def features_by_definition(weights, x):
    """(n z, mean, n, error) of one activation, and what their readers are before any gate."""
    h, how = x[:-1], weights.normalised
    mean = h.mean() if how.centred else h.new_zeros(())
    n = ((h - mean).square().sum() / (len(h) - how.centred)).sqrt() + how.epsilon
    return mean, n, n * (((h - mean) / n) @ weights.encoder + weights.bias)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chain", ["tanh", "attention", "linear"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("k", [None, 3])
def test_edges_of_activations_divided_by_their_size(chain, centred, k, rule):
    """Through the mean and the size as well, neither of which is held."""
    network = random_network([chain], [3, 4])
    inputs, rule = normal(seeded(1), 6, 3, 3), Quadrature.parse(rule)
    how = {"k": k, "threshold": 0.2, "centred": centred}
    source, w = normalised_dictionary(4, 7, 2, **how)
    target, v = normalised_dictionary(5, 7, 3, **how)
    data = toy_data(network, inputs, batch_size=4)
    found = interactions(network, {"d": {"l0": source, "l1": target}}, data, rule)["d"]["l0", "l1"]
    (section,) = network.sections
    edges = torch.zeros_like(found)
    zeros = torch.zeros(1).double()

    def read(y):
        """Constant, mean, size, error, and pre-activations times the size."""
        mean, n, pre = features_by_definition(v, y)
        alone = [y[-1:], *([mean[None]] if centred else []), n[None], zeros]
        return torch.cat([*alone, pre])

    for x in network.embed(inputs):
        jacobian = sum(
            weight
            * jacrev(lambda x: torch.stack([read(y) for y in section(x[None])[0]]))(point * x)
            for point, weight in zip(rule.points, rule.weights, strict=True)
        )
        parts = []
        for row in x:
            mean, n, pre = features_by_definition(w, row)
            z = pre * _open(pre / n, k)
            one = torch.zeros(4).double()
            one[-1] = 1
            written = [torch.cat([n * w.shift, zeros]), torch.cat([z @ w.decoder, zeros])]
            even = torch.cat([mean.expand(3), zeros])
            error = row - one - even - sum(written)
            latents = torch.cat([z[:, None] * w.decoder, torch.zeros(7, 1).double()], dim=1)
            alone = torch.stack([one, *([even] if centred else []), written[0], error])
            parts.append(torch.cat([alone, latents]))
            assert_close(parts[-1].sum(0), row)
        for t, y in enumerate(section(x[None])[0]):
            _, n, pre = features_by_definition(v, y)
            gates = torch.cat(
                [torch.ones(target.isolated - 1), torch.zeros(1), _open(pre / n, k).double()]
            )
            effects = sum(parts[s] @ jacobian[t, :, s].T for s in range(len(x)))
            edges += (gates * effects).T ** 2
    edges = edges / inputs[..., 0].numel()
    assert float(edges[:, target.isolated :].max()) > 0
    assert float((found - edges).abs().max()) < 1e-10 * float(edges.max())


def _open(p, k):
    return p > 0.2 if k is None else (p > 0) & (p >= p.topk(k).values[-1])


def test_what_is_divided_by_its_size_adds_up():
    network = random_network(["tanh"], [3, 4])
    inputs = normal(seeded(1), 6, 3, 3)
    bases = {
        "d": {
            "l0": normalised_dictionary(4, 7, 2, k=3)[0],
            "l1": normalised_dictionary(5, 7, 3, k=3)[0],
        }
    }
    data = toy_data(network, inputs, batch_size=4)
    missed = {
        rule: estimate_interactions(network, bases, data, Quadrature.parse(rule), 0).missed["d"]
        for rule in ("gradient", "gauss-legendre:64")
    }
    assert missed["gauss-legendre:64"]["l0", "l1"] < 1e-8
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
