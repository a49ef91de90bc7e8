"""Dictionaries in the layouts of other tools against plain computations of what these define."""

import json

import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file

from libgraph.dictionaries.matching import dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.dictionaries.saelens import write
from libgraph.errors import UsageError
from libgraph.network.network import NodeLayer

D, K = 6, 16
LAYER = NodeLayer("stream", D + 1, hooks=("blocks.0.hook_resid_pre", "layers.0"))


def saelens(folder, architecture="standard", tensors=None, drop=(), **changes):
    generator = seeded(1)
    weights = {
        "W_enc": normal(generator, D, K).float(),
        "b_enc": normal(generator, K).float(),
        "W_dec": normal(generator, K, D).float(),
        "b_dec": normal(generator, D).float(),
        **(tensors or {}),
    }
    for name in drop:
        del weights[name]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    cfg = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": K,
        "dtype": "float32",
        "metadata": {"hook_name": "blocks.0.hook_resid_pre"},
        **changes,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return {name: tensor.double() for name, tensor in weights.items()}


def read(folder, layer=LAYER):
    """The folder's one dictionary as a basis, which is asked about some activations."""
    found = matched(read_dictionaries(folder), [layer])[layer.name]
    basis = dictionary_of_layer(layer, found, torch.ones(1))
    x = torch.cat([normal(seeded(2), 40, D), torch.ones(40, 1).double()], dim=1)
    return basis, x


def check(folder, latents, decoded):
    """Latents and what they write, by their definition on the coordinates h."""
    basis, x = read(folder)
    h = x[:, :-1]
    z = latents(h)
    assert float((z > 0).double().mean()) > 0.05
    assert_close(basis.latents(x)[:, basis.isolated :], z)
    kept = basis.latents(x) @ basis.decoder
    assert_close(kept[:, :-1], decoded(z))
    assert_close(kept[:, -1], torch.ones(len(x)).double())


