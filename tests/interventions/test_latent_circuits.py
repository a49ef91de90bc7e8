"""Circuits of latents: a slow loop over edges, gates by their definition, errors as they were."""

import pytest
import torch
from helpers.circuits import DICTIONARIES, latent_subject, random_edges
from helpers.numbers import assert_close

from libgraph.interventions.apart import features_score
from libgraph.interventions.circuits import BASELINES, Circuits, EdgePool
from libgraph.interventions.edge_orders import edge_order
from libgraph.interventions.faithfulness import faithfulness
from libgraph.interventions.options import FaithfulnessOptions


def gated(basis, pre):
    """Latents of one row of pre-activations."""
    first, rows = basis.isolated, []
    for row in pre.flatten(0, -2):
        p = row[first:] / (1 if basis.size is None else row[first - 2])
        if hasattr(basis.gate, "k"):
            least = p.sort(descending=True).values[basis.gate.k - 1]
            open_ = (p > 0) & (p >= least)
        else:
            open_ = p > basis.gate.threshold
        rows.append(torch.cat([row[: first - 1], row.new_zeros(1), row[first:] * open_]))
    return torch.stack(rows).view_as(pre)


def slowly(circuits, circuit):
    subject, ends = circuits.subject, []
    generator = torch.Generator().manual_seed(circuits.seed)
    usual = subject.features(subject.reference.backend.inputs)
    for batch in subject.data:
        donors = torch.randint(2**31, (len(batch.inputs),), generator=generator)
        elsewhere = subject.features(subject.donors[donors % len(subject.donors)])
        whole = list(subject.network.activations(batch.inputs))
        f = whole[0] @ subject.bases["l0"].encoder
        for number, (a, b, section) in enumerate(subject.network.pairs):
            source, target = subject.bases[a.name], subject.bases[b.name]
            error = 0 if source.linear else source.error(whole[number])
            columns = []
            for i in range(len(target)):
                x = torch.zeros(*f.shape[:2], a.size).double() + error
                for j in range(len(source)):
                    if not source.linear and j == source.error_place:
                        continue
                    value = f[..., j]
                    if not circuit[number][i, j]:
                        value = {
                            "zero": torch.zeros_like(value),
                            "mean": usual[a.name][..., j].mean().expand_as(value),
                            "resample": elsewhere[a.name][..., j],
                        }[circuits.baseline]
                    x = x + value[..., None] * source.decoder[j]
                y = section(x)
                column = y @ target.encoder[:, i]
                if getattr(target, "size", None) is not None:
                    h = y[..., :-1]
                    n = h.std(-1) + 1e-5
                    column = column + n * target.size.read[i]
                columns.append(column)
            f = torch.stack(columns, dim=-1)
            f = f if target.linear else gated(target, f)
        ends.append(f @ subject.bases[subject.layers[-1]].decoder)
    return torch.cat(ends)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("dictionary", DICTIONARIES)
@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_a_circuit_of_latents_is_what_a_slow_loop_says(kind, dictionary, baseline):
    subject = latent_subject(kind, dictionary)
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject, baseline, seed=2)
    order = edge_order(circuits, pool)
    outputs = []
    for count in (0, pool.size // 2):
        circuit = pool.circuit(pool.largest(order, count))
        outputs.append(circuits.outputs(circuit))
        assert_close(outputs[-1], slowly(circuits, circuit), 1e-10)
    assert float((outputs[0] - outputs[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_all_edges_between_latents_are_the_network(dictionary, baseline):
    subject = latent_subject("attention", dictionary)
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject, baseline)
    expected = subject.network(subject.backend.inputs)
    whole = pool.circuit(torch.ones(pool.size, dtype=torch.bool))
    assert_close(circuits.outputs(whole), expected, 1e-10)
    for number in range(3):
        assert_close(circuits.outputs({number: whole[number]}), expected, 1e-10)
    assert features_score(circuits, 1.0, ["l1", "l2"]) == pytest.approx(circuits.score({}))


def test_curves_of_latents_end_at_the_network():
    subject = latent_subject("mlp", "topk")
    options = FaithfulnessOptions(shares=(0.1, 1.0), draws=1, apart=True, restored=1)
    curve = faithfulness(subject, random_edges(subject), options)
    assert curve.scores[-1] == pytest.approx(curve.whole)
    assert curve.available == EdgePool.of(subject, random_edges(subject)).size
