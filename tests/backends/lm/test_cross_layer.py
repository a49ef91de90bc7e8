"""A cross-layer transcoder of a small transformer of three blocks, from files to a saved run."""

import pytest
import torch
import transformers
from helpers.commands import fails
from helpers.dictionaries import bases_of, save_cross_layer, save_transcoder
from helpers.language_models import CONTEXT, VOCABULARY
from helpers.numbers import assert_close
from torch.func import jacrev

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.edges.edge_ablation import ablate_edges
from libgraph.edges.interactions import estimate_interactions
from libgraph.edges.node_ablation import ablate_nodes
from libgraph.edges.reconstruction import reconstructions
from libgraph.edges.score import Scoring
from libgraph.errors import TooLarge, UsageError
from libgraph.interventions.subject import Subject
from libgraph.network.cross_layer import CarriedLatents, CrossLayer, carrying
from libgraph.sections.quadrature import Quadrature
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.options import LMOptions

WIDTH, BLOCKS = 8, 3

MLPS = [f"{i}.mlp" for i in range(BLOCKS)]


def model_of_three_blocks():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=BLOCKS, n_head=2, n_embd=WIDTH, n_positions=CONTEXT, vocab_size=VOCABULARY,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return model_of_three_blocks()


@pytest.fixture(scope="module")
def backend(model, ids):
    return LM(LMOptions(text=str(ids), n_ctx=5, cuts="mlps", sequences=30), model=model)


KINDS = {"jumprelu": (True, "hook_resid_mid"), "relu": (False, "ln2.hook_normalized")}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kind):
    return tmp_path_factory.mktemp(kind) / "clt"


@pytest.fixture(scope="module")
def w(folder, kind):
    jumps, reads = KINDS[kind]
    return save_cross_layer(folder, WIDTH, BLOCKS, jumps=jumps, reads=reads)


@pytest.fixture(scope="module")
def bases(backend, folder, w):
    return bases_of(backend, folder, limit=20)


@pytest.fixture(scope="module")
def inputs(backend):
    return torch.cat([batch.inputs for batch in Data(backend, "train", limit=4)])


def by_name(network, inputs):
    """Activations by node layer."""
    with torch.no_grad():
        activations = network.activations(inputs)
        return dict(zip((each.name for each in network.node_layers), activations, strict=True))


@pytest.fixture(scope="module")
def plain(backend, inputs):
    """Of the model itself."""
    return by_name(backend.network(), inputs)


@pytest.fixture(scope="module")
def mine(backend, w, kind, plain):
    """All latents of each block by the format's definition, and what its MLP puts out."""
    found = []
    for block, name in enumerate(MLPS):
        (layer,) = (each for each in backend.network().node_layers if each.name == name)
        x, passage = plain[name], layer.passage
        h = x @ passage.readers[f"blocks.{block}.{KINDS[kind][1]}"]
        p = h @ w[f"W_enc_{block}"].T + w[f"b_enc_{block}"]
        threshold = w.get(f"threshold_{block}", torch.zeros(p.shape[-1]))
        written, by = (x[..., slice(*each)] for each in (passage.written, passage.passing))
        found.append((torch.where(p > threshold, p, 0).relu(), written - by))
    return found


def test_latents_and_errors_are_those_of_the_definition(backend, bases, w, mine, inputs):
    wide = by_name(carrying(backend.network(), bases), inputs)
    own = [z[..., bases[name].numbers] for name, (z, _) in zip(MLPS, mine, strict=True)]
    for block, name in enumerate(MLPS):
        basis, x, output = bases[name], wide[name], mine[block][1]
        assert isinstance(basis, CrossLayer)
        f = basis.latents(x)
        assert_close(f[..., basis.own_latents], own[block])
        assert_close(f[..., basis.always :], torch.cat([own[block], *own[:block]], -1))
        written = sum(
            z @ w[f"W_dec_{i}"][:, block - i] for i, (z, _) in enumerate(mine[: block + 1])
        )
        assert_close(basis.missed(x, f), output - written - w[f"b_dec_{block}"])
        assert_close(basis.aim(x), output)
        assert_close(basis.features(x)[..., basis.error_place], basis.missed(x, f).norm(dim=-1))
        # All that the next section reads is there, latents that go on too.
        whole = f @ basis.decoder + basis.error(x)
        assert_close(whole[..., OUT], x[..., OUT])
        assert_close(whole[..., basis.kept], x[..., basis.kept])
    on_the_way = {name: basis for name, basis in bases.items() if isinstance(basis, CarriedLatents)}
    names = [*bases]
    assert [*on_the_way] == [
        name
        for name in names[names.index("1.resid_pre") : names.index("2.mlp")]
        if name not in MLPS
    ]
    for name, basis in on_the_way.items():
        block = int(name.partition(".")[0])
        assert_close(basis.features(wide[name])[..., basis.always :], torch.cat(own[:block], -1))


