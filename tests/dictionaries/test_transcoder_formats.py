"""Transcoders in the layouts of other tools against plain computations of what these define."""

import json

import pytest
import torch
from helpers.dictionaries import WIDTH, network_with_mlp, save_transcoder
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file

from libgraph.dictionaries.matching import dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.errors import UsageError
from libgraph.network.network import NodeLayer
from libgraph.network.passage import Passage

K = 9


def layers():
    backend, _ = network_with_mlp()
    return backend.network().node_layers


def activations():
    backend, _ = network_with_mlp()
    return backend.network().activations_at(1, backend.inputs)


def read(folder, among=None):
    among = among or layers()
    found = matched(read_dictionaries(folder), among)
    (name,) = found
    (layer,) = (layer for layer in among if layer.name == name)
    return dictionary_of_layer(layer, found[name], torch.ones(1))


def check(folder, latents, imitation, among=None):
    """Latents, what is imitated and the error, by their definition on what the MLP reads."""
    basis, x = read(folder, among), activations()
    h, out = x[..., :WIDTH], x[..., WIDTH:-1] - x[..., :WIDTH]
    z = latents(h)
    assert 0.05 < float((z > 0).double().mean()) < 1
    f = basis.latents(x)
    assert_close(f[..., basis.always :], z)
    assert_close(basis.aim(x), out)
    assert_close(basis.missed(x, f), out - imitation(h, z))
    assert_close(basis.features(x)[..., basis.error_place], basis.missed(x, f).norm(dim=-1))
    # Features, with the error, are what the next section reads.
    whole = (f @ basis.decoder + basis.error(x))[..., WIDTH:]
    assert_close(whole, x[..., WIDTH:])
    assert_close(
        basis.imitated(x, f), torch.cat([h, h + imitation(h, z), torch.ones_like(h[..., :1])], -1)
    )
    assert_close(basis.without(x), torch.cat([h, h, torch.ones_like(h[..., :1])], -1))


@pytest.mark.parametrize(
    "architecture",
    ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"],
)
def test_saelens(tmp_path, architecture):
    w = save_transcoder(tmp_path, architecture)
    skip = w.get("W_skip", torch.zeros(WIDTH, WIDTH).double())

    def latents(h):
        pre = h @ w["W_enc"] + w["b_enc"]
        return pre.relu() * (pre > w.get("threshold", torch.zeros(K)))

    check(tmp_path, latents, lambda h, z: z @ w["W_dec"] + w["b_dec"] + h @ skip.T)


NORMALISED = {
    "layer_norm": lambda h: (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-5),
    "constant_norm_rescale": lambda h: h * WIDTH**0.5 / h.norm(dim=-1, keepdim=True),
}


@pytest.mark.parametrize("how", NORMALISED)
@pytest.mark.parametrize("architecture", ["transcoder", "jumprelu_skip_transcoder"])
def test_saelens_normalises_what_is_read(tmp_path, architecture, how):
    """Latents read it divided by its size; what they write and the skip are as they are."""
    w = save_transcoder(tmp_path, architecture, normalize_activations=how)
    skip = w.get("W_skip", torch.zeros(WIDTH, WIDTH).double())

    def latents(h):
        pre = NORMALISED[how](h) @ w["W_enc"] + w["b_enc"]
        return pre.relu() * (pre > w.get("threshold", torch.zeros(K)))

    check(tmp_path, latents, lambda h, z: z @ w["W_dec"] + w["b_dec"] + h @ skip.T)


def test_another_input_is_found_in_the_same_node_layer(tmp_path):
    w = save_transcoder(tmp_path, "skip_transcoder", metadata={"hook_name": "mlp doubled"})
    check(
        tmp_path,
        lambda h: (2 * h @ w["W_enc"] + w["b_enc"]).relu(),
        lambda h, z: z @ w["W_dec"] + w["b_dec"] + 2 * h @ w["W_skip"].T,
    )


