"""Node layers of MLPs against what goes into the library's own MLPs and comes out of them."""

import pytest
import torch
import transformers
from helpers.commands import fails
from helpers.dictionaries import bases_of, save_transcoder
from helpers.language_models import CONFIGURATIONS, language_model, random_model
from helpers.numbers import assert_close, normal, seeded
from torch.func import jacrev

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.score import Scoring
from libgraph.errors import BackendError, UsageError
from libgraph.network.passage import FOLDED
from libgraph.network.transcoder import Transcoder
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.options import LMOptions

# Where blocks are, and what puts out what joins the stream.
PLACES = {
    "gpt2": ("transformer.h", "mlp"),
    "neo": ("transformer.h", "mlp"),
    "neox": ("gpt_neox.layers", "mlp"),
    "neox-sequential": ("gpt_neox.layers", "mlp"),
    "llama": ("model.layers", "mlp"),
    "GPTJ": ("transformer.h", "mlp"),
    "Qwen3": ("model.layers", "mlp"),
    "Cohere": ("model.layers", "mlp"),
    "Gemma2": ("model.layers", "post_feedforward_layernorm"),
    "Olmo2": ("model.layers", "post_feedforward_layernorm"),
}


def seen_by_the_library(model, blocks, last, inputs):
    """What goes into the MLP of block 1, what joins the stream, and the stream before and after."""
    block, found = model.get_submodule(f"{blocks}.1"), {}

    def after(name):
        return lambda module, args, out: found.update({name: out[0] if type(out) is tuple else out})

    hooks = [
        block.mlp.register_forward_pre_hook(lambda module, args: found.update(read=args[0])),
        block.get_submodule(last).register_forward_hook(after("out")),
        block.register_forward_hook(after("after")),
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("kind", PLACES)
def test_what_the_library_sees_is_at_hand(kind, bridges, ids):
    blocks, last = PLACES[kind]
    if kind in bridges:
        backend = language_model(bridges[kind], ids, cuts="mlps")
        model = bridges[kind].original_model
    else:
        model = random_model(kind)
        backend = LM(LMOptions(text=str(ids), n_ctx=9, cuts="mlps"), model=model)
    (batch,) = backend.batches("test", 100)
    network = backend.network()
    index = [layer.name for layer in network.node_layers].index("1.mlp")
    passage = network.node_layers[index].passage
    with torch.no_grad():
        x = network.activations_at(index, batch.inputs)
    seen = seen_by_the_library(model.double(), blocks, last, batch.inputs)
    module = f"{blocks}.1.mlp"
    written, passing = (x[..., slice(*place)] for place in (passage.written, passage.passing))
    assert_close(x @ passage.readers[module], seen["read"], 1e-5)
    assert_close(written, seen["after"], 1e-5)
    assert_close(written - passing, seen["out"], 1e-5)
    # Only where it puts out what joins the stream, the module itself is what is imitated.
    assert (module in passage.writers) == (last == "mlp")
    assert "blocks.1.hook_mlp_out" in passage.writers
    model.float()


def test_norms_are_read_with_their_scale_and_without(bridges, ids):
    backend = language_model(bridges["gpt2"], ids, cuts="mlps")
    network = backend.network()
    (layer,) = (layer for layer in network.node_layers if layer.name == "0.mlp")
    (batch,) = backend.batches("test", 100)
    with torch.no_grad():
        x = network.activations_at(6, batch.inputs)
        stream = network.activations_at(3, batch.inputs)[..., :-1]
    norm = bridges["gpt2"].original_model.transformer.h[0].ln_2
    readers, hook = layer.passage.readers, "blocks.0.ln2.hook_normalized"
    plain = (stream - stream.mean(-1, keepdim=True)) / (
        stream.var(-1, keepdim=True, correction=0) + norm.eps
    ).sqrt()
    assert_close(x @ readers[hook + FOLDED], plain)
    assert_close(x @ readers[hook], plain * norm.weight.double() + norm.bias.double())
    for name in ("blocks.0.hook_resid_mid", "blocks.0.hook_mlp_in"):
        assert_close(x @ readers[name], stream)


def test_the_hook_of_a_root_mean_square_norm_comes_before_its_scale(bridges, ids):
    """As HookedTransformer's RMSNorm has it: `hook_normalized(x / scale) * w`."""
    backend = language_model(bridges["llama"], ids, cuts="mlps")
    network = backend.network()
    (layer,) = (layer for layer in network.node_layers if layer.name == "0.mlp")
    (batch,) = backend.batches("test", 100)
    names = [each.name for each in network.node_layers]
    with torch.no_grad():
        x = network.activations_at(names.index("0.mlp"), batch.inputs)
    readers = layer.passage.readers
    stream, plain = (
        x @ readers["blocks.0.hook_resid_mid"],
        x @ readers["blocks.0.ln2.hook_normalized"],
    )
    norm = bridges["llama"].original_model.model.layers[0].post_attention_layernorm
    scaled = plain * norm.weight.double()
    root = (stream.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    assert_close(plain, stream / root)
    assert_close(x @ readers["blocks.0.mlp.hook_in"], scaled)


def test_models_that_scale_what_joins_the_stream_are_refused(ids):
    backend = LM(LMOptions(text=str(ids), n_ctx=9, cuts="mlps"), model=random_model("Granite"))
    with pytest.raises(BackendError, match=r"multiplied by 0\.5 as they join the stream"):
        backend.network()


WIDTH = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A skip transcoder of block 0's MLP, and one without a skip of block 1's."""
    folder = tmp_path_factory.mktemp("transcoders") / "mlps"
    for block, architecture in enumerate(("jumprelu_skip_transcoder", "transcoder")):
        generator = seeded(block)
        tensors = {
            "W_enc": normal(generator, WIDTH, 12),
            "b_enc": normal(generator, 12),
            "W_dec": 0.3 * normal(generator, 12, WIDTH),
            "b_dec": normal(generator, WIDTH),
            "threshold": normal(generator, 12).abs(),
            "W_skip": 0.3 * normal(generator, WIDTH, WIDTH),
        }
        drop = () if block == 0 else ("threshold", "W_skip")
        metadata = {
            "hook_name": f"blocks.{block}.ln2.hook_normalized",
            "hook_name_out": f"blocks.{block}.hook_mlp_out",
        }
        save_transcoder(
            folder / str(block), architecture, tensors, drop,
            d_in=WIDTH, d_sae=12, d_out=WIDTH, metadata=metadata,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def backend(bridges, text):
    return language_model(bridges["gpt2"], text, cuts="mlps", layers="0:1", sequences=40)


@pytest.fixture(scope="module")
def analysed(backend, folder, tmp_path_factory):
    return lg.analyze(
        backend,
        basis=str(folder),
        beside=("lib",),
        limit=20,
        tolerances=[0.1],
        seeds=1,
        out=tmp_path_factory.mktemp("out") / "run",
    )


def test_latents_and_the_stream_beside_them_are_nodes(analysed, backend):
    names = [layer.name for layer in backend.network().node_layers]
    assert names[3:8] == [
        "0.resid_mid", "0.ln2.scale", "0.ln2.normalized", "0.mlp", "1.resid_pre",
    ]  # fmt: skip
    basis, labels = analysed.bases()["0.mlp"], analysed.graph().layer("0.mlp").labels
    assert isinstance(basis, Transcoder)
    assert basis.carried <= WIDTH
    assert labels[basis.error_place].text == "error"
    passing = [label.text.endswith("passes the latents by") for label in labels]
    assert passing == [basis.isolated <= j < basis.always for j in range(len(basis))]
    # Block 1 is no part of the analysis.
    assert [*analysed.metrics.bases["mlps"].dictionaries.layers] == ["0.mlp"]


def edges_by_definition(section, source, target, xs):
    """E of positions by themselves, from dense Jacobians."""

    def at_a_position(x):
        return section(x[None, None])[0, 0]

    edges = torch.zeros(len(target), len(source), dtype=torch.float64)
    for x in xs:
        parts = source.features(x)[:, None] * source.decoder
        if not source.linear:
            parts[source.error_place] = source.error(x)
        effects = parts @ jacrev(at_a_position)(x).T @ target.encoder
        if not target.linear:
            y = at_a_position(x)
            effects = effects * target.active(y @ target.encoder, y)
        edges += effects.T.square()
    return edges / len(xs)


@pytest.mark.parametrize("pair", [("0.ln2.normalized", "0.mlp"), ("0.mlp", "1.resid_pre")])
def test_edges_are_those_of_autodiff(pair, analysed, backend):
    """From the normalised stream into latents and out of them, with what passes by."""
    network = backend.network()
    index = [(a.name, b.name) for a, b, _ in network.pairs].index(pair)
    inputs = torch.cat([batch.inputs for batch in Data(backend, "train", limit=20)])
    xs = network.activations_at(index, inputs).flatten(0, 1)
    source, target = (analysed.bases()[name] for name in pair)
    expected = edges_by_definition(network.sections[index], source, target, xs)
    assert_close(analysed.edges()[pair], expected, 1e-10)
    assert float(expected.max()) > 0


def test_interactions_add_up(analysed):
    """Latents read the normalised stream, and write, linearly: the gradient misses nothing."""
    missed = analysed.results["mlps"].missed
    assert missed["0.ln2.normalized", "0.mlp"] < 1e-12
    assert missed["0.mlp", "1.resid_pre"] < 1e-12


def test_with_everything_kept_the_model_is_left(analysed, backend):
    scoring = Scoring(backend.network(), backend, Data(backend, "test", limit=5))
    bases = analysed.bases()
    nodes = ablate_nodes(scoring, {"0.mlp": bases["0.mlp"]}, points=4)["0.mlp"]
    assert nodes[len(bases["0.mlp"])] == pytest.approx(scoring.base_score, rel=1e-12)
    edges = ablate_edges(scoring, bases, analysed.edges(), tolerances=[0.1], curves=True)
    for pair in (("0.ln2.normalized", "0.mlp"), ("0.mlp", "1.resid_pre")):
        found = edges[pair]
        assert found.score[found.available] == pytest.approx(scoring.base_score, rel=1e-12)


@pytest.mark.parametrize("kind", ["neox", "Gemma2"])
def test_blocks_of_other_kinds_take_transcoders(kind, bridges, ids, tmp_path):
    """With attention beside the MLP, and with a norm after it."""
    if kind in bridges:
        backend = language_model(bridges[kind], ids, cuts="mlps", layers="1:2")
    else:
        options = LMOptions(text=str(ids), n_ctx=9, cuts="mlps", layers="1:2")
        backend = LM(options, model=random_model(kind))
    network = backend.network()
    (layer,) = (layer for layer in network.node_layers if layer.passage is not None)
    d, generator = layer.passage.width, seeded(3)
    tensors = {
        "W_enc": normal(generator, d, 12),
        "b_enc": torch.zeros(12).double(),
        "W_dec": 0.3 * normal(generator, 12, d),
        "b_dec": normal(generator, d),
        "W_skip": 0.3 * normal(generator, d, d),
    }
    metadata = {"hook_name": "blocks.1.ln2.hook_normalized"}
    save_transcoder(
        tmp_path, "skip_transcoder", tensors,
        d_in=d, d_sae=12, d_out=d, metadata=metadata,
    )  # fmt: skip
    index = [each.name for each in network.node_layers].index("1.mlp")
    # What is dead there is no feature.
    inputs = torch.cat([batch.inputs for batch in Data(backend, "train", limit=4)])
    x, basis = network.activations_at(index, inputs), bases_of(backend, tmp_path, limit=4)["1.mlp"]
    h = x @ layer.passage.readers["blocks.1.ln2.hook_normalized"]
    z = (h @ tensors["W_enc"]).relu()
    places = layer.passage.written, layer.passage.passing
    written, passing = (x[..., slice(*place)] for place in places)
    missed = written - passing - z @ tensors["W_dec"] - tensors["b_dec"] - h @ tensors["W_skip"].T
    assert_close(basis.features(x)[..., basis.error_place], missed.norm(dim=-1))
    again = basis.activations(x @ basis.encoder, x)
    assert_close(network.from_layer(index, again), network(inputs), 1e-12)


def test_other_cuts_say_which_to_choose(bridges, text, folder):
    backend = language_model(bridges["gpt2"], text, sequences=8)
    with pytest.raises(UsageError, match="language models have them with -o cuts=mlps"):
        lg.analyze(backend, basis=str(folder), limit=2, ablate=False)


def test_near_names_of_hooks_are_told(backend, tmp_path):
    metadata = {"hook_name": "blocks.7.ln2.hook_normalized"}
    save_transcoder(tmp_path, metadata=metadata)
    with pytest.raises(UsageError, match=r"near are blocks\.0\.ln2\.hook_normalized"):
        lg.analyze(backend, basis=str(tmp_path), limit=2, ablate=False)


@pytest.mark.slow
def test_the_command_compares_them(run, folder, ids, tmp_path):
    model = transformers.AutoModelForCausalLM.from_config(CONFIGURATIONS["gpt2"])
    with quiet():
        model.save_pretrained(tmp_path / "model")
    options = ("lm", "-o", f"model={tmp_path / 'model'}", "-o", f"text={ids}", "-o", "n_ctx=9")
    code, out, err = run(
        "compare", *options, "-o", "cuts=mlps", "-o", "layers=0:1", "--bases", f"lib,{folder}",
        "--draws", "0", "--limit", "6", "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert "mlps" in out
    assert {"graph.png", "graph.graphml", "report.html"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    failed = run("analyze", *options, "--basis", folder, "--out", tmp_path / "other")
    fails(failed, 2, "is a transcoder", "language models have them with -o cuts=mlps")
