"""Planted networks: what is planted, what hides it, and that it is found again."""

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.modules.agreement import agreement_with_concepts
from libgraph.modules.communities import find_communities
from libgraph.testing import check_backend
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.options import MLPOptions
from libgraph_backends.mlp.planted import Design, Planted, random_change
from libgraph_backends.shared.layers import forward

DESIGN = {
    "blocks": 2, "width": 3, "layers": 2, "strengths": (1.0, 1.0), "interaction": 0.0,
    "correlation": 0.0, "dead": 0, "duplicated": 0, "hide": True, "weights": "normal",
    "skips": False, "seed": 0,
}  # fmt: skip


def planted(activation=torch.relu, **options):
    return Planted(Design(**{**DESIGN, **options}), activation)


def modular(**options):
    return MLP(MLPOptions(**{"samples": 2000, **options}))


def inner(run, name="lib"):
    """Edges between features that are clustered, by layer pair."""
    bases = run.bases(name)
    return {
        (a, b): edges[bases[b].isolated :, bases[a].isolated :]
        for (a, b), edges in run.edges(name).items()
        if bases[b].rotated
    }


def off_diagonal(edges):
    return edges[~torch.eye(*edges.shape, dtype=torch.bool)]


# What is planted


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hide": False},
        {"activation": "tanh", "interaction": 0.3, "correlation": 0.5},
        {"dead": 3, "duplicated": 2, "blocks": 3, "width": 2, "strengths": "1,0.5,2"},
        {"activation": "linear", "layers": 1},
        {"skips": True, "weights": "orthogonal", "layers": 3},
    ],
)
def test_planted_networks_keep_the_contract(options):
    check_backend(lg.load_backend("mlp", samples="40", **options))


def test_blocks_do_not_interact_unless_asked():
    apart = planted(layers=3)
    x = normal(seeded(1), 20, 6)
    other = x.clone()
    other[:, 3:] = normal(seeded(2), 20, 3)
    for before, after in zip(forward(apart.plain, x), forward(apart.plain, other), strict=True):
        assert torch.equal(before[:, :3], after[:, :3])
        assert not torch.allclose(before[:, 3:], after[:, 3:])
    weak, strong = (
        [layer.matrix for layer in planted(interaction=size).plain] for size in (0.1, 1.0)
    )
    for a, b in zip(weak, strong, strict=True):
        assert 0 < float(a[:3, 3:].abs().max()) < 1
        assert_close(10 * a[:3, 3:], b[:3, 3:])
        assert torch.equal(a[:3, :3], b[:3, :3])


SKIPPING = {"skips": True, "weights": "orthogonal", "layers": 4}


@pytest.mark.parametrize("options", [{}, {"dead": 4, "duplicated": 5, "layers": 3}, SKIPPING])
def test_hiding_keeps_the_function_and_mixes_every_hidden_unit(options):
    network = planted(**options)
    x = normal(seeded(1), 50, 6)
    plain, hidden = (list(forward(layers, x)) for layers in (network.plain, network.layers))
    assert_close(hidden[-1], plain[-1])
    for before, after, change in zip(plain[:-1], hidden[:-1], network.changes[1:], strict=True):
        assert_close(after, before @ change)
        assert float((change.abs() > 1e-3).double().mean()) > 0.95


def test_more_units_leave_the_function_alone():
    x = normal(seeded(1), 50, 6)
    few, more = (planted(dead=count, duplicated=count) for count in (0, 5))
    *hidden, output = forward(more.plain, x)
    *_, expected = forward(few.plain, x)
    assert_close(output, expected)
    assert [layer.shape[1] for layer in hidden] == [16, 16]
    # Units that are off have no variance, copies no direction of their own, others no effect.
    assert int((hidden[0] == 0).all(0).sum()) >= 3
    assert int(torch.linalg.matrix_rank(hidden[0])) == 6
    assert int((more.plain[1].matrix[:-1] == 0).all(1).sum()) == 2
    assert more.members[1].tolist()[:6] == [0, 0, 0, 1, 1, 1]


def test_layers_with_skips_add_to_what_they_read():
    network = planted(layers=4, skips=True)
    without = planted(layers=4)
    x = normal(seeded(1), 20, 6)
    for layer, other in zip(network.plain[:-1], without.plain[:-1], strict=True):
        assert torch.equal(layer.matrix, other.matrix)
        branch = next(forward([other], x))
        (after,) = forward([layer], x)
        assert_close(after, x + branch / 2)
        x = after
    assert network.plain[-1].skip is None


def test_orthogonal_blocks():
    for layer in planted(weights="orthogonal", interaction=0.1).plain:
        for block in (slice(0, 3), slice(3, 6)):
            square = layer.matrix[block, block]
            assert_close(square @ square.T, 2 * torch.eye(3).double())
    # Between blocks they are as ever.
    a, b = (planted(weights=kind, interaction=0.1).plain[0] for kind in ("normal", "orthogonal"))
    assert torch.equal(a.matrix[:3, 3:], b.matrix[:3, 3:])


def test_with_skips_no_unit_is_dead():
    for option in ({"dead": 1}, {"duplicated": 1}):
        with pytest.raises(UsageError, match="leave dead= and duplicated= out"):
            MLP(MLPOptions(skips=True, **option))


def test_strengths_scale_the_outputs_of_their_block():
    x = normal(seeded(1), 5, 6)
    even, weaker = planted(), planted(strengths=(1, 0.25))
    *_, expected = forward(even.plain, x)
    *_, output = forward(weaker.plain, x)
    assert_close(output[:, :3], expected[:, :3])
    assert_close(output[:, 3:], expected[:, 3:] / 4)
    assert float(even.plain[-1].matrix[-1, 3:].abs().max()) > 0