def ends(bases, name, x, own, w):
    """Of one node layer in the model's own coordinates, without any network that carries latents.

    Gives what each feature writes, encoders, gates and, of latents, which block's and which one.
    """
    basis, size = bases[name], x.shape[-1]
    there = [*range(size - 1), len(basis.encoder) - 1]
    encoder, decoder = basis.encoder[there], basis.decoder[:, there].clone()
    values = x @ encoder
    gate, place = torch.ones_like(values), name.partition(".")[0]
    block = int(place) if place.isdigit() else BLOCKS
    latents = [None] * len(basis)
    if isinstance(basis, CrossLayer | CarriedLatents):
        carried = [(i, k) for i in range(block) for k in range(own[i].shape[-1])]
        for row, (i, k) in enumerate(carried, start=len(basis) - len(carried)):
            latents[row], values[..., row] = (i, k), own[i][..., k]
            decoder[row] = 0
            if isinstance(basis, CrossLayer):
                numbers = bases[MLPS[i]].numbers
                decoder[row, OUT] = w[f"W_dec_{i}"][numbers[k], block - i]
    if isinstance(basis, CrossLayer):
        for k, row in enumerate(range(*basis.own_latents.indices(len(basis)))):
            latents[row], values[..., row] = (block, k), own[block][..., k]
            gate[..., row] = (own[block][..., k] > 0).double()
            decoder[row] = 0
            decoder[row, OUT] = w[f"W_dec_{block}"][basis.numbers[k], 0]
        gate[..., basis.error_place] = values[..., basis.error_place] = 0
    parts = values.unsqueeze(-1) * decoder
    if isinstance(basis, CrossLayer):
        parts[..., basis.error_place, OUT] = (x - values @ decoder)[..., OUT]
    return parts, values, encoder, gate, latents


OUT = slice(2 * WIDTH, 3 * WIDTH)
"""Coordinates of what stands after an MLP."""


def expected(section, xs, source, target, rule):
    """E from dense Jacobians of the model's own section; carried latents go on as they are."""
    parts, values, _, _, before = source
    _, _, encoder, gate, after = target
    edges = torch.zeros(len(after), len(before), dtype=torch.float64)
    for n, x in enumerate(xs):
        jacobian = sum(
            weight * jacrev(lambda x: section(x[None])[0])(point * x)
            for point, weight in zip(rule.points, rule.weights, strict=True)
        )
        effects = torch.einsum("sid,teds->eti", parts[n], jacobian.permute(0, 1, 3, 2))
        pre = torch.einsum("eti,ej->tji", effects, encoder)
        edges += (gate[n].unsqueeze(-1) * pre).square().sum(0)
    for j, latent in enumerate(after):
        if latent in before and latent is not None:
            edges[j, before.index(latent)] = values[..., before.index(latent)].square().sum()
    return edges / (len(xs) * xs.shape[1])


@pytest.mark.parametrize("rule", ["gradient", "gauss-legendre:3"])
def test_edges_are_those_of_autodiff(rule, backend, bases, w, mine, plain, inputs):
    """Into latents, on the way, and from each block's into the stream after all later MLPs."""
    network, rule = backend.network(), Quadrature.parse(rule)
    data = Data(backend, "train", limit=len(inputs))
    found = estimate_interactions(network, {"t": bases}, data, rule, 0).edges["t"]
    own = [z[..., bases[name].numbers] for name, (z, _) in zip(MLPS, mine, strict=True)]
    for a, b, section in network.pairs:
        source, target = (ends(bases, each.name, plain[each.name], own, w) for each in (a, b))
        hand = expected(section, plain[a.name], source, target, rule)
        assert_close(found[a.name, b.name], hand, 1e-10)
    # Latents of block 0 write into the stream after block 2.
    basis = bases["2.mlp"]
    first = basis.own_latents.stop
    into = found["2.mlp", "2.resid_post"][1:, first : first + len(bases["0.mlp"].numbers)]
    assert (into.sum(0) > 0).any()


def test_interactions_add_up_to_the_change_of_pre_activations(backend, bases, kind):
    data, rule = Data(backend, "train", limit=4), Quadrature.parse("gauss-legendre:32")
    missed = estimate_interactions(backend.network(), {"t": bases}, data, rule, 0).missed["t"]
    for block in range(BLOCKS):
        after = f"{block + 1}.resid_pre" if block + 1 < BLOCKS else f"{block}.resid_post"
        assert missed[f"{block}.mlp", after] < 1e-12
        if kind == "relu":
            # The stream itself has a mean, which the model does not read, and LIB leaves out.
            assert missed[f"{block}.ln2.normalized", f"{block}.mlp"] < 1e-8


