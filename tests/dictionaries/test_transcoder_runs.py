"""An analysis with a transcoder in place of an MLP, from reading to a saved run."""

import json

import pytest
import torch
from helpers.dictionaries import (
    WIDTH,
    bases_of,
    edges_by_autodiff,
    network_with_mlp,
    save_transcoder,
)
from helpers.numbers import assert_close, normal, seeded

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.dictionaries.matching import dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.dictionaries.saelens import write
from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.interactions import estimate_interactions
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.reconstruction import reconstructions
from libgraph.edges.score import Scoring
from libgraph.errors import UsageError
from libgraph.interventions.circuits import Circuits
from libgraph.interventions.subject import Subject
from libgraph.network.basis import Basis
from libgraph.network.dictionary import Threshold
from libgraph.network.transcoder import Transcoder
from libgraph.sections.quadrature import Quadrature

RULES = ["gradient", "gauss-legendre:3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A skip transcoder, and an autoencoder of the stream after."""
    folder = tmp_path_factory.mktemp("runs") / "transcoders"
    save_transcoder(folder / "mlp", "jumprelu_skip_transcoder")
    generator = seeded(5)
    encoder = normal(generator, WIDTH, 8)
    write(
        folder / "after",
        DictionaryWeights(
            folder,
            "after",
            encoder,
            torch.zeros(8).double(),
            0.5 * encoder.T / encoder.square().sum(0)[:, None],
            torch.zeros(WIDTH).double(),
            Threshold(torch.full((8,), 0.2).double()),
        ),
    )
    return folder


@pytest.fixture(scope="module")
def backend():
    return network_with_mlp()[0]


@pytest.fixture(scope="module")
def run(backend, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "run"
    return lg.analyze(
        backend, basis=str(folder), beside=("lib",), out=out, tolerances=[0.01], seeds=1
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mixing", ["attention", "tanh"])
def test_edges_are_those_of_autodiff(mixing, rule, folder):
    """Through encoder, section and decoder, into latents and out of them."""
    backend, _ = network_with_mlp(torch.tanh, mixing)
    network, bases = backend.network(), bases_of(backend, folder)
    rule = Quadrature.parse(rule)
    found = estimate_interactions(network, {"t": bases}, Data(backend, "train"), rule, 0)
    for index, (a, b, section) in enumerate(network.pairs):
        x = network.activations_at(index, backend.inputs)
        actual = found.edges["t"][a.name, b.name]
        assert_close(
            actual, edges_by_autodiff(section, bases[a.name], bases[b.name], x, rule), 1e-10
        )
        assert float(actual.max()) > 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mixing", ["attention", "tanh"])
@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
def test_edges_go_through_what_inputs_are_divided_by(mixing, rule, how, tmp_path):
    """The size is no constant: dense Jacobians through it, and circuits that are the network."""
    w = save_transcoder(tmp_path, "jumprelu_skip_transcoder", normalize_activations=how)
    backend, _ = network_with_mlp(torch.tanh, mixing)
    network, bases = backend.network(), bases_of(backend, tmp_path)
    basis, x = bases["mlp"], network.activations_at(1, backend.inputs)
    h = x[..., :WIDTH]
    h = h - h.mean(-1, keepdim=True) if how == "layer_norm" else h
    size = h.std(-1, keepdim=True) + 1e-5 if how == "layer_norm" else h.norm(dim=-1)[..., None] / 2
    pre = h / size @ w["W_enc"] + w["b_enc"]
    z = (pre.relu() * (pre > w["threshold"]))[..., basis.numbers]
    assert_close(basis.latents(x)[..., basis.always :], z)
    rule = Quadrature.parse(rule)
    found = estimate_interactions(network, {"t": bases}, Data(backend, "train"), rule, 0)
    for index, (a, b, section) in enumerate(network.pairs):
        x = network.activations_at(index, backend.inputs)
        actual = found.edges["t"][a.name, b.name]
        assert_close(
            actual, edges_by_autodiff(section, bases[a.name], bases[b.name], x, rule), 1e-10
        )
        assert float(actual.max()) > 0
    subject = Subject(network, backend, bases, Data(backend, "test"), Data(backend, "train"))
    whole = {
        place: torch.ones(len(bases[b.name]), len(bases[a.name]), dtype=torch.bool)
        for place, (a, b, _) in enumerate(network.pairs)
    }
    circuits = Circuits(subject)
    assert_close(circuits.outputs(whole), circuits.outputs({}), 1e-10)


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_a_run_with_divided_inputs_reads_back(backend, kind, tmp_path):
    save_transcoder(tmp_path / "t", "transcoder", normalize_activations=kind)
    run = lg.analyze(
        backend, basis=str(tmp_path / "t"), beside=(), out=tmp_path / "run", tolerances=[0.01],
        seeds=1,
    )  # fmt: skip
    name = run.chosen(None)
    again = lg.open_run(tmp_path / "run").bases(name)["mlp"]
    basis = run.bases(name)["mlp"]
    x = backend.network().activations_at(1, backend.inputs).float().to(basis.encoder)
    assert torch.equal(again.latents(x), basis.latents(x))


def test_interactions_add_up_to_the_change_of_pre_activations(folder):
    backend, _ = network_with_mlp(torch.tanh)
    bases, data = {"t": bases_of(backend, folder)}, Data(backend, "train")
    missed = {
        rule: estimate_interactions(
            backend.network(), bases, data, Quadrature.parse(rule), 0
        ).missed["t"]
        for rule in ("gradient", "gauss-legendre:32")
    }
    assert missed["gauss-legendre:32"]["after", "out"] < 1e-8
    assert missed["gradient"]["after", "out"] > 1e-3
    # Without a norm what latents read is linear in the stream, and what they write in them.
    assert missed["gradient"]["stream", "mlp"] < 1e-12
    assert missed["gradient"]["mlp", "after"] < 1e-12


def test_features_run_on_as_the_model_does(backend, folder):
    """With the error kept nothing is changed, also where features miss some of the stream."""
    network, basis = backend.network(), bases_of(backend, folder)["mlp"]
    x = network.activations_at(1, backend.inputs)
    pre = x @ basis.encoder
    assert_close(network.from_layer(1, basis.activations(pre, x)), network(backend.inputs), 1e-14)
    # One feature of the stream alone: the rest goes with the error, which is no more for it.
    layer = network.node_layers[1]
    found = matched(read_dictionaries(folder), network.node_layers)["mlp"]
    whole = dictionary_of_layer(layer, found, torch.ones(1))
    fewer = whole.carrying(one_of_the_stream(), torch.eye(WIDTH).double())
    assert fewer.carried == 1
    pre = x @ fewer.encoder
    assert_close(network.from_layer(1, fewer.activations(pre, x)), network(backend.inputs), 1e-14)
    error = basis.features(x)[..., basis.error_place]
    assert_close(fewer.features(x)[..., fewer.error_place], error)


def one_of_the_stream():
    """A basis of the stream and the constant with one feature, a coordinate of it."""
    eye = torch.eye(WIDTH + 1).double()
    return Basis(eye[:, [WIDTH, 0]], eye[[WIDTH, 0]], torch.ones(2).double(), 1)


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_what_passes_by_is_the_stream_and_the_skip(tmp_path, architecture, backend):
    w = save_transcoder(tmp_path, architecture)
    basis = bases_of(backend, tmp_path)["mlp"]
    assert isinstance(basis, Transcoder)
    x = backend.network().activations_at(1, backend.inputs)
    h = x[..., :WIDTH]
    passes = h + (h @ w["W_skip"].T if "W_skip" in w else 0)
    f = basis.latents(x)
    f[..., basis.always :] = 0
    # The constant's feature brings the decoder's own bias.
    assert_close((f @ basis.decoder)[..., WIDTH:-1], passes + w["b_dec"])
    assert (basis.importance[basis.always :].diff() <= 0).all()


def test_features_of_what_passes_by_are_its_lib(tmp_path, backend):
    """Their variance is how much they do to the next node layer's features, which are LIB's."""
    save_transcoder(tmp_path, "skip_transcoder")
    bases = bases_of(backend, tmp_path)
    basis, after = bases["mlp"], bases["after"]
    x = backend.network().activations_at(1, backend.inputs)
    carried = slice(basis.isolated, basis.always)
    f = basis.features(x)[..., carried].flatten(0, 1)
    variances = f.var(0, correction=0)
    assert_close(torch.cov(f.T, correction=0), torch.diag(variances))
    assert_close(basis.importance[carried], variances)
    seen = basis.decoder[carried][:, WIDTH:] @ after.encoder
    assert_close(seen.square().sum(1), torch.ones(basis.carried).double())
    latents = slice(basis.always, None)
    z = basis.features(x)[..., latents].flatten(0, 1)
    write = (basis.decoder[latents][:, WIDTH:] @ after.encoder).square().sum(1)
    assert_close(basis.importance[latents], z.square().mean(0) * write)


def test_the_mlp_itself_is_a_transcoder_without_error(tmp_path):
    """Of an MLP of ReLUs its neurons are latents: they miss nothing, and the loss comes back."""
    backend, (inner, outer, bias) = network_with_mlp()
    hidden = len(outer)
    save_transcoder(
        tmp_path,
        tensors={"W_enc": inner[:-1], "b_enc": inner[-1], "W_dec": outer, "b_dec": bias},
        d_sae=hidden,
    )
    run = lg.analyze(backend, basis=str(tmp_path), ablate=False, seeds=1)
    name = tmp_path.name
    found = run.metrics.bases[name].dictionaries.layers["mlp"]
    assert found.explained == pytest.approx(1, abs=1e-12)
    assert found.recovered == 1
    assert found.latents + found.dead == hidden
    basis = run.bases()["mlp"]
    # No edge of the error is more than rounding.
    into = run.edges()["mlp", "after"][basis.isolated - 1 :, basis.error_place :].sum(0)
    assert float(into[0]) < 1e-24 * float(into.sum())


def test_figures_are_of_what_the_mlp_puts_out(backend, folder):
    network, bases = backend.network(), bases_of(backend, folder)
    scoring = Scoring(network, backend, Data(backend, "test"))
    basis = bases["mlp"]
    found = reconstructions(scoring, {"mlp": basis}).layers["mlp"]
    x = network.activations_at(1, backend.inputs)
    out = (x[..., WIDTH:-1] - x[..., :WIDTH]).flatten(0, 1)
    f = basis.latents(x)
    error = basis.missed(x, f).flatten(0, 1)
    variance = (out - out.mean(0)).square().sum()
    assert found.explained == pytest.approx(float(1 - error.square().sum() / variance))
    active = (f[..., basis.always :] > 0).sum(-1).double().mean()
    assert found.active == pytest.approx(float(active))

    def score(written):
        y = x.clone()
        y[..., WIDTH:-1] = written
        return float(backend.score(network.from_layer(1, y), backend.targets).mean())

    kept = score(x[..., WIDTH:-1] - basis.missed(x, f))
    nothing = score(x[..., :WIDTH])
    assert found.score == pytest.approx(kept)
    assert found.recovered == pytest.approx((kept - nothing) / (scoring.base_score - nothing))


def test_with_everything_kept_ablation_leaves_the_model(backend, run, folder):
    name = folder.name
    network = backend.network()
    scoring = Scoring(network, backend, Data(backend, "test"))
    bases = run.bases(name)
    for layer, curve in ablate_nodes(scoring, bases).items():
        assert curve[len(bases[layer])] == scoring.base_score
    edges = ablate_edges(scoring, bases, run.edges(name), tolerances=[1e-9], curves=True)
    for found in edges.values():
        assert found.score[found.available] == scoring.base_score
        assert found.required[1e-9] is not None


def test_nodes_are_ablated_from_the_least(backend, folder):
    """By hand: what is not kept writes nothing, the error is one feature."""
    network, basis = backend.network(), bases_of(backend, folder)["mlp"]
    scoring = Scoring(network, backend, Data(backend, "test"))
    curve = ablate_nodes(scoring, {"mlp": basis}, points=100)["mlp"]
    x = network.activations_at(1, backend.inputs)
    for k, score in curve.items():
        kept = basis.latents(x)
        kept[..., k:] = 0
        y = kept @ basis.decoder + (basis.error(x) if k > basis.error_place else 0)
        found = backend.score(network.from_layer(1, y), backend.targets).mean()
        assert score == pytest.approx(float(found))


def test_a_run_says_all_of_it_and_reads_back(run, backend, folder):
    name = folder.name
    assert "through errors" in str(run)
    assert [*run.metrics.bases[name].dictionaries.layers] == ["mlp", "after"]
    saved = lg.open_run(run.directory)
    x = backend.network().activations_at(1, backend.inputs)
    basis, stored = run.bases(name)["mlp"], saved.bases(name)["mlp"]
    assert type(stored) is Transcoder
    assert (stored.written, stored.passing) == (basis.written, basis.passing)
    assert (stored.carried, stored.isolated) == (basis.carried, basis.isolated)
    assert torch.equal(stored.features(x), basis.features(x))
    assert torch.equal(stored.error(x), basis.error(x))
    for pair, matrix in run.edges(name).items():
        assert torch.equal(saved.edges(name)[pair], matrix)
    assert run.graph(name).layer("mlp").isolated == basis.isolated
    assert (run.directory / "graph.graphml").is_file()


def test_stages_are_taken_from_an_earlier_run(run, backend, folder):
    again = lg.analyze(
        backend,
        basis=str(folder),
        beside=("lib",),
        out=run.directory,
        tolerances=[0.01],
        seeds=1,
        force=True,
    )
    assert again.metrics.seconds["interactions"] == run.metrics.seconds["interactions"]
    record = json.loads((again.directory / "run.json").read_text())
    assert f"ablation {folder.name}" in record["stages"]


def test_latents_and_what_passes_by_can_be_switched_off(run, folder):
    name = folder.name
    basis = run.bases(name)["mlp"]
    for place in (basis.isolated, basis.always):
        assert run.intervene({f"mlp/{place}": 0.0}) is not None


def test_a_transcoder_of_another_model_is_told(backend, tmp_path, caplog):
    save_transcoder(tmp_path, tensors={"W_dec": 40 * normal(seeded(3), 9, WIDTH)})
    lg.analyze(backend, basis=str(tmp_path), ablate=False, seeds=1)
    assert "The dictionary at mlp explains less than the mean does" in caplog.text


def test_latents_that_never_fire_are_named(backend, tmp_path):
    save_transcoder(tmp_path, tensors={"b_enc": torch.full((9,), -100.0).double()})
    with pytest.raises(UsageError, match="No latent of the dictionary at mlp is active"):
        lg.analyze(backend, basis=str(tmp_path), ablate=False)