def top(k, pre):
    values, places = pre.topk(k)
    return torch.zeros_like(pre).scatter(-1, places, values.relu())


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize(
    "architecture", ["standard", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk"]
)
def test_saelens(tmp_path, architecture, subtracts):
    extra = {}
    if architecture not in ("standard", "topk"):
        extra["threshold"] = normal(seeded(5), K).abs().float()
    changes = {"k": 3} if architecture != "standard" else {}
    w = saelens(tmp_path, architecture, extra, apply_b_dec_to_input=subtracts, **changes)

    def latents(h):
        pre = (h - subtracts * w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        if architecture == "topk":
            return top(3, pre)
        return pre.relu() * (pre > w.get("threshold", torch.zeros(K)))

    check(tmp_path, latents, lambda z: z @ w["W_dec"] + w["b_dec"])


def test_saelens_gated(tmp_path):
    generator = seeded(7)
    extra = {name: normal(generator, K).float() for name in ("r_mag", "b_mag", "b_gate")}
    w = saelens(tmp_path, "gated", extra, drop=["b_enc"])

    def latents(h):
        read = (h - w["b_dec"]) @ w["W_enc"]
        gate = read + w["b_gate"] > 0
        return gate * (read * w["r_mag"].exp() + w["b_mag"]).relu()

    check(tmp_path, latents, lambda z: z @ w["W_dec"] + w["b_dec"])


def test_saelens_topk_by_lengths_of_decoders(tmp_path):
    w = saelens(tmp_path, "topk", k=3, rescale_acts_by_decoder_norm=True)
    lengths = w["W_dec"].norm(dim=1)

    def latents(h):
        return top(3, ((h - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * lengths)

    check(tmp_path, latents, lambda z: (z / lengths) @ w["W_dec"] + w["b_dec"])


def test_saelens_of_older_versions(tmp_path):
    w = saelens(
        tmp_path,
        metadata={},
        hook_name="blocks.0.hook_resid_pre",
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 2},
    )
    check(
        tmp_path,
        lambda h: top(2, (h - w["b_dec"]) @ w["W_enc"] + w["b_enc"]),
        lambda z: z @ w["W_dec"] + w["b_dec"],
    )


NORMALISED = {
    "layer_norm": lambda h: (
        h.mean(-1, keepdim=True),
        (h - h.mean(-1, keepdim=True)).square().sum(-1, keepdim=True).div(D - 1).sqrt(),
        1e-5,
    ),
    "constant_norm_rescale": lambda h: (0.0, h.norm(dim=-1, keepdim=True) / D**0.5, 0.0),
}
"""What is taken from activations, what they are divided by, and what is added to that."""


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("how", NORMALISED)
def test_saelens_normalises_each_activation(tmp_path, architecture, how):
    """Latents times the size; the format itself leaves the small number out where it multiplies."""
    extra, drop = {}, []
    if architecture == "jumprelu":
        extra = {"threshold": normal(seeded(5), K).abs().float()}
    if architecture == "gated":
        extra = {
            name: normal(seeded(7 + i), K).float()
            for i, name in enumerate(("r_mag", "b_mag", "b_gate"))
        }
        drop = ["b_enc"]
    w = saelens(
        tmp_path, architecture, extra, drop, k=3, normalize_activations=how,
        apply_b_dec_to_input=architecture != "jumprelu",
    )  # fmt: skip
    basis, x = read(tmp_path)
    x[:, :-1] = 3 * x[:, :-1] + 2
    mean, deviation, small = NORMALISED[how](x[:, :-1])
    h = (x[:, :-1] - mean) / (deviation + small)
    pre = (h - (architecture != "jumprelu") * w["b_dec"]) @ w["W_enc"]
    if architecture == "gated":
        z = (pre + w["b_gate"] > 0) * (pre * w["r_mag"].exp() + w["b_mag"]).relu()
    elif architecture == "topk":
        z = top(3, pre + w["b_enc"])
    else:
        z = (pre + w["b_enc"]).relu() * (pre + w["b_enc"] > w.get("threshold", torch.zeros(K)))
    assert float((z > 0).double().mean()) > 0.05
    f = basis.latents(x)
    assert_close(f[:, basis.isolated :] / (deviation + small), z)
    decoded = mean + deviation * (z @ w["W_dec"] + w["b_dec"])
    kept = f @ basis.decoder
    assert (
        float((kept[:, :-1] - decoded).abs().max())
        <= 1.1 * small * float((z @ w["W_dec"] + w["b_dec"]).abs().max()) + 1e-12
    )
    assert_close(kept[:, -1], torch.ones(len(x)).double())
    assert_close(kept + basis.error(x), x)
    assert_close(f[:, basis.error_place - 1 : basis.error_place], deviation + small)


def test_of_latents_of_a_normalised_dictionary_those_left_out_go_on_competing(tmp_path):
    saelens(tmp_path, "topk", k=3, normalize_activations="layer_norm")
    basis, x = read(tmp_path)
    chosen = torch.tensor([1, 4, 5, 9])
    part = basis.of(chosen, torch.ones(4))
    expected = basis.latents(x)[:, basis.isolated + chosen]
    assert_close(part.latents(x)[:, basis.isolated :], expected)
    assert bool((expected > 0).any())


def test_what_is_normalised_is_written_so(tmp_path):
    saelens(tmp_path / "a", "topk", k=3, normalize_activations="layer_norm")
    (first,) = read_dictionaries(tmp_path / "a")
    write(tmp_path / "b", first)
    (second,) = read_dictionaries(tmp_path / "b")
    assert second.normalised == first.normalised is not None


def test_sparsify(tmp_path):
    generator = seeded(1)
    folder = tmp_path / "layers.0"
    folder.mkdir()
    w = {
        "encoder.weight": normal(generator, K, D).float(),
        "encoder.bias": normal(generator, K).float(),
        "W_dec": normal(generator, K, D).float(),
        "b_dec": normal(generator, D).float(),
    }
    save_file(w, folder / "sae.safetensors")
    cfg = {"d_in": D, "k": 4, "expansion_factor": 2, "activation": "topk", "transcode": False}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    w = {name: tensor.double() for name, tensor in w.items()}
    check(
        tmp_path,
        lambda h: top(4, ((h - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()),
        lambda z: z @ w["W_dec"] + w["b_dec"],
    )


def learned(folder, weights, kind):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "ae.pt")
    trainer = {"dict_class": kind, "submodule_name": "layers.0", "layer": 0}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    return {name: tensor.double() for name, tensor in weights.items()}


def linear_layers(*extra):
    generator = seeded(1)
    return {
        "encoder.weight": normal(generator, K, D).float(),
        "decoder.weight": normal(generator, D, K).float(),
        **{name: normal(generator, size).float() for name, size in extra},
    }


def test_dictionary_learning_relu(tmp_path):
    weights = linear_layers(("encoder.bias", K), ("bias", D))
    w = learned(tmp_path, weights, "AutoEncoder")
    check(
        tmp_path,
        lambda h: ((h - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu(),
        lambda z: z @ w["decoder.weight"].T + w["bias"],
    )


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE"])
def test_dictionary_learning_topk(tmp_path, kind):
    weights = linear_layers(("encoder.bias", K), ("b_dec", D))
    weights |= {"k": torch.tensor(3), "threshold": torch.tensor(0.7)}
    w = learned(tmp_path, weights, kind)

    def latents(h):
        pre = ((h - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return top(3, pre) if kind == "AutoEncoderTopK" else pre * (pre > w["threshold"])

    check(tmp_path, latents, lambda z: z @ w["decoder.weight"].T + w["b_dec"])


@pytest.mark.parametrize("name", ["k", "threshold"])
def test_dictionary_learning_has_one_threshold_and_one_k(tmp_path, name):
    weights = linear_layers(("encoder.bias", K), ("b_dec", D))
    weights |= {"k": torch.tensor(3), "threshold": torch.tensor(-1.0)}
    learned(tmp_path, weights | {name: torch.ones(K)}, "AutoEncoderTopK")
    with pytest.raises(UsageError, match=f"'{name}' is {K}, which does not fit"):
        read_dictionaries(tmp_path)


def test_dictionary_learning_gated(tmp_path):
    weights = linear_layers(("r_mag", K), ("gate_bias", K), ("mag_bias", K), ("decoder_bias", D))
    w = learned(tmp_path, weights, "GatedAutoEncoder")
    lengths = w["decoder.weight"].norm(dim=0)

    def latents(h):
        read = (h - w["decoder_bias"]) @ w["encoder.weight"].T
        magnitude = (w["r_mag"].exp() * read + w["mag_bias"]).relu()
        return (read + w["gate_bias"] > 0) * magnitude * lengths

    check(
        tmp_path,
        latents,
        lambda z: (z / lengths) @ w["decoder.weight"].T + w["decoder_bias"],
    )


def test_dictionary_learning_jumprelu(tmp_path):
    generator = seeded(1)
    weights = {
        "W_enc": normal(generator, D, K).float(),
        "W_dec": normal(generator, K, D).float(),
        "b_enc": normal(generator, K).float(),
        "b_dec": normal(generator, D).float(),
        "threshold": normal(generator, K).abs().float(),
    }
    w = learned(tmp_path, weights, "JumpReluAutoEncoder")
    lengths = w["W_dec"].norm(dim=1)

    def latents(h):
        pre = h @ w["W_enc"] + w["b_enc"]
        return pre.relu() * (pre > w["threshold"]) * lengths

    check(tmp_path, latents, lambda z: (z / lengths) @ w["W_dec"] + w["b_dec"])


def test_what_is_written_reads_the_same(tmp_path):
    w = saelens(tmp_path / "a", "topk", k=3)
    (first,) = read_dictionaries(tmp_path / "a")
    write(tmp_path / "b", first)
    (second,) = read_dictionaries(tmp_path / "b")
    assert second.hook == first.hook
    assert second.gate == first.gate
    for name in ("encoder", "bias", "decoder", "shift"):
        assert torch.allclose(getattr(first, name), getattr(second, name), atol=1e-6)
    assert len(w) == 4


def wrong(folder, **how):
    saelens(folder, **how)
    with pytest.raises(UsageError) as error:
        read(folder)
    return str(error.value)


MISTAKES = {
    "architecture": ({"architecture": "temporal"}, "'temporal': known are standard, topk, gated"),
    "missing": ({"drop": ["W_dec"]}, "holds no 'W_dec', which its kind of dictionary has"),
    "no threshold": ({"architecture": "jumprelu"}, "holds no 'threshold'"),
    "no k": ({"architecture": "topk"}, "does not say how many latents k are on"),
    "k": ({"architecture": "topk", "k": 99}, "keeps the 99 largest of 16 latents"),
    "half a k": ({"architecture": "topk", "k": 2.5}, "k"),
    "no end of k": (
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": float("inf")}},
        "says that k = inf latents are on",
    ),
    "norm": (
        {"normalize_activations": "batch_norm"},
        "normalize_activations=batch_norm: known are none, layer_norm, constant_norm_rescale",
    ),
    "factor": (
        {"normalize_activations": "expected_average_only_in"},
        "do not say by which factor: fold it",
    ),
    "width": ({"d_in": 7}, "cfg.json says 7 × 16, but W_enc is 6 × 16"),
    "hook": (
        {"metadata": {"hook_name": "blocks.7.hook_resid_pre"}},
        "which is no node layer of this analysis: near are blocks.0.hook_resid_pre",
    ),
    "kind": ({"d_sae": "many"}, "d_sae: a whole number is needed"),
    "shape": ({"tensors": {"b_enc": torch.zeros(3)}}, "'b_enc' is 3, which does not fit"),
    "nan": ({"tensors": {"b_dec": torch.full((D,), torch.nan)}}, "NaN or infinite"),
    "integers": ({"tensors": {"b_dec": torch.zeros(D, dtype=torch.int32)}}, "of int32 numbers"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(tmp_path, mistake):
    how, expected = MISTAKES[mistake]
    assert expected in wrong(tmp_path / "sae", **how)


def test_a_dictionary_of_another_width_is_of_another_model(tmp_path):
    saelens(tmp_path)
    with pytest.raises(UsageError, match="where this model has 9: it is of another model"):
        read(tmp_path, NodeLayer("stream", 10, hooks=LAYER.hooks))


def test_an_empty_folder_says_what_is_known(tmp_path):
    with pytest.raises(UsageError, match="holds no dictionary: known are those of SAELens"):
        read_dictionaries(tmp_path)


def test_two_dictionaries_of_one_place_are_refused(tmp_path):
    saelens(tmp_path / "a")
    saelens(tmp_path / "b")
    with pytest.raises(UsageError, match="are both of stream"):
        matched(read_dictionaries(tmp_path), [LAYER])


def test_without_a_hook_the_width_tells_if_it_is_one_layers_alone(tmp_path):
    saelens(tmp_path, metadata={})
    other = NodeLayer("other", D + 3)
    assert [*matched(read_dictionaries(tmp_path), [other, LAYER])] == ["stream"]
    twin = NodeLayer("twin", D + 1)
    with pytest.raises(UsageError, match="node layers with 6 coordinates are stream, twin"):
        matched(read_dictionaries(tmp_path), [LAYER, twin])


def test_a_folder_of_very_many_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setattr("libgraph.dictionaries.registry.MOST_FOLDERS", 3)
    for name in "abc":
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="more than 3 folders"):
        read_dictionaries(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refused(place):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("libgraph.dictionaries.registry.os.scandir", refused)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\)"):
        read_dictionaries(tmp_path)


def test_thresholds_below_zero_let_nothing_negative_through(tmp_path):
    below = {"threshold": torch.full((K,), -1.0)}
    w = saelens(tmp_path, "jumprelu", below)
    check(
        tmp_path,
        lambda h: ((h - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu(),
        lambda z: z @ w["W_dec"] + w["b_dec"],
    )
