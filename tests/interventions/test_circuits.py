"""Circuits: a slow loop over edges, what is planted, curves and their areas."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.circuits import NETWORKS, random_basis, random_edges, subject_of
from helpers.networks import Toy, ToyLoss, random_network
from helpers.numbers import assert_close, normal, seeded

from libgraph.backend.data import Data
from libgraph.errors import DataError, NumericalError, UsageError
from libgraph.interventions.apart import cut_apart
from libgraph.interventions.circuits import BASELINES, Circuits, EdgePool
from libgraph.interventions.edge_orders import edge_effects, edge_order, random_order
from libgraph.interventions.faithfulness import Curve, area, faithfulness, log_mean, recovered
from libgraph.interventions.options import FaithfulnessOptions
from libgraph.interventions.subject import Subject
from libgraph.network.basis import Basis
from libgraph.network.network import Network
from libgraph.sections import Linear


def slowly(circuits, circuit):
    """Every output feature in a pass of its own, input feature by input feature."""
    subject, ends = circuits.subject, []
    generator = torch.Generator().manual_seed(circuits.seed)
    for batch in subject.data:
        pool = subject.donors
        others = pool[torch.randint(2**31, (len(batch.inputs),), generator=generator) % len(pool)]
        elsewhere = subject.features(others)
        usual = subject.features(subject.reference.backend.inputs)
        f = subject.network.embed(batch.inputs) @ subject.bases[subject.layers[0]].encoder
        for number, (a, b, section) in enumerate(subject.network.pairs):
            source, target = subject.bases[a.name], subject.bases[b.name]
            columns = []
            for i in range(len(target)):
                x = torch.zeros(*f.shape[:2], a.size).double()
                for j in range(len(source)):
                    value = f[..., j]
                    if not circuit[number][i, j]:
                        value = {
                            "zero": torch.zeros_like(value),
                            "mean": usual[a.name][..., j].mean().expand_as(value),
                            "resample": elsewhere[a.name][..., j],
                        }[circuits.baseline]
                    x = x + value[..., None] * source.decoder[j]
                columns.append(section(x) @ target.encoder[:, i])
            f = torch.stack(columns, dim=-1)
        ends.append(f @ subject.bases[subject.layers[-1]].decoder)
    return torch.cat(ends)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_circuit_is_what_a_slow_loop_over_edges_says(kind, baseline):
    subject = subject_of(kind)
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject, baseline, seed=2)
    order = edge_order(circuits, pool)
    for count in (0, pool.size // 3):
        circuit = pool.circuit(pool.largest(order, count))
        outputs = circuits.outputs(circuit)
        assert outputs.isfinite().all()
        assert_close(outputs, slowly(circuits, circuit), 1e-10)


@pytest.mark.parametrize("baseline", BASELINES)
def test_all_edges_are_the_network_and_no_pair_is_too(baseline):
    subject = subject_of("attention")
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject, baseline)
    expected = subject.network(subject.backend.inputs)
    whole = pool.circuit(torch.ones(pool.size, dtype=torch.bool))
    assert_close(circuits.outputs(whole), expected, 1e-10)
    assert_close(circuits.outputs({}), expected, 1e-10)
    # One layer pair alone is as good as all where everything is kept.
    assert_close(circuits.outputs({1: whole[1]}), expected, 1e-10)


def test_without_edges_nothing_of_a_sample_is_left():
    subject = subject_of("mlp", positions=1)
    pool = EdgePool.of(subject, random_edges(subject))
    empty = pool.circuit(torch.zeros(pool.size, dtype=torch.bool))
    outputs = Circuits(subject, "mean").outputs(empty)
    assert_close(outputs, outputs[:1].expand_as(outputs))
    # The means go through the last section as one sample would.
    x = subject.usual["l2"].mean @ subject.bases["l2"].decoder
    assert_close(outputs[0], subject.network.sections[-1](x[None, None])[0])


def test_the_largest_edges_of_all_pairs_come_first():
    subject = subject_of("mlp")
    edges = random_edges(subject)
    pool = EdgePool.of(subject, edges)
    order = edge_order(Circuits(subject), pool)
    kept = pool.circuit(pool.largest(order, 10))
    inside, outside = [], []
    for number, (pair, matrix) in enumerate(edges.items()):
        mask = kept[number]
        # Edges from the constant, and to it where there is one, are no choice.
        above = subject.bases[pair[1]].isolated
        assert mask[:, 0].all()
        assert mask[:above].all()
        inside.append(matrix[above:, 1:][mask[above:, 1:]])
        outside.append(matrix[above:, 1:][~mask[above:, 1:]])
    assert len(torch.cat(inside)) == 10
    assert torch.cat(inside).min() > torch.cat(outside).max()


def test_shares_know_no_units():
    subject = subject_of("mlp")
    edges = random_edges(subject)
    scaled = {pair: 10.0**n * matrix for n, (pair, matrix) in enumerate(edges.items())}
    pools = [EdgePool.of(subject, each) for each in (edges, scaled)]
    orders = [edge_order(Circuits(subject), pool, "share") for pool in pools]
    assert torch.equal(*orders)
    assert not torch.equal(edge_order(Circuits(subject), pools[1]), orders[1])


@pytest.mark.parametrize("baseline", BASELINES)
def test_effects_are_those_of_edges_cut_alone(baseline):
    subject = subject_of("attention", backend=ToyLoss)
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject, baseline)
    exact = edge_effects(circuits, pool, samples=7, exact=True)
    base = circuits.score({})
    for edge in range(0, pool.size, 7):
        kept = torch.ones(pool.size, dtype=torch.bool)
        kept[edge] = False
        assert exact[edge] == pytest.approx(circuits.score(pool.circuit(kept)) - base, abs=1e-10)


def test_effects_to_first_order_are_exact_where_what_follows_is_linear():
    network = random_network(["tanh", "linear", "linear"], [3, 4, 4, 3], rotated=False)

    class Sum(Toy):
        def score(self, outputs, targets):
            return outputs.sum((1, 2))

    toy = Sum(network, normal(seeded(1), 6, 2, 3))
    bases = {layer.name: random_basis(layer, seeded(2)) for layer in network.node_layers}
    subject = Subject(network, toy, bases, Data(toy, "test", 4), Data(toy, "train", 4))
    pool = EdgePool.of(subject, random_edges(subject))
    one, other = (
        edge_effects(Circuits(subject), pool, samples=5, exact=exact) for exact in (True, False)
    )
    assert_close(other, one, 1e-10)


def test_effects_of_an_accuracy_are_those_of_the_prediction():
    subject = subject_of("mlp", positions=1)
    pool = EdgePool.of(subject, random_edges(subject))
    effects = edge_effects(Circuits(subject), pool, samples=7)
    predicted = subject.network(subject.backend.inputs)[:, 0].log_softmax(-1).max(1)
    kept = torch.ones(pool.size, dtype=torch.bool)
    kept[3] = False
    outputs = Circuits(subject).outputs(pool.circuit(kept))[:, 0].log_softmax(-1)
    expected = (outputs.gather(1, predicted.indices[:, None])[:, 0] - predicted.values).mean()
    assert float(effects[3]) == pytest.approx(float(expected), abs=1e-12)


def test_both_take_what_either_takes_first():
    subject = subject_of("mlp")
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject)
    orders = {order: edge_order(circuits, pool, order) for order in ("interaction", "effect")}
    both = edge_order(circuits, pool, "both").tolist()
    first = {int(order[0]) for order in orders.values()}
    assert set(both[: len(first)]) == first
    assert sorted(both) == list(range(pool.size))


@pytest.fixture(scope="module")
def planted():
    """Two inputs that the output is made of, through one layer, and four that do nothing."""
    weights = torch.zeros(7, 7).double()
    weights[0, 0], weights[1, 1], weights[-1, -1] = 3, 2, 1
    last = torch.zeros(7, 2).double()
    last[0, 0], last[1, 1] = 1, 1
    like = random_network(["linear", "linear"], [6, 6, 2], rotated=False)
    network = Network(like.embed, [Linear(weights), Linear(last)], like.node_layers)

    class Squares(Toy):
        """Of how far outputs are from what they ought to be."""

        higher_is_better = False

        def score(self, outputs, targets):
            return (outputs - targets).square().sum((1, 2))

    inputs = normal(seeded(1), 60, 1, 6)
    toy = Squares(network, inputs, network(inputs))
    layers = network.node_layers
    bases = {
        layer.name: Basis(
            torch.eye(layer.size).double().roll(int(layer.constant), 1),
            torch.eye(layer.size).double().roll(int(layer.constant), 0),
            torch.ones(layer.size),
            int(layer.constant),
            layer.rotated,
        )
        for layer in layers
    }
    edges = {}
    for a, b, section in network.pairs:
        matrix = bases[a.name].decoder @ section.matrix @ bases[b.name].encoder
        edges[a.name, b.name] = matrix.T.square()
    return Subject(network, toy, bases, Data(toy, "test", 16), Data(toy, "train", 16)), edges


def test_a_planted_circuit_is_found_and_nothing_else_is_needed(planted):
    subject, edges = planted
    pool = EdgePool.of(subject, edges)
    shares = tuple((n + 0.01) / pool.size for n in range(1, 8))
    options = FaithfulnessOptions(shares=shares, draws=2, restored=20, restored_at=4 / pool.size)
    curve = faithfulness(subject, edges, options)
    assert curve.counts == tuple(range(1, 8))
    f = curve.faithfulness
    assert all(b >= a - 1e-12 for a, b in pairwise(f))
    # Two paths of two edges each: one edge of each carries nothing.
    assert f[0] == pytest.approx(0)
    assert f[3:] == pytest.approx([1] * 4)
    assert curve.cmd < min(curve.random_cmd)
    assert curve.cpr > max(curve.random_cpr)
    # What is dropped does nothing, and does nothing when it comes back.
    assert curve.restored.faithfulness == pytest.approx(1)
    assert curve.restored.worst == pytest.approx(1)
    assert len(curve.restored.with_more) == 20


def test_the_worst_subset_is_told(planted):
    subject, edges = planted
    pool = EdgePool.of(subject, edges)
    # Of three of the four edges; the fourth comes back in some of the subsets.
    options = FaithfulnessOptions(shares=(1,), draws=0, restored=30, restored_at=3 / pool.size)
    restored = faithfulness(subject, edges, options).restored
    assert restored.faithfulness < 0.99
    assert restored.worst == pytest.approx(restored.faithfulness)
    assert max(restored.with_more) == pytest.approx(1)


def test_what_is_cut_at_once_loses_more_than_what_is_cut_alone(planted):
    subject, edges = planted
    pool = EdgePool.of(subject, edges)
    circuits = Circuits(subject)
    order = edge_order(circuits, pool)
    apart = cut_apart(circuits, pool, order, (2.01 / pool.size, 1.0))
    few, everything = apart.edges
    names = ["l0 → l1", "l1 → l2"]
    circuit = pool.circuit(pool.largest(order, 2))
    for number, name in enumerate(names):
        assert few.alone[name] == pytest.approx(circuits.score({number: circuit[number]}))
    assert few.together == pytest.approx(circuits.score(circuit))
    assert everything.lost_together == pytest.approx(0, abs=1e-12)
    assert everything.lost_alone == pytest.approx(0, abs=1e-12)
    # The two features that count are the first: half of them are enough, one in six is not.
    assert apart.features[1].lost_together == pytest.approx(0, abs=1e-12)
    assert apart.features[0].alone["l0"] > 1


def test_features_of_all_layers_are_cut_as_by_hand():
    subject = subject_of("attention", backend=ToyLoss)
    pool = EdgePool.of(subject, random_edges(subject))
    circuits = Circuits(subject)
    cut = cut_apart(circuits, pool, edge_order(circuits, pool), (0.5,)).features[0]
    x = subject.network.embed(subject.backend.inputs)
    for number, layer in enumerate(subject.network.node_layers):
        x = subject.network.sections[number - 1](x) if number else x
        if layer.rotated:
            basis = subject.bases[layer.name]
            f, first = x @ basis.encoder, 1 + round((len(basis) - 1) / 2)
            f[..., first:] = subject.usual[layer.name].mean[first:]
            x = f @ basis.decoder
    expected = subject.backend.score(x, subject.backend.targets).mean()
    assert cut.together == pytest.approx(float(expected), rel=1e-12)
    assert list(cut.alone) == ["l0", "l1", "l2"]


def test_areas_are_those_of_numpy():
    shares, values = [0.001, 0.01, 0.5, 1.0], [0.1, 0.4, 1.2, 1.0]
    assert area(shares, values) == pytest.approx(np.trapezoid(values, shares))
    assert math.isnan(area([0.5], [1.0]))
    logs = np.log(shares)
    expected = np.trapezoid(values, logs) / (logs[-1] - logs[0])
    assert log_mean(shares, values) == pytest.approx(expected)
    curve = Curve(10, tuple(shares), (0, 0, 5, 10), 1.0, 0.0, tuple(values))
    assert curve.cpr == pytest.approx(np.trapezoid(values, shares))
    assert curve.cmd == pytest.approx(np.trapezoid(np.abs(1 - np.array(values)), shares))


def test_losses_and_accuracies_are_read_alike():
    assert recovered([2.0, 1.0, 0.5], 2.0, 1.0) == pytest.approx((0, 1, 1.5))
    assert recovered([0.1, 0.9], 0.1, 0.9) == pytest.approx((0, 1))
    # A network that is no better than nothing has no faithfulness.
    assert all(math.isnan(f) for f in recovered([0.5, 0.7], 0.5, 0.5))


def test_random_edges_and_samples_that_stand_in_are_seeded():
    subject = subject_of("attention", backend=ToyLoss)
    edges = random_edges(subject)
    options = FaithfulnessOptions(shares=(0.2, 0.5), baseline="resample", draws=2)
    one, again = (faithfulness(subject, edges, options) for _ in range(2))
    other = faithfulness(subject, edges, options.model_copy(update={"seed": 1}))
    assert one.scores == again.scores
    assert one.random == again.random
    assert one.scores != other.scores
    assert not torch.equal(random_order(50, 0, 0), random_order(50, 0, 1))


def test_samples_that_stand_in_do_not_depend_on_batches():
    subject = subject_of("attention", backend=ToyLoss)
    pool = EdgePool.of(subject, random_edges(subject))
    circuit = pool.circuit(pool.largest(random_order(pool.size, 0), 9))
    together = Subject(
        subject.network, subject.backend, subject.bases,
        Data(subject.backend, "test", 7), subject.reference,
    )  # fmt: skip
    one, other = (Circuits(each, "resample").scores(circuit) for each in (subject, together))
    assert_close(one, other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shares": (0.0, 0.5)}, "above 0"),
        ({"shares": ()}, "shares"),
        ({"baseline": "median"}, "mean"),
        ({"restored_at": 1.0}, "restored_at"),
    ],
)
def test_options_that_say_nothing_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        FaithfulnessOptions(**options)


def test_scores_that_are_no_numbers_are_refused(planted):
    subject, edges = planted
    pool = EdgePool.of(subject, edges)
    broken = Subject(
        subject.network, type("Broken", (Toy,), {"score": lambda _, x, y: x[:, 0, 0] * math.nan})(
            subject.network, subject.backend.inputs
        ), subject.bases, subject.data, subject.reference,
    )  # fmt: skip
    with pytest.raises(NumericalError, match="not a finite number"):
        Circuits(broken).score(pool.circuit(torch.ones(pool.size, dtype=torch.bool)))


def test_what_does_not_fit_together_is_refused():
    subject = subject_of("mlp")
    edges = random_edges(subject)
    with pytest.raises(UsageError, match="no baseline"):
        Circuits(subject, "median")
    with pytest.raises(UsageError, match=r"l1 → l2 are not those of this basis"):
        EdgePool.of(subject, {**edges, ("l1", "l2"): edges["l1", "l2"][:, 1:]})
    pool = EdgePool.of(subject, edges)
    circuits = Circuits(subject, "resample")
    circuit = pool.circuit(torch.zeros(pool.size, dtype=torch.bool))
    object.__setattr__(subject, "donors", subject.backend.inputs[:, :2])
    with pytest.raises(DataError, match="need the length"):
        circuits.score(circuit)
