"""Files of cross-layer transcoders: what is read of them, and what is wrong with them."""

import pytest
import torch
from helpers.dictionaries import WIDTH, save_cross_layer
from safetensors.torch import save_file

from libgraph.bases.dictionaries import method_of_folder
from libgraph.dictionaries.matching import dictionary_of_layer, matched
from libgraph.dictionaries.registry import read_dictionaries
from libgraph.dictionaries.weights import CrossLayerWeights
from libgraph.errors import BackendError, UsageError
from libgraph.network.dictionary import Threshold
from libgraph.network.network import NodeLayer
from libgraph.network.passage import Passage

BLOCKS, K = 3, 6


def layers(width=WIDTH, blocks=BLOCKS):
    """Node layers of MLPs that read a stream of this width."""
    reader = torch.eye(2 * width + 1, width).double()
    return [
        NodeLayer(
            f"{i}.mlp",
            2 * width + 1,
            passage=Passage(
                {f"blocks.{i}.hook_resid_mid": reader},
                (f"blocks.{i}.hook_mlp_out",),
                (width, 2 * width),
                (0, width),
            ),
        )
        for i in range(blocks)
    ]


@pytest.mark.parametrize("jumps", [True, False])
def test_all_of_the_files_is_read(tmp_path, jumps):
    w = save_cross_layer(tmp_path, WIDTH, BLOCKS, K, jumps=jumps)
    found = matched(read_dictionaries(tmp_path), layers())
    assert [*found] == ["0.mlp", "1.mlp", "2.mlp"]
    for i, weights in enumerate(found.values()):
        assert isinstance(weights, CrossLayerWeights)
        assert (weights.block, weights.blocks, weights.latents) == (i, BLOCKS, K)
        assert torch.equal(weights.encoder, w[f"W_enc_{i}"].T)
        assert torch.equal(weights.bias, w[f"b_enc_{i}"])
        assert torch.equal(weights.shift, w[f"b_dec_{i}"])
        assert torch.equal(weights.decoder, w[f"W_dec_{i}"][:, 0])
        assert torch.equal(weights.decoders(), w[f"W_dec_{i}"])
        assert isinstance(weights.gate, Threshold)
        assert torch.equal(weights.gate.threshold, w.get(f"threshold_{i}", torch.zeros(K).double()))


def test_half_precision_is_read_exactly(tmp_path):
    save_cross_layer(
        tmp_path, WIDTH, change=lambda _, tensors: {n: t.bfloat16() for n, t in tensors.items()}
    )
    first = read_dictionaries(tmp_path)[0]
    # There are many of them, which stay as they are until they are a basis.
    assert first.encoder.dtype == first.decoder.dtype == torch.bfloat16
    basis = dictionary_of_layer(layers()[0], first, torch.ones(1))
    latents = slice(basis.always, None)
    assert basis.encoder.dtype == basis.decoder.dtype == torch.float64
    assert torch.equal(basis.encoder[:WIDTH, latents], first.encoder.double())
    assert torch.equal(basis.decoder[latents, WIDTH:-1], first.decoder.double())


def test_results_depend_on_both_files_of_a_pair(tmp_path):
    digests = set()
    for file in ("", "W_enc_1", "W_dec_1"):
        save_cross_layer(tmp_path, WIDTH, change=put(file, file, lambda tensor: tensor + 1))
        digests.add(method_of_folder(tmp_path).digest)
    assert len(digests) == 3


def put(name, tensor, value):
    """A change of one tensor of one file."""

    def change(file, tensors):
        return {**tensors, tensor: value(tensors[tensor])} if file == name else tensors

    return change


def without(name, tensor=None):
    """A change that leaves out a file, or a tensor of it."""

    def change(file, tensors):
        if file != name:
            return tensors
        if tensor is None:
            return None
        return {key: value for key, value in tensors.items() if key != tensor}

    return change


def broken(tensor):
    tensor[0] = torch.nan
    return tensor


MISTAKES = {
    "no decoder": (without("W_dec_1"), r"has no 'W_dec_1\.safetensors': .* 0 to 2"),
    "no encoder": (without("W_enc_0"), r"has no 'W_enc_0\.safetensors'"),
    "no bias": (without("W_enc_2", "b_enc_2"), "holds no 'b_enc_2'"),
    "no tensor": (without("W_dec_2", "W_dec_2"), r"W_dec_2\.safetensors' holds no 'W_dec_2'"),
    "fewer writes": (
        put("W_dec_0", "W_dec_0", lambda t: t[:, :2].contiguous()),
        "'W_dec_0' is 6 × 2 × 4, where 6 latents of block 0 write into 3 of 3 blocks",
    ),
    "other latents": (
        put("W_dec_1", "W_dec_1", lambda t: t[:5].contiguous()),
        "'W_dec_1' is 5 × 2 × 4",
    ),
    "bias": (put("W_enc_1", "b_enc_1", lambda t: t[:5].contiguous()), "'b_enc_1' is 5, which does"),
    "shift": (put("W_enc_1", "b_dec_1", lambda t: t[:3].contiguous()), "'b_dec_1' is 3, which"),
    "nan": (put("W_dec_1", "W_dec_1", broken), "'W_dec_1' has values that are NaN"),
    "nan of an encoder": (put("W_enc_1", "W_enc_1", broken), "'W_enc_1' has values that are NaN"),
    "integers": (put("W_dec_0", "W_dec_0", lambda t: t.int()), "infinite or no numbers"),
    "below zero": (put("W_enc_0", "threshold_0", lambda t: -1 - t), "thresholds below zero"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(tmp_path, mistake):
    change, expected = MISTAKES[mistake]
    save_cross_layer(tmp_path, WIDTH, BLOCKS, K, change=change)
    with pytest.raises(UsageError, match=expected):
        read_dictionaries(tmp_path)


def test_another_width_is_of_another_model(tmp_path):
    save_cross_layer(tmp_path, WIDTH + 1)
    with pytest.raises(UsageError, match=r"reads 5 coordinates at .*, where this model has 4"):
        matched(read_dictionaries(tmp_path), layers())


def test_a_damaged_file_is_named(tmp_path):
    save_cross_layer(tmp_path, WIDTH)
    (tmp_path / "W_dec_1.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(BackendError, match=r"W_dec_1\.safetensors' is damaged"):
        read_dictionaries(tmp_path)


def test_a_configuration_alone_is_not_enough(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\n"
        "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out"
    )
    save_file({"W_enc": torch.zeros(3, 3)}, tmp_path / "layer_0.safetensors")
    with pytest.raises(UsageError, match="cross-layer transcoder without weights"):
        read_dictionaries(tmp_path)
