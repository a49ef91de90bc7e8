"""A cross-layer transcoder of a small transformer of three blocks, from its files to a saved run."""

import pytest
import torch
import transformers
from helpers.dictionaries import bases_of, save_cross_layer
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
from libgraph.network.cross_layer import CarriedLatents, CrossLayer, carrying
from libgraph.sections.quadrature import Quadrature
from libgraph_backends.lm.backend import LM
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


@pytest.fixture(scope="module", params=[True, False], ids=["jumprelu", "relu"])
def jumps(request):
    return request.param


@pytest.fixture(scope="module")
def saved(tmp_path_factory, jumps):
    folder = tmp_path_factory.mktemp("cross") / "clt"
    return folder, save_cross_layer(folder, WIDTH, BLOCKS, jumps=jumps)


@pytest.fixture(scope="module")
def bases(backend, saved):
    return bases_of(backend, saved[0], limit=20)


@pytest.fixture(scope="module")
def seen(backend):
    """Activations of the model itself, by node layer."""
    network = backend.network()
    inputs = torch.cat([batch.inputs for batch in Data(backend, "train", limit=8)])
    with torch.no_grad():
        activations = network.activations(inputs)
        return dict(zip((each.name for each in network.node_layers), activations, strict=True))


def read(network, block, x):
    """What goes into a block's MLP, before its norm, and what comes out of it."""
    (layer,) = (each for each in network.node_layers if each.name == f"{block}.mlp")
    there, by = slice(*layer.passage.written), slice(*layer.passage.passing)
    return x[..., by], x[..., there] - x[..., by]


def latents(w, block, h):
    """All latents of a block by the format's definition."""
    p = h @ w[f"W_enc_{block}"].T + w[f"b_enc_{block}"]
    return torch.where(p > w.get(f"threshold_{block}", torch.zeros(p.shape[-1])), p, 0).relu()


def chosen(bases, w, network, seen):
    """Latents that are features, by block, in their order; and what they write into later MLPs."""
    found = []
    for block, name in enumerate(MLPS):
        z = latents(w, block, read(network, block, seen[name])[0])
        numbers = bases[name].numbers
        assert sorted(numbers.tolist()) == z.flatten(0, 1).any(0).nonzero()[:, 0].tolist() or len(
            numbers
        ) >= int(z.flatten(0, 1).any(0).sum())
        found.append((z[..., numbers], w[f"W_dec_{block}"][numbers]))
    return found


def test_latents_and_errors_are_those_of_the_definition(backend, bases, saved, seen):
    network, w = backend.network(), saved[1]
    mine = chosen(bases, w, network, seen)
    wide = dict(
        zip(
            seen,
            carrying(network, bases).activations(
                torch.cat([batch.inputs for batch in Data(backend, "train", limit=8)])
            ),
            strict=True,
        )
    )
    for block, name in enumerate(MLPS):
        basis, x = bases[name], wide[name]
        assert isinstance(basis, CrossLayer)
        f = basis.latents(x)
        z = [mine[block][0], *(each for each, _ in mine[:block])]
        assert_close(f[..., basis.always :], torch.cat(z, -1))
        assert (f[..., basis.own_latents] > 0).any()
        whole = [latents(w, i, read(network, i, seen[MLPS[i]])[0]) for i in range(block + 1)]
        written = sum(z @ w[f"W_dec_{i}"][:, block - i] for i, z in enumerate(whole))
        output = read(network, block, seen[name])[1]
        error = output - written - w[f"b_dec_{block}"]
        assert_close(basis.missed(x, f), error)
        assert_close(basis.aim(x), output)
        assert_close(basis.features(x)[..., basis.error_place], error.norm(dim=-1))
    # On the way each latent is what it was, beside the same features as without.
    plain = bases_of(backend, saved[0].parent / "none", limit=20) if False else None
    assert plain is None
    for name, basis in bases.items():
        if not isinstance(basis, CarriedLatents):
            continue
        block = int(name.partition(".")[0]) - (0 if "resid_pre" not in name else 0)
        z = torch.cat([each for each, _ in mine[:block]], -1)
        assert basis.carried == z.shape[-1]
        assert_close(basis.features(wide[name])[..., basis.always :], z)


def features_of(name, bases, x, mine):
    """Values, decoders in the model's coordinates, encoders, gates and errors, without `carrying`.

    Carried latents are named by block and number, others by None.
    """
    basis, size = bases[name], x.shape[-1]
    there = [*range(size - 1), len(basis.encoder) - 1]
    block = int(name.partition(".")[0])
    encoder, decoder = basis.encoder[there], basis.decoder[:, there]
    names = [None] * len(basis)
    values = x @ encoder
    gate = torch.ones_like(values)
    error = None
    if isinstance(basis, CrossLayer | CarriedLatents):
        before = mine[:block]
        carried = [(i, k) for i, (z, _) in enumerate(before) for k in range(z.shape[-1])]
        first = len(basis) - len(carried)
        names[first:] = carried
        if carried:
            values[..., first:] = torch.cat([z for z, _ in before], -1)
    if isinstance(basis, CrossLayer):
        own, place = mine[block][0], basis.error_place
        values[..., basis.own_latents] = own
        gate[..., basis.own_latents] = (own > 0).double()
        gate[..., place] = values[..., place] = 0
        decoder = decoder.clone()
        there = slice(WIDTH * 2, WIDTH * 3)
        decoder[basis.own_latents] = 0
        decoder[basis.own_latents, there] = mine[block][1][:, 0]
        for row, (i, k) in enumerate(carried, start=len(basis) - len(carried)):
            decoder[row] = 0
            decoder[row, there] = mine[i][1][k, block - i]
        error = torch.zeros_like(x)
        error[..., there] = x[..., there] - (values @ decoder)[..., there]
        names = names
    parts = values.unsqueeze(-1) * decoder
    if error is not None:
        parts[..., basis.error_place, :] = error
    return values, parts, encoder, gate, names


def expected(section, before, after, rule):
    """E from dense Jacobians of the model's own section; carried latents go on as they are."""
    values, parts, _, _, names = before
    _, _, encoder, gate, targets = after
    x = parts.new_zeros(0)
    edges = torch.zeros(len(targets), len(names), dtype=torch.float64)
    for n in range(len(values)):
        x = before_x[n]
        jacobian = sum(
            weight * jacrev(lambda x: section(x[None])[0])(point * x)
            for point, weight in zip(rule.points, rule.weights, strict=True)
        )
        effects = torch.einsum("sid,teds->eti", parts[n], jacobian.permute(0, 1, 3, 2))
        pre = torch.einsum("eti,ej->tji", effects, encoder)
        edges += (gate[n].unsqueeze(-1) * pre).square().sum(0)
    return edges
