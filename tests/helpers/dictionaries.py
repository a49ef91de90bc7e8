"""Dictionaries with random weights, and features by their definition."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.func import jacrev

from helpers.networks import Toy
from helpers.numbers import normal, seeded
from helpers.sections import AppendOne, random_section
from libgraph.backend.data import Data
from libgraph.bases.dictionaries import method_of_folder
from libgraph.bases.method import Setting, Truncation, make_bases
from libgraph.dictionaries.matching import dictionary_of_layer
from libgraph.dictionaries.weights import DictionaryWeights, Normalisation
from libgraph.network.dictionary import Dictionary, Threshold, TopK
from libgraph.network.network import Network, NodeLayer
from libgraph.network.passage import Passage
from libgraph.progress import silent
from libgraph.sections import Linear, SkipMLP


def random_dictionary(size, latents, seed, *, k=None, threshold=0.0):
    """Of a node layer whose last coordinate is the constant: k latents at once, or a threshold."""
    generator = seeded(seed)
    isolated = 2
    encoder = torch.zeros(size, isolated + latents, dtype=torch.float64)
    decoder = torch.zeros(isolated + latents, size, dtype=torch.float64)
    encoder[-1, 0] = decoder[0, -1] = 1
    encoder[:, isolated:] = normal(generator, size, latents)
    decoder[isolated:, :-1] = normal(generator, latents, size - 1)
    decoder[0, :-1] = normal(generator, size - 1)
    gate = Threshold(torch.full((latents,), threshold).double()) if k is None else TopK(k)
    importance = torch.ones(isolated + latents).double()
    return Dictionary(encoder, decoder, importance, isolated, gate=gate)


def normalised_dictionary(size, latents, seed, *, k=None, threshold=0.0, centred=True):
    """One that divides activations by their own size, from weights of its own."""
    generator = seeded(seed)
    layer = NodeLayer("of size", size)
    gate = Threshold(torch.full((latents,), threshold).double()) if k is None else TopK(k)
    weights = DictionaryWeights(
        Path("weights"),
        "",
        normal(generator, size - 1, latents),
        normal(generator, latents),
        normal(generator, latents, size - 1),
        normal(generator, size - 1),
        gate,
        Normalisation(centred, 1e-5 if centred else 0.0),
    )
    return dictionary_of_layer(layer, weights, torch.ones(1)), weights


def latents_by_definition(basis, x):
    """Features of one activation, without the error, in a loop."""
    if basis.linear:
        return x @ basis.encoder
    pre = (x @ basis.encoder).tolist()
    first = basis.isolated
    latents = pre[first:]
    if isinstance(basis.gate, TopK):
        rest = [] if basis.gate.others is None else (x @ basis.gate.others).tolist()
        least = sorted([*latents, *rest], reverse=True)[basis.gate.k - 1]
        kept = [p if p > 0 and p >= least else 0.0 for p in latents]
    else:
        kept = [
            p if p > t else 0.0 for p, t in zip(latents, basis.gate.threshold.tolist(), strict=True)
        ]
    return torch.tensor([*pre[: first - 1], 0.0, *kept], dtype=torch.float64)


WIDTH, HIDDEN = 4, 7


def network_with_mlp(activation=torch.relu, mixing="attention", samples=40, positions=3):
    """A stream, x to x + φ(x A) B and on, with a node layer of (x, o, 1) in it; inputs; the MLP."""
    generator = seeded(8)
    d = WIDTH
    inner = normal(generator, d + 1, HIDDEN)
    outer, bias = normal(generator, HIDDEN, d), normal(generator, d)
    skip = torch.zeros(d + 1, 2 * d + 1).double()
    skip[:d, :d] = skip[:d, d : 2 * d] = torch.eye(d)
    skip[d, d : 2 * d], skip[d, -1] = bias, 1
    wide = torch.cat([torch.zeros(HIDDEN, d), outer, torch.zeros(HIDDEN, 1)], dim=1)
    reader = torch.eye(2 * d + 1, d).double()
    passage = Passage({"mlp": reader, "mlp doubled": 2 * reader}, ("out",), (d, 2 * d), (0, d))
    layers = [
        NodeLayer("stream", d + 1, hooks=("resid",)),
        NodeLayer("mlp", 2 * d + 1, passage=passage),
        NodeLayer("after", d + 1),
        NodeLayer("out", 3, constant=False, rotated=False),
    ]
    sections = [
        SkipMLP(skip, inner, wide, activation),
        Linear(torch.eye(2 * d + 1).double()[:, d:]),
        random_section(mixing, d + 1, 3, seed=4, width=4, constant=False),
    ]
    network = Network(AppendOne(), sections, layers)
    return Toy(network, normal(seeded(0), samples, positions, d)), (inner, outer, bias)


def save_transcoder(folder, architecture="transcoder", tensors=None, drop=(), **changes):
    """A transcoder in SAELens's layout, random but for the tensors given; what it holds."""
    generator = seeded(1)
    d, k = changes.get("d_in", WIDTH), changes.get("d_sae", 9)
    weights = {
        "W_enc": normal(generator, d, k),
        "b_enc": normal(generator, k),
        "W_dec": normal(generator, k, WIDTH),
        "b_dec": normal(generator, WIDTH),
        "W_skip": normal(generator, WIDTH, d),
        "threshold": normal(generator, k).abs(),
    }
    for name in ("W_skip", "threshold"):
        if {"W_skip": "skip", "threshold": "jumprelu"}[name] not in architecture:
            del weights[name]
    weights |= tensors or {}
    weights = {name: tensor for name, tensor in weights.items() if name not in drop}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "sae_weights.safetensors",
    )
    cfg = {
        "architecture": architecture,
        "d_in": d,
        "d_sae": k,
        "d_out": WIDTH,
        "apply_b_dec_to_input": False,
        "metadata": {"hook_name": "mlp", "hook_name_out": "out"},
        **changes,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return weights


def bases_of(backend, folder, **options):
    """Bases of the folder's dictionaries, on training data."""
    made = make_bases(
        {"t": method_of_folder(folder)},
        backend.network(),
        Data(backend, "train", **options),
        Truncation.parse("rel:1e-10"),
        setting=Setting(),
        progress=silent,
    )
    return made["t"]


CROSS_LAYER_CONFIGURATION = """model_name: someone/model
model_kind: cross_layer_transcoder
feature_input_hook: {reads}
feature_output_hook: hook_mlp_out
"""


def save_cross_layer(
    folder, width, blocks=3, latents=6, *, jumps=True, reads="hook_resid_mid", change=None
):
    """A cross-layer transcoder in circuit-tracer's layout, random; what it holds, by name.

    Args:
        folder: made if it is not there.
        width: of the stream.
        blocks: how many.
        latents: of each block.
        jumps: whether latents have thresholds.
        reads: the place in each block that encoders read at.
        change: takes the tensors of one file and its name, and gives those that are written.
    """
    generator, found = seeded(1), {}
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(blocks):
        encoder = {
            f"W_enc_{i}": normal(generator, latents, width),
            f"b_enc_{i}": 0.3 * normal(generator, latents),
            f"b_dec_{i}": 0.3 * normal(generator, width),
        }
        threshold = 0.2 * normal(generator, latents).abs()
        if jumps:
            encoder[f"threshold_{i}"] = threshold
        decoder = {f"W_dec_{i}": 0.3 * normal(generator, latents, blocks - i, width)}
        for name, tensors in ((f"W_enc_{i}", encoder), (f"W_dec_{i}", decoder)):
            written = tensors if change is None else change(name, tensors)
            if written is not None:
                save_file(written, folder / f"{name}.safetensors")
        found |= encoder | decoder
    (folder / "config.yaml").write_text(CROSS_LAYER_CONFIGURATION.format(reads=reads))
    return found


def edges_by_autodiff(section, source, target, xs, rule):
    """E from dense Jacobians, with what latents are active at each end and the error by itself."""
    parts, gates = [], []
    for basis, x in ((source, xs), (target, section(xs))):
        f = basis.features(x)
        gate = torch.ones_like(f)
        if not basis.linear:
            first, place = basis.always, basis.error_place
            gate[..., first:], gate[..., place] = (f[..., first:] > 0).double(), 0
            f[..., place] = 0
        part = f.unsqueeze(-1) * basis.decoder
        if not basis.linear:
            part[..., basis.error_place, :] = x - f @ basis.decoder
        parts.append(part)
        gates.append(gate)
    edges = torch.zeros(len(target), len(source), dtype=torch.float64)
    for n, x in enumerate(xs):
        jacobian = sum(
            weight * jacrev(lambda x: target.read(section(x[None]))[0])(point * x)
            for point, weight in zip(rule.points, rule.weights, strict=True)
        )
        effects = torch.einsum("sid,teds->eti", parts[0][n], jacobian.permute(0, 1, 3, 2))
        pre = torch.einsum("eti,ej->tji", effects, target.reader)
        edges += (gates[1][n].unsqueeze(-1) * pre).square().sum(0)
    return edges / (len(xs) * xs.shape[1])
