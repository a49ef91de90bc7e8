"""An analysis whose basis is a folder of dictionaries, from reading to a saved run."""

import dataclasses
import json

import pytest
import torch
from helpers.networks import Toy, random_network
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import load_file, save_file
from torch.func import jacrev

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.dictionaries.saelens import NORMALISATIONS, write
from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.score import Scoring
from libgraph.errors import NumericalError, TooLarge, UsageError
from libgraph.graph.features import FeatureLabel
from libgraph.network.dictionary import Dictionary, Threshold, TopK

SIZES = [4, 5, 3]


def network_of(kinds=("tanh", "relu")):
    return random_network(list(kinds), SIZES, seed=0, rotated=False)


@pytest.fixture(scope="module")
def backend():
    network = network_of()
    return Toy(network, normal(seeded(0), 60, 2, SIZES[0]))


def save(folder, name, size, latents=12, k=None, seed=1, length=0.5, bias=0.0, how=None):
    generator = seeded(seed)
    encoder = normal(generator, size, latents)
    write(
        folder / name,
        DictionaryWeights(
            folder,
            name,
            encoder,
            torch.full((latents,), bias).double(),
            length * encoder.T / encoder.square().sum(0)[:, None],
            0.1 * normal(generator, size),
            Threshold(torch.full((latents,), 0.2).double()) if k is None else TopK(k),
            how,
        ),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "saes"
    save(folder, "l0", SIZES[0], k=3)
    save(folder, "l1", SIZES[1], seed=2)
    return folder


@pytest.fixture(scope="module")
def run(backend, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    return lg.analyze(backend, basis=str(folder), out=out, tolerances=[0.01], seeds=1)


def test_latents_take_part_like_any_features(run):
    bases = run.bases()
    assert [*map(type, bases.values())].count(Dictionary) == 2
    figures = run.metrics.bases["saes"].dictionaries
    assert [*figures.layers] == ["l0", "l1"]
    assert figures.layers["l0"].active <= 3
    assert run.metrics.bases["saes"].edges_required
    assert "through errors" in str(run)


def test_edges_of_a_run_are_those_of_autodiff(run, backend):
    """Through encoder, section and decoder, for every sample and position."""
    network, inputs = backend.network(), backend.inputs
    source, target = run.bases()["l0"], run.bases()["l1"]
    section = network.sections[0]
    x = network.embed(inputs)
    y = section(x)
    edges = torch.zeros(len(target), len(source), dtype=torch.float64)
    features, gates = source.latents(x), (target.latents(y) != 0).double()
    gates[..., : target.isolated - 1] = 1
    parts = features.unsqueeze(-1) * source.decoder
    parts[..., source.error_place, :] = x - features @ source.decoder
    for n in range(len(x)):
        jacobian = jacrev(lambda x: section(x[None])[0])(x[n])
        for t in range(x.shape[1]):
            effects = parts[n, t] @ jacobian[t, :, t].T @ target.encoder
            edges += (gates[n, t][:, None] * effects.T) ** 2
    assert_close(run.edges()["l0", "l1"], edges / x[..., 0].numel())


def test_a_saved_run_has_the_same_latents(run, backend):
    saved = lg.open_run(run.directory)
    x = backend.network().embed(backend.inputs)
    for name, basis in run.bases().items():
        assert type(saved.bases()[name]) is type(basis)
        assert saved.bases()[name].isolated == basis.isolated
    assert_close(saved.bases()["l0"].features(x), run.bases()["l0"].features(x))
    assert saved.bases()["l0"].dead == run.bases()["l0"].dead
    for pair, matrix in run.edges().items():
        assert torch.equal(saved.edges()[pair], matrix)


def test_stages_are_taken_from_an_earlier_run(run, backend, folder, tmp_path):
    first = json.loads((run.directory / "run.json").read_text())["stages"]
    again = lg.analyze(
        backend, basis=str(folder), out=run.directory, tolerances=[0.01], seeds=1, force=True
    )
    second = json.loads((again.directory / "run.json").read_text())["stages"]
    assert {name: stage["hash"] for name, stage in first.items()} == {
        name: stage["hash"] for name, stage in second.items()
    }
    assert_close(again.edges()["l0", "l1"], run.edges()["l0", "l1"])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_learned_dictionaries_stay_with_a_run_that_is_made_again(backend, tmp_path):
    """Stages are reused, and with them go the folders that other tools read."""
    options = {"dictionary_steps": 5, "ablate": False, "seeds": 1, "out": tmp_path / "run"}
    first = lg.analyze(backend, basis="dictionary", **options)
    folder = tmp_path / "run" / "dictionaries"
    files = contents(folder)
    assert len(files) == 4
    again = lg.analyze(backend, basis="dictionary", force=True, **options)
    assert contents(folder) == files
    record = json.loads((first.directory / "run.json").read_text())
    assert "dictionaries/l0/cfg.json" in record["files"]
    seconds = again.metrics.seconds
    assert seconds["dictionaries dictionary"] == first.metrics.seconds["dictionaries dictionary"]
    lg.analyze(backend, basis="lib", force=True, **options)
    assert not folder.exists()
    assert not [*(tmp_path / "run").glob("dictionaries-*.json")]


def test_variance_explained_does_not_drown_in_a_mean(backend, folder):
    """Of activations whose mean is a million deviations."""
    from libgraph.edges.reconstruction import reconstructions
    from libgraph.network.dictionary import Dictionary

    network = backend.network()
    basis = lg.analyze(backend, basis=str(folder), ablate=False, seeds=1).bases()["l0"]
    assert isinstance(basis, Dictionary)
    data = Data(backend, "test")
    near = reconstructions(Scoring(network, backend, data), {"l0": basis}).layers["l0"].explained
    far = backend.inputs + 1e9
    shifted = Toy(network, far)
    decoder, encoder = basis.decoder.clone(), basis.encoder.clone()
    decoder[0, :-1] += 1e9
    encoder[-1, basis.isolated :] -= 1e9 * encoder[:-1, basis.isolated :].sum(0)
    moved = dataclasses.replace(basis, encoder=encoder, decoder=decoder)
    found = reconstructions(Scoring(network, shifted, Data(shifted, "test")), {"l0": moved}).layers[
        "l0"
    ]
    # Activations keep 2**-53 of a thousand million; what is squared has twice that.
    assert found.explained == pytest.approx(near, abs=1e-3)


def test_weights_too_large_to_be_squared_are_said(backend, tmp_path):
    save(tmp_path, "l0", SIZES[0])
    path = tmp_path / "l0" / "sae_weights.safetensors"
    weights = {name: tensor.double() for name, tensor in load_file(path).items()}
    save_file({**weights, "W_dec": 1e200 * weights["W_dec"]}, path)
    with pytest.raises(NumericalError, match="The dictionary at l0 gives values that are not"):
        lg.analyze(backend, basis=str(tmp_path), ablate=False, seeds=1)


@pytest.mark.parametrize("kinds", [("tanh", "relu"), ("attention", "linear")])
def test_with_everything_kept_ablation_leaves_the_model(kinds, folder):
    network = network_of(kinds)
    backend = Toy(network, normal(seeded(0), 60, 2, SIZES[0]))
    run = lg.analyze(backend, basis=str(folder), ablate=False, seeds=1, dtype="float64")
    scoring = Scoring(network, backend, Data(backend, "test"))
    nodes = ablate_nodes(scoring, run.bases())
    for name, curve in nodes.items():
        assert curve[len(run.bases()[name])] == scoring.base_score
    edges = ablate_edges(scoring, run.bases(), run.edges(), tolerances=[1e-9], curves=True)
    for found in edges.values():
        assert found.score[found.available] == scoring.base_score
        # More features than coordinates: all edges are enough, and so are some.
        assert found.required[1e-9] is not None


def test_nodes_are_ablated_from_the_least(run, backend):
    """With k features a layer is the error and the first latents, by hand."""
    network = backend.network()
    scoring = Scoring(network, backend, Data(backend, "test"))
    curve = ablate_nodes(scoring, {"l1": run.bases()["l1"]}, points=100)["l1"]
    basis = run.bases()["l1"]
    y = network.activations_at(1, backend.inputs)
    for k, score in curve.items():
        kept = basis.latents(y)
        kept[..., k:] = 0
        x = kept @ basis.decoder + (basis.error(y) if k > basis.error_place else 0)
        expected = backend.score(network.from_layer(1, x), backend.targets).mean()
        assert score == pytest.approx(float(expected))


def test_dictionaries_of_another_model_are_told(backend, tmp_path, caplog):
    save(tmp_path / "saes", "l0", SIZES[0], length=40.0)
    lg.analyze(backend, basis=str(tmp_path / "saes"), ablate=False, seeds=1)
    assert "explains less than the mean does" in caplog.text


def test_latents_that_never_fire_are_named(backend, tmp_path):
    save(tmp_path / "saes", "l0", SIZES[0], bias=-100.0)
    with pytest.raises(UsageError, match="No latent of the dictionary at l0 is active"):
        lg.analyze(backend, basis=str(tmp_path / "saes"), ablate=False)


def test_more_latents_than_memory_holds_are_refused(backend, tmp_path):
    save(tmp_path / "saes", "l0", SIZES[0], latents=600)
    save(tmp_path / "saes", "l1", SIZES[1], latents=600)
    with pytest.raises(TooLarge, match="more than the memory budget"):
        lg.analyze(backend, basis=str(tmp_path / "saes"), ablate=False, memory="1MiB")


def test_questions_that_need_linear_features_say_so(run):
    with pytest.raises(UsageError, match="order='effect' needs features that are linear"):
        run.faithfulness("saes", order="effect")


class Labelled(Toy):
    def labels(self, encode, bases):
        return {name: [FeatureLabel("its own")] * len(basis) for name, basis in bases.items()}


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
def test_activations_may_be_divided_by_their_own_size(backend, tmp_path, how):
    backend = Labelled(backend.network(), backend.inputs)
    for name, size, k in (("l0", SIZES[0], 3), ("l1", SIZES[1], None)):
        save(tmp_path / "saes", name, size, k=k, how=NORMALISATIONS[how])
    run = lg.analyze(
        backend, basis=str(tmp_path / "saes"), out=tmp_path / "run", tolerances=[0.01], seeds=1,
        integration="gauss-legendre:32", dtype="float64",
    )  # fmt: skip
    network, bases = backend.network(), run.bases()
    # Constant, mean, size, error.
    assert bases["l1"].isolated == (4 if how == "layer_norm" else 3)
    mean = ["mean over coordinates"] * (how == "layer_norm")
    labels = [label.text for label in run.graph().layer("l1").labels]
    assert labels[: bases["l1"].isolated + 1] == [
        "its own", *mean, "size of the activation", "error", "its own",
    ]  # fmt: skip
    scoring = Scoring(network, backend, Data(backend, "test"))
    for name, curve in ablate_nodes(scoring, bases).items():
        assert curve[len(bases[name])] == pytest.approx(scoring.base_score)
    for found in ablate_edges(scoring, bases, run.edges(), tolerances=[1e-9], curves=True).values():
        assert found.score[found.available] == pytest.approx(scoring.base_score)
    saved, x = lg.open_run(run.directory), network.embed(backend.inputs)
    for name in ("l0", "l1"):
        y = x if name == "l0" else network.activations_at(1, backend.inputs)
        assert torch.equal(saved.bases()[name].features(y), bases[name].features(y))
    figures = run.metrics.bases["saes"].dictionaries
    assert figures.layers["l1"].recovered is not None
    assert run.intervene({f"l1/{bases['l1'].isolated}": 0.0}) is not None


def test_the_graph_of_one_input_has_latents_and_their_error(run):
    graph = run.prompt(0, classes=2).whole
    basis = run.bases()["l0"]
    assert max(graph.completeness.values()) < 1e-8
    assert basis.error_place in graph.layers[0].features.tolist()
    assert any(feature >= basis.isolated for feature in graph.layers[0].features.tolist())


def test_faithfulness_of_latents_ends_at_the_model(run):
    curve = run.faithfulness(shares=[0.1, 1.0], draws=1).curves["saes"]
    assert curve.scores[-1] == pytest.approx(curve.whole)


def test_draws_learn_dictionaries_anew_and_cannot_read_them_anew(backend, folder):
    options = {"draws": 2, "seeds": 1, "ablate": False, "dictionary_steps": 5}
    run = lg.analyze(backend, basis="dictionary", **options)
    found = run.metrics.bases["dictionary"].modules.significance
    assert found.draws == 2
    # The graph that rotations are compared with is that of the run.
    assert found.modularity == pytest.approx(run.metrics.bases["dictionary"].modules.modularity)
    with pytest.raises(UsageError, match="and cannot be made anew for it"):
        lg.analyze(backend, basis=str(folder), **options)


def test_latents_can_be_switched_off(run):
    changes = {f"l1/{run.bases()['l1'].isolated}": 0.0}
    assert run.intervene(changes) is not None
