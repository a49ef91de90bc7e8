"""The graph of one input between latents: dense Jacobians, and everything adds up."""

import pytest
import torch
from helpers.circuits import DICTIONARIES, latent_subject
from helpers.numbers import assert_within
from torch.func import jacrev

from libgraph.interventions.prompt import prompt_graph

KINDS = ["mlp", "attention"]
each = pytest.mark.parametrize("dictionary", DICTIONARIES)
each_network = pytest.mark.parametrize("kind", KINDS)


def asked(kind, dictionary, **options):
    subject = latent_subject(kind, dictionary)
    inputs = next(iter(subject.data)).inputs[:1]
    return subject, list(subject.network.activations(inputs)), inputs, options


def features(basis, x):
    """Rows of what a position's features put into its activation; the error is all of it."""
    f = x @ basis.encoder if basis.linear else basis.latents(x)
    rows = f.unsqueeze(-1) * basis.decoder
    if not basis.linear:
        rows[:, basis.error_place] = x - f @ basis.decoder
    return rows


@each
@each_network
def test_edges_between_latents_are_dense_jacobians(kind, dictionary):
    subject, xs, inputs, _ = asked(kind, dictionary)
    graph = prompt_graph(subject, inputs, integration="gradient", baseline="zero", classes=2)
    zeros = [torch.zeros_like(x) for x in xs]
    for place, section in enumerate(subject.network.sections[:2]):
        source, target = (subject.cast[subject.layers[place + i]] for i in (0, 1))

        def read(x, section=section, target=target):
            y = section(x[None])[0]
            if getattr(target, "size", None) is None:
                return y @ target.encoder
            n = y[:, :-1].std(-1, keepdim=True) + 1e-5
            return y @ target.encoder + n * target.size.read

        jacobian = jacrev(read)(xs[place][0])
        rows = features(source, xs[place][0]) - features(source, zeros[place][0])
        wanted = torch.einsum("tosd,sid->tosi", jacobian, rows)
        begin, end = graph.layers[place], graph.layers[place + 1]
        wanted = wanted[end.positions, end.features][:, begin.positions, begin.features]
        assert_within(graph.edges[begin.layer, end.layer].effects, wanted, rtol=1e-10)


@pytest.mark.parametrize("baseline", ["mean", "zero"])
@each
@each_network
def test_edges_into_latents_add_up_to_the_change_of_what_they_read(kind, dictionary, baseline):
    subject, xs, inputs, _ = asked(kind, dictionary)
    graph = prompt_graph(subject, inputs, baseline=baseline, classes=2)
    means = subject.mean_activations
    for place, (pair, found) in enumerate([*graph.edges.items()][:2]):
        assert graph.completeness[pair] < 1e-8
        start = means[pair[0]][None] if baseline == "mean" else torch.zeros_like(xs[place])
        section, target = subject.network.sections[place], subject.cast[pair[1]]
        end = graph.layers[place + 1]
        ends = (target.read(y) @ target.reader for y in (xs[place + 1], section(start)))
        after, before = (pre[0, end.positions, end.features] for pre in ends)
        total = found.effects.sum(1) + found.rest + found.error
        assert_within(total, after - before, rtol=1e-8)


@each
def test_errors_are_nodes_that_nothing_leads_into(dictionary):
    subject, xs, inputs, _ = asked("mlp", dictionary)
    graph = prompt_graph(subject, inputs, classes=2)
    basis = subject.cast["l1"]
    nodes = graph.layers[1]
    at = (nodes.features == basis.error_place).nonzero()[:, 0]
    assert len(at)
    for node in at.tolist():
        position = int(nodes.positions[node])
        assert float(nodes.values[node]) == pytest.approx(
            float((xs[1][0, position] - basis.latents(xs[1])[0, position] @ basis.decoder).norm())
        )
    assert not graph.edges["l0", "l1"].effects[at].any()
    assert graph.edges["l1", "l2"].effects[:, at].any()