def test_inputs_are_correlated_as_asked():
    x = planted(correlation=0.4, blocks=3, strengths=(1, 1, 1)).inputs(200_000, 0)
    correlation = torch.corrcoef(x.T)
    expected = torch.eye(9).double()
    for shift in (3, 6):
        expected += 0.4 * (torch.ones(9 - shift).diag(shift) + torch.ones(9 - shift).diag(-shift))
    assert float((correlation - expected).abs().max()) < 0.015
    assert float((x.var(0) - 1).abs().max()) < 0.02


def test_streams_and_seeds_are_different_and_repeatable():
    rows = {split: next(iter(modular().batches(split, 5))).inputs for split in ("train", "test")}
    assert not torch.equal(rows["train"], rows["test"])
    first, again, other = (modular(seed=seed).network().fingerprint() for seed in (0, 0, 1))
    assert first == again != other


def test_a_change_of_basis_is_invertible_by_a_margin():
    for seed in range(20):
        change = random_change(8, seeded(seed))
        assert 1 <= float(torch.linalg.cond(change)) <= 9 + 1e-9


def test_the_score_is_the_share_of_variance_that_is_lost():
    backend = modular(samples=500)
    outputs = next(iter(backend.batches("train", 500))).targets
    mean = outputs.mean(0).expand_as(outputs)
    assert float(backend.score(outputs[:, None], outputs).abs().max()) == 0
    assert float(backend.score(mean[:, None], outputs).mean()) == pytest.approx(1)
    assert (backend.score_name, backend.higher_is_better) == ("relative error", False)
    assert (backend.concept, backend.modules_known) == ("block", True)
    assert (MLP.score_name, MLP.higher_is_better, MLP.modules_known) == ("accuracy", True, False)


# What does not matter to a basis that sees only the function


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_lib_does_not_depend_on_hiding(activation):
    plain, hidden = (
        lg.analyze(modular(hide=hide, activation=activation, seed=3), ablate=False)
        for hide in (False, True)
    )
    for name, basis in plain.bases("lib").items():
        assert_close(hidden.bases("lib")[name].importance, basis.importance, 1e-8)
    for pair, edges in plain.edges("lib").items():
        assert_close(hidden.edges("lib")[pair], edges, 1e-8)


def test_lib_interactions_of_a_linear_network_are_diagonal():
    run = lg.analyze(modular(activation="linear", interaction=1.0), ablate=False)
    assert len(inner(run)) == 4
    for edges in inner(run).values():
        assert float(off_diagonal(edges).max()) < 1e-12 * float(edges.max())
    assert max(float(off_diagonal(edges).max()) for edges in inner(run, "pca").values()) > 0.01


def test_dead_and_duplicated_directions_are_no_features():
    few, more = (
        lg.analyze(modular(dead=count, duplicated=count, seed=2), ablate=False) for count in (0, 4)
    )
    for name, basis in few.bases("lib").items():
        assert_close(more.bases("lib")[name].importance, basis.importance, 1e-8)


# What is found again


@pytest.fixture(scope="module")
def run_of():
    """The whole analysis of a planted network by its seed, made when it is first asked for."""
    runs = {}

    def run(seed):
        if seed not in runs:
            backend = modular(seed=seed, samples=20_000)
            runs[seed] = lg.analyze(backend, seeds=3, beside=("pca", "neuron"))
        return runs[seed]

    return run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_modules_are_found_again_in_lib_and_not_in_pca(seed, run_of):
    run = run_of(seed)
    lib, pca = (run.metrics.bases[name].modules for name in ("lib", "pca"))
    assert lib.homogeneity >= 0.95
    # Plain modularity sees nothing of it in PCA.
    plain = _agreement(run.graph("pca"))
    assert plain["homogeneity"] < 0.1
    assert abs(plain["adjusted_rand_index"]) < 0.1
    # Layered modularity does, in few layers.
    assert pca.homogeneity < 0.5
    assert pca.adjusted_rand_index < 0.5 * lib.adjusted_rand_index
    assert pca.modularity < 0.25 * lib.modularity
    main = run.metrics.modules
    assert main.homogeneity == lib.homogeneity
    assert main.adjusted_rand_index == lib.adjusted_rand_index
    assert 0.3 < main.coverage <= 1
    # The truth, from the graph itself.
    truth = [
        label.concept
        for layer in run.graph().layers
        if layer.labels
        for label, module in zip(
            layer.labels, run.graph().membership(layer.name).tolist(), strict=True
        )
        if module >= 0
    ]
    assert set(truth) == {"0", "1"}


def _agreement(graph):
    """Of plain modularity's modules with the blocks."""
    found = find_communities(graph, seeds=3, objective="modularity")
    return agreement_with_concepts(graph.with_partition(found))


def test_coarser_modules_are_the_blocks(run_of):
    graph = run_of(1).graph()
    coarse = find_communities(graph, resolution=0.5, seeds=3)
    agreement = agreement_with_concepts(graph.with_partition(coarse))
    assert (agreement["homogeneity"], agreement["adjusted_rand_index"]) == (1, 1)


def test_neurons_show_nothing(run_of):
    assert _agreement(run_of(0).graph("neuron"))["homogeneity"] < 0.1
    assert run_of(0).metrics.bases["neuron"].modules.adjusted_rand_index < 0.1