def test_a_folded_norm_is_another_place(tmp_path):
    """Its scale and shift are in the weights of what follows."""
    hook = "blocks.0.ln2.hook_normalized"
    metadata = {"hook_name": hook, "model_from_pretrained_kwargs": {"fold_ln": True}}
    save_transcoder(tmp_path, metadata=metadata)
    (found,) = read_dictionaries(tmp_path)
    assert found.hook == f"{hook} (norm folded)"


@pytest.mark.parametrize("skip", [True, False])
def test_sparsify(tmp_path, skip):
    generator, folder = seeded(1), tmp_path / "mlp"
    folder.mkdir()
    w = {
        "encoder.weight": normal(generator, K, WIDTH),
        "encoder.bias": normal(generator, K),
        "W_dec": normal(generator, K, WIDTH),
        "b_dec": normal(generator, WIDTH),
        "W_skip": normal(generator, WIDTH, WIDTH),
    }
    if not skip:
        del w["W_skip"]
    save_file(w, folder / "sae.safetensors")
    cfg = {"d_in": WIDTH, "k": 3, "transcode": True, "skip_connection": skip}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    among = [*layers()]
    among[1] = NodeLayer("l", among[1].size, passage=renamed(among[1].passage, ("mlp",)))

    def latents(h):
        values, places = (h @ w["encoder.weight"].T + w["encoder.bias"]).topk(3)
        return h.new_zeros(*h.shape[:-1], K).scatter(-1, places, values.relu())

    def imitation(h, z):
        past = h @ w["W_skip"].T if skip else 0
        return z @ w["W_dec"] + w["b_dec"] + past

    check(tmp_path, latents, imitation, among)


def renamed(passage, writers):
    return Passage(passage.readers, writers, passage.written, passage.passing)


def circuit_tracer(folder, blocks=(0,), configuration=None, **extra):
    generator, weights = seeded(1), {}
    for i in blocks:
        weights[i] = {
            "W_enc": normal(generator, K, WIDTH),
            "b_enc": normal(generator, K),
            "W_dec": normal(generator, K, WIDTH),
            "b_dec": normal(generator, WIDTH),
            **extra,
        }
        save_file(weights[i], folder / f"layer_{i}.safetensors")
    lines = configuration or [
        "model_name: someone/model",
        "model_kind: transcoder_set  # of every block",
        'feature_input_hook: "hook_resid_mid"',
        "feature_output_hook: hook_mlp_out",
        "transcoders:",
        *(f"  - layer_{i}.safetensors" for i in weights),
    ]
    (folder / "config.yaml").write_text("\n".join(lines))
    return weights