@pytest.fixture(scope="module")
def analysed(backend, folder, w, tmp_path_factory):
    return lg.analyze(
        backend,
        basis=str(folder),
        beside=("lib",),
        limit=10,
        ablate=False,
        seeds=1,
        out=tmp_path_factory.mktemp("out") / "run",
    )


def test_nodes_are_ablated_from_the_least(backend, bases):
    """By hand: a latent that is off writes nothing, whichever block it is of."""
    network = backend.network()
    wide, scoring = carrying(network, bases), Scoring(network, backend, Data(backend, "test", 4, 4))
    curves = ablate_nodes(scoring, bases, points=100)
    (batch,) = scoring.data
    place = [each.name for each in network.node_layers].index("2.mlp")
    x, basis = wide.activations_at(place, batch.inputs), bases["2.mlp"]
    for k, score in curves["2.mlp"].items():
        kept = basis.latents(x)
        kept[..., k:] = 0
        y = kept @ basis.decoder + (basis.error(x) if k > basis.error_place else 0)
        outputs = network.from_layer(place, torch.cat([y[..., : OUT.stop], y[..., -1:]], -1))
        found = backend.score(outputs, batch.targets).mean()
        assert score == pytest.approx(float(found), rel=1e-10)
    # Those that are carried there do something too.
    assert curves["2.mlp"][len(basis)] != curves["2.mlp"][basis.own_latents.stop]
    for name, curve in curves.items():
        assert curve[len(bases[name])] == pytest.approx(scoring.base_score, rel=1e-12)


def test_with_all_edges_kept_the_model_is_left(model, ids, tmp_path, caplog):
    """Of two of the three blocks, whose node layers alone have latents."""
    save_cross_layer(tmp_path, WIDTH, BLOCKS, reads="ln2.hook_normalized")
    options = LMOptions(text=str(ids), n_ctx=4, cuts="mlps", sequences=30, layers="1:3")
    backend = LM(options, model=model)
    bases = bases_of(backend, tmp_path)
    assert "Latents of blocks before 1.mlp, 1 of them, write into the MLPs" in caplog.text
    scoring = Scoring(backend.network(), backend, Data(backend, "test", 2, 2))
    data, rule = Data(backend, "train", limit=2), Quadrature.gradient()
    edges = estimate_interactions(backend.network(), {"t": bases}, data, rule, 0).edges["t"]
    found = ablate_edges(scoring, bases, edges, tolerances=[1e-9], curves=True)
    for each in found.values():
        assert each.score[each.available] == pytest.approx(scoring.base_score, rel=1e-10)
    assert [name for name in bases if isinstance(bases[name], CrossLayer)] == MLPS[1:]


def replaced(model, bases, w, reads, inputs, blocks):
    """Logits of the library's model with imitations in place of these blocks' MLPs."""
    latents, streams, hooks = {}, {}, []

    def imitation(block):
        def hook(module, args, output):
            h = streams[block] if reads == "hook_resid_mid" else args[0]
            p = h @ w[f"W_enc_{block}"].T + w[f"b_enc_{block}"]
            z = torch.where(p > w.get(f"threshold_{block}", 0), p, 0).relu()
            # Latents that are dead where bases were made are no features.
            numbers = bases[MLPS[block]].numbers
            latents[block] = torch.zeros_like(z)
            latents[block][..., numbers] = z[..., numbers]
            written = sum(z @ w[f"W_dec_{i}"][:, block - i] for i, z in latents.items())
            return written + w[f"b_dec_{block}"] if block in blocks else output

        return hook

    def stream(block):
        return lambda module, args: streams.update({block: args[0]})

    for block, parts in enumerate(model.transformer.h):
        hooks.append(parts.ln_2.register_forward_pre_hook(stream(block)))
        hooks.append(parts.mlp.register_forward_hook(imitation(block)))
    with torch.no_grad():
        logits = model(inputs).logits
    for hook in hooks:
        hook.remove()
    return logits


def test_figures_are_those_of_the_library_with_imitations_in_place(backend, bases, w, kind):
    data = Data(backend, "test", 4, 4)
    (batch,) = data
    network = backend.network()
    found = reconstructions(Scoring(network, backend, data), bases)
    model = model_of_three_blocks().double()

    def score(blocks):
        logits = replaced(model, bases, w, KINDS[kind][1], batch.inputs, blocks)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), reduction="none"
        )
        return float(losses.mean())

    assert score([]) == pytest.approx(Scoring(network, backend, data).base_score, rel=1e-6)
    for block, name in enumerate(MLPS):
        assert found.layers[name].score == pytest.approx(score([block]), rel=1e-6)
    assert found.together.score == pytest.approx(score([0, 1, 2]), rel=1e-6)


