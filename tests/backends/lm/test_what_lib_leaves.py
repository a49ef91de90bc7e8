"""Dictionaries read what LIB before them drops: an error carries it, and nothing is missed."""

import pytest
import torch
import transformers
from helpers.dictionaries import bases_of, edges_by_autodiff, save_transcoder
from helpers.language_models import CONFIGURATIONS
from helpers.numbers import assert_close, normal, seeded

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.dictionaries.saelens import write
from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.edges.interactions import estimate_interactions
from libgraph.interventions.circuits import BASELINES, Circuits, EdgePool
from libgraph.interventions.subject import Subject
from libgraph.network.basis import Basis
from libgraph.network.dictionary import Dictionary, Threshold, with_rest
from libgraph.sections.quadrature import Quadrature
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.options import LMOptions

WIDTH = 8

KINDS = {"LayerNorm": "gpt2", "RMSNorm": "llama"}


@pytest.fixture(scope="module", params=KINDS)
def norm(request):
    return request.param


@pytest.fixture(scope="module")
def backend(norm, ids):
    options = LMOptions(text=str(ids), n_ctx=4, cuts="mlps", sequences=24)
    torch.manual_seed(0)
    config = CONFIGURATIONS[KINDS[norm]]
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return LM(options, model=model.eval())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transcoder of block 1 that reads the stream before its norm, and an autoencoder there."""
    folder = tmp_path_factory.mktemp("folder") / "dictionaries"
    metadata = {"hook_name": "blocks.1.hook_resid_mid", "hook_name_out": "blocks.1.hook_mlp_out"}
    generator = seeded(5)
    save_transcoder(
        folder / "mlp",
        "jumprelu_skip_transcoder",
        tensors={
            "W_enc": normal(generator, WIDTH, 9),
            "W_dec": normal(generator, 9, WIDTH),
            "W_skip": normal(generator, WIDTH, WIDTH),
            "b_dec": normal(generator, WIDTH),
        },
        d_in=WIDTH,
        d_out=WIDTH,
        metadata=metadata,
    )
    encoder = normal(generator, WIDTH, 10)
    gate = Threshold(torch.full((10,), 0.1).double())
    shift = torch.zeros(WIDTH).double()
    bias = torch.zeros(10).double()
    hook = "blocks.1.hook_resid_pre"
    autoencoder = DictionaryWeights(folder, hook, encoder, bias, encoder.T / 10, shift, gate)
    write(folder / "stream", autoencoder)
    return folder


@pytest.fixture(scope="module")
def bases(backend, folder):
    return bases_of(backend, folder, limit=12, dtype=torch.float64)


def subject(backend, bases):
    data = Data(backend, "test", 8, dtype=torch.float64)
    return Subject(
        backend.network().double(),
        backend,
        bases,
        data,
        Data(backend, "train", 8, limit=12, dtype=torch.float64),
    )


def test_errors_stand_before_dictionaries_and_not_after(backend, bases):
    names = [layer.name for layer in backend.network().node_layers]
    rests = [
        name for name, basis in bases.items() if isinstance(basis, Dictionary) and not basis.latent
    ]
    assert rests
    assert max(names.index(name) for name in rests) < names.index("1.mlp")
    for name in names[names.index("1.mlp") + 1 :]:
        assert type(bases[name]) is Basis


@pytest.mark.parametrize("baseline", BASELINES)
def test_all_edges_are_the_network(backend, bases, baseline):
    asked = subject(backend, bases)
    edges = {
        (a.name, b.name): torch.ones(len(bases[b.name]), len(bases[a.name]))
        for a, b, _ in asked.network.pairs
    }
    pool = EdgePool.of(asked, edges)
    circuits = Circuits(asked, baseline)
    whole = pool.circuit(torch.ones(pool.size, dtype=torch.bool))
    expected = circuits.outputs({})
    assert_close(circuits.outputs(whole), expected, 1e-10)
    none = pool.circuit(torch.zeros(pool.size, dtype=torch.bool))
    assert float((circuits.outputs(none) - expected).abs().max()) > 1e-3


def test_without_them_all_edges_are_not_the_network(backend, bases, norm):
    asked = subject(backend, without_rests(bases))
    circuits = Circuits(asked)
    whole = {
        place: torch.ones(len(asked.bases[b.name]), len(asked.bases[a.name]), dtype=torch.bool)
        for place, (a, b, _) in enumerate(asked.network.pairs)
    }
    missed = float((circuits.outputs(whole) - circuits.outputs({})).abs().max())
    assert (missed > 1e-3) == (norm == "LayerNorm")


def without_rests(bases):
    """LIB as it is, and dictionaries."""
    found = {}
    for name, basis in bases.items():
        if isinstance(basis, Dictionary) and not basis.latent:
            kept = [i for i in range(len(basis)) if i != basis.error_place]
            basis = Basis(
                basis.encoder[:, kept],
                basis.decoder[kept],
                basis.importance[kept],
                basis.isolated - 1,
            )
        found[name] = basis
    return found


def test_interactions_add_up_where_lib_drops_what_a_dictionary_reads(backend, bases, norm):
    """The section before the transcoder is linear in what it reads, so that one point is exact."""
    data = Data(backend, "train", 8, limit=12, dtype=torch.float64)
    network, rule = backend.network().double(), Quadrature.parse("gradient")
    both = {"with": bases, "without": without_rests(bases)}
    missed = estimate_interactions(network, both, data, rule, 0).missed
    pair = ("1.ln2.normalized", "1.mlp")
    assert missed["with"][pair] < 1e-8
    if norm == "LayerNorm":
        assert missed["without"][pair] > 1e-2


@pytest.mark.parametrize("rule", ["gradient", "gauss-legendre:2"])
def test_edges_of_linear_features_and_errors_are_those_of_autodiff(backend, bases, rule):
    """Also where linear bases drop what is read, so that edges of their errors are large."""
    plain = {name: each for name, each in without_rests(bases).items() if type(each) is Basis}
    cut = {name: with_rest(without_last(each)) for name, each in plain.items() if each.rotated}
    check_edges(backend, bases, rule)
    assert check_edges(backend, {**bases, **cut}, rule) > 1e-3


def without_last(basis):
    return Basis(basis.encoder[:, :-2], basis.decoder[:-2], basis.importance[:-2], basis.isolated)


def check_edges(backend, bases, rule):
    """The largest edge of an error between linear features."""
    largest = 0.0
    data = Data(backend, "train", 2, limit=2, dtype=torch.float64)
    network, rule = backend.network().double(), Quadrature.parse(rule)
    found = estimate_interactions(network, {"t": bases}, data, rule, 0).edges["t"]
    inputs = torch.cat([batch.inputs for batch in data])
    for index, (a, b, section) in enumerate(network.pairs):
        if not isinstance(bases[a.name], Dictionary):
            continue
        x = network.activations_at(index, inputs)
        expected = edges_by_autodiff(section, bases[a.name], bases[b.name], x, rule)
        assert_close(found[a.name, b.name], expected, 1e-10)
        if not any(bases[layer.name].always < len(bases[layer.name]) for layer in (a, b)):
            place = bases[a.name].error_place
            largest = max(largest, float(found[a.name, b.name][:, place].max()))
    return largest


def test_a_run_has_errors_of_lib_and_reads_back(backend, folder, tmp_path):
    run = lg.analyze(
        backend, basis=str(folder), beside=("lib",), out=tmp_path / "run", ablate=False, seeds=1,
        limit=12, dtype="float64",
    )  # fmt: skip
    name = run.chosen(None)
    again = lg.open_run(tmp_path / "run").bases(name)
    for layer, basis in run.bases(name).items():
        assert type(again[layer]) is type(basis)
        assert again[layer].always == basis.always
        assert torch.equal(again[layer].encoder, basis.encoder)
    texts = {layer.name: [label.text for label in layer.labels] for layer in run.graph(name).layers}
    rests = {
        layer: basis
        for layer, basis in run.bases(name).items()
        if isinstance(basis, Dictionary) and not basis.latent
    }
    assert rests
    for layer, basis in rests.items():
        assert texts[layer][basis.error_place].startswith("error")
        assert len(texts[layer]) == len(basis)
    assert set(run.metrics.bases[name].dictionaries.layers) == {"1.resid_pre", "1.mlp"}
    # Of LIB alone there is nothing that it leaves out.
    assert all(type(each) is Basis for each in run.bases("lib").values())