def blocks(count):
    """Node layers of so many blocks, all like ours."""
    passage = layers()[1].passage
    reader = passage.readers["mlp"]
    return [
        NodeLayer(
            f"{i}.mlp",
            2 * WIDTH + 1,
            passage=Passage(
                {f"blocks.{i}.hook_resid_mid": reader},
                (f"blocks.{i}.hook_mlp_out",),
                passage.written,
                passage.passing,
            ),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("threshold", [True, False])
def test_circuit_tracer(tmp_path, threshold):
    extra = {"W_skip": normal(seeded(3), WIDTH, WIDTH)}
    if threshold:
        extra["activation_function.threshold"] = normal(seeded(4), K).abs()
    (w,) = circuit_tracer(tmp_path, **extra).values()

    def latents(h):
        pre = h @ w["W_enc"].T + w["b_enc"]
        return pre.relu() * (pre > w.get("activation_function.threshold", torch.zeros(K)))

    check(
        tmp_path,
        latents,
        lambda h, z: z @ w["W_dec"] + w["b_dec"] + h @ w["W_skip"].T,
        blocks(1),
    )


def test_circuit_tracer_has_one_for_every_block(tmp_path):
    circuit_tracer(tmp_path, range(12))
    found = matched(read_dictionaries(tmp_path), blocks(12))
    assert [weights.path.name for weights in found.values()] == [
        f"layer_{i}.safetensors" for i in range(12)
    ]
    assert [*found] == [f"{i}.mlp" for i in range(12)]


def test_circuit_tracer_with_thresholds_below_zero_is_refused(tmp_path):
    circuit_tracer(tmp_path, **{"activation_function.threshold": -torch.ones(K).double()})
    with pytest.raises(UsageError, match=r"layer_0\.safetensors' has thresholds below zero"):
        read_dictionaries(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "\ufefffeature_input_hook: hook_resid_mid\nfeature_output_hook : hook_mlp_out",
        '{"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}',
    ],
)
def test_all_of_yaml_is_read(tmp_path, text):
    circuit_tracer(tmp_path, configuration=[text])
    assert [*matched(read_dictionaries(tmp_path), blocks(1))] == ["0.mlp"]


@pytest.mark.parametrize("text", ["a: [", "2", "", "a: 2020-99-99", "[" * 10_000])
def test_what_is_no_configuration(tmp_path, text):
    circuit_tracer(tmp_path, configuration=[text])
    with pytest.raises(UsageError, match=r"config\.yaml' (is no|does not say)"):
        read_dictionaries(tmp_path)


def test_circuit_tracer_says_which_hook_is_missing(tmp_path):
    circuit_tracer(tmp_path, configuration=["feature_input_hook: hook_resid_mid"])
    with pytest.raises(UsageError, match=r"config.yaml' does not say its feature_output_hook"):
        read_dictionaries(tmp_path)


def test_dictionary_learning_says_that_a_module_is_not_named(tmp_path):
    (tmp_path / "ae.pt").touch()
    (tmp_path / "config.json").write_text(json.dumps({"buffer": {"io": "in_and_out"}}))
    with pytest.raises(UsageError, match="io=in_and_out"):
        read_dictionaries(tmp_path)


NAN = torch.full((WIDTH,), torch.nan).double()

MISTAKES = {
    "input": (
        {"metadata": {"hook_name": "mlp 2", "hook_name_out": "out"}},
        "reads at mlp 2, which is no node layer of this analysis: near are mlp",
    ),
    "output": (
        {"metadata": {"hook_name": "mlp", "hook_name_out": "elsewhere"}},
        r"writes at elsewhere, which is not what the MLP there puts out \(out\)",
    ),
    "width": ({"d_in": 6}, "reads 6 coordinates at mlp, where this model has 4"),
    "outputs": (
        {"d_out": 5, "tensors": {"W_dec": torch.zeros(K, 5), "b_dec": torch.zeros(5)}},
        "writes 5 coordinates at mlp, where this model has 4: it is of another model",
    ),
    "configured": ({"d_out": 5}, "'W_dec' is 9 × 4, which does not fit"),
    "skip": ({"architecture": "skip_transcoder", "drop": ["W_skip"]}, "holds no 'W_skip'"),
    "threshold": (
        {"architecture": "jumprelu_transcoder", "drop": ["threshold"]},
        "holds no 'threshold'",
    ),
    "nan": ({"tensors": {"b_dec": NAN}}, "'b_dec' has values that are NaN"),
    "activation": ({"activation_fn": "tanh"}, "has the activation 'tanh'"),
    "architecture": ({"architecture": "transcoder_of_heads"}, "known are .*, skip_transcoder"),
    "norm": (
        {"normalize_activations": "expected_average_only_in"},
        "normalize_activations=expected_average_only_in",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(tmp_path, mistake):
    how, expected = MISTAKES[mistake]
    save_transcoder(tmp_path, **how)
    with pytest.raises(UsageError, match=expected):
        read(tmp_path)


def test_without_a_node_layer_of_an_mlp_it_says_how_to_have_one(tmp_path):
    save_transcoder(tmp_path)
    with pytest.raises(UsageError, match="language models have them with -o cuts=mlps"):
        read(tmp_path, [layers()[0]])


def test_without_a_hook_one_mlp_is_enough(tmp_path):
    save_transcoder(tmp_path, metadata={})
    assert read(tmp_path).carried == WIDTH
    with pytest.raises(UsageError, match=r"node layers of MLPs are 0.mlp, 1.mlp"):
        read(tmp_path, blocks(2))