def test_a_run_says_all_of_it_and_reads_back(analysed, backend, folder, w):
    name = folder.name
    assert [*analysed.metrics.bases[name].dictionaries.layers] == MLPS
    saved = lg.open_run(analysed.directory)
    assert {type(each) for each in saved.bases(name).values()} >= {CrossLayer, CarriedLatents}
    (batch,) = Data(backend, "test", 4, 4)
    wide = by_name(carrying(backend.network(), saved.bases(name)), batch.inputs)
    for layer, basis in analysed.bases(name).items():
        stored = saved.bases(name)[layer]
        assert type(stored) is type(basis)
        assert torch.equal(stored.features(wide[layer]), basis.features(wide[layer]))
        if isinstance(basis, CrossLayer):
            assert (stored.own, stored.kept) == (basis.own, basis.kept)
            assert torch.equal(stored.numbers, basis.numbers)
    for pair, matrix in analysed.edges(name).items():
        assert torch.equal(saved.edges(name)[pair], matrix)
    labels = analysed.graph(name).layer("2.mlp").labels
    basis = analysed.bases(name)["2.mlp"]
    first = analysed.bases(name)["0.mlp"].own_latents.start
    assert labels[basis.own_latents.stop].text.endswith(f" | carried from 0.mlp/{first}")
    # LIB beside it is the model's own.
    assert len(analysed.bases("lib")["2.mlp"].encoder) == 3 * WIDTH + 1


def test_latents_can_be_switched_off_where_they_write(analysed, folder, w):
    basis = analysed.bases(folder.name)["2.mlp"]
    for place in (basis.own_latents.start, basis.own_latents.stop):
        assert analysed.intervene({f"2.mlp/{place}": 0.0}) is not None


def test_blocks_that_it_lacks_are_named(backend, tmp_path):
    save_cross_layer(tmp_path, WIDTH, 2)
    with pytest.raises(
        UsageError, match=r"has blocks 0 to 1, none of them at 2\.mlp: .*layers=0:2"
    ):
        lg.analyze(backend, basis=str(tmp_path), limit=2, ablate=False)


def test_nothing_else_may_be_beside_it(backend, tmp_path):
    save_cross_layer(tmp_path / "a", WIDTH)
    save_transcoder(
        tmp_path / "b", d_in=WIDTH, metadata={"hook_name": "blocks.1.hook_resid_pre"},
        architecture="standard",
        tensors={"W_enc": torch.ones(WIDTH, 9), "W_dec": torch.ones(9, WIDTH),
                 "b_dec": torch.ones(WIDTH)},
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"is a cross-layer transcoder, and .* is beside it"):
        lg.analyze(backend, basis=str(tmp_path), limit=2, ablate=False)


def test_more_latents_than_memory_holds_are_refused(backend, folder, w):
    with pytest.raises(TooLarge, match=r"Edges between latents \(\d+ are active at 2\.mlp\) take"):
        bases_of(backend, folder, limit=20, memory=100_000)


@pytest.mark.slow
def test_the_command_takes_it(run, model, ids, tmp_path):
    save_cross_layer(tmp_path / "clt", WIDTH)
    with quiet():
        model.save_pretrained(tmp_path / "model")
    options = ("lm", "-o", f"model={tmp_path / 'model'}", "-o", f"text={ids}", "-o", "n_ctx=5")
    code, out, err = run(
        "analyze", *options, "-o", "cuts=mlps", "--basis", tmp_path / "clt", "--no-ablation",
        "--limit", "6", "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert all(name in out for name in MLPS)
    assert {"graph.png", "graph.graphml", "report.html"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    code, out, err = run("ablate", tmp_path / "run", "2.mlp/16")
    assert code == 0, err
    (tmp_path / "clt" / "W_dec_1.safetensors").unlink()
    failed = run("analyze", *options, "-o", "cuts=mlps", "--basis", tmp_path / "clt")
    fails(failed, 2, "has no 'W_dec_1.safetensors'")


def test_what_does_not_take_carried_latents_says_so(backend, bases):
    data = Data(backend, "train", limit=4)
    subject = Subject(backend.network(), backend, bases, data, data)
    with pytest.raises(UsageError, match="Faithfulness does not take latents of cross-layer"):
        subject.require_own_latents("Faithfulness")
