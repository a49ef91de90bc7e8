"""Conv nets and MLPs of images as sections compute what PyTorch computes."""

import pytest
import torch
from helpers.cifar import small_backend, small_model, write_model
from helpers.commands import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from libgraph.errors import BackendError
from libgraph.testing import check_backend
from libgraph_backends.cifar.backend import CIFAR
from libgraph_backends.cifar.network import BUNDLED
from libgraph_backends.cifar.options import CIFAROptions
from libgraph_backends.cifar.training import normalised


@settings(max_examples=20, deadline=None)
@given(
    layers=st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([1, 3, 5]), st.integers(1, 3)),
        min_size=1,
        max_size=3,
    )
)
def test_the_sections_of_a_conv_net_compute_what_torch_does(layers, data, tmp_path_factory):
    channels, kernels, strides = zip(*layers, strict=True)
    module = small_model(channels=channels, kernels=kernels, strides=strides)
    path = write_model(module, tmp_path_factory.mktemp("model"))
    backend = CIFAR(CIFAROptions(data=data, model=path, strides=strides))
    images = next(backend.batches("test", 4)).inputs
    network = backend.network().double()
    torch.testing.assert_close(
        network(images)[:, 0], module.double()(normalised(images).double()), atol=1e-6, rtol=0
    )


def test_the_sections_of_the_mlp_compute_what_torch_does(data, tmp_path):
    module = small_model("mlp", hidden=(7, 5))
    options = CIFAROptions(arch="mlp", data=data, model=write_model(module, tmp_path))
    backend = CIFAR(options)
    images = next(backend.batches("test", 4)).inputs
    torch.testing.assert_close(
        backend.network()(images)[:, 0], module(normalised(images)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("arch", ["conv", "mlp"])
def test_the_contract_is_kept(arch, small_data, tmp_path):
    check_backend(small_backend(arch, small_data, tmp_path), samples=3)


def test_feature_maps_are_as_large_as_said(data):
    backend = CIFAR(CIFAROptions(data=data))
    batch = next(backend.batches("train", 2))
    network, grids = backend.network().double(), backend._model.grids
    assert list(grids) == ["input", "conv1", "conv2", "conv3", "conv4"]
    for layer, x in zip(network.node_layers, network.activations(batch.inputs), strict=True):
        height, width = grids.get(layer.name, (1, 1))
        assert x.shape[1] == height * width
        if layer.constant:
            assert (x[..., -1] == 1).all()


def test_bundled_networks_are_small():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 2**20


def test_half_precision_is_only_how_weights_are_stored(data, tmp_path):
    module = small_model("mlp").bfloat16()
    backend = CIFAR(CIFAROptions(arch="mlp", data=data, model=write_model(module, tmp_path)))
    assert {tensor.dtype for tensor in backend.network().state_dict().values()} == {torch.float32}


# What does not fit


def changed(**tensors):
    return {**small_model().state_dict(), **tensors}


WRONG = {
    "a batch norm": (changed(**{"1.running_mean": torch.ones(3)}), "'1.running_mean'"),
    "whole numbers": (changed(**{"0.bias": torch.ones(3, dtype=torch.int64)}), "'0.bias'"),
    "a bias of another size": (changed(**{"0.bias": torch.ones(5)}), "'0.bias' should be 3, not 5"),
    "an even kernel": (changed(**{"2.weight": torch.ones(2, 3, 2, 2)}), "'2.weight'", "2 × 2"),
    "no square": (changed(**{"2.weight": torch.ones(2, 3, 3, 1)}), "'2.weight'", "2 × 3 × 3 × 1"),
    "other channels": (changed(**{"2.weight": torch.ones(2, 4, 3, 3)}), "× 3 ×", "2 × 4 × 3 × 3"),
    "a readout of pixels": (changed(**{"6.weight": torch.ones(10, 8)}), "outputs × 2", "10 × 8"),
    "grey images": (changed(**{"0.weight": torch.ones(3, 1, 5, 5)}), "1 inputs"),
    "other classes": (
        changed(**{"6.weight": torch.ones(4, 2), "6.bias": torch.ones(4)}),
        "4 outputs",
    ),
    "nothing": ({"x": torch.ones(1)}, "'x'"),
}


def analyze_model(run, data, folder, tensors):
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors")
    options = ("-o", f"data={data}", "-o", "strides=5,4", "-o", "model=model.safetensors")
    return run("analyze", "cifar", *options)


@pytest.mark.parametrize("case", WRONG)
def test_models_that_do_not_fit(case, data, tmp_path, run):
    tensors, *parts = WRONG[case]
    fails(analyze_model(run, data, tmp_path, tensors), 3, "model.safetensors", *parts)


def test_weights_that_are_not_finite(data, tmp_path, run):
    tensors = changed(**{"2.bias": torch.full((2,), torch.nan)})
    fails(analyze_model(run, data, tmp_path, tensors), 5, "'2.bias'")


def test_an_mlp_of_other_images(data, tmp_path):
    path = write_model(nn.Sequential(nn.Linear(48, 10)), tmp_path)
    with pytest.raises(BackendError, match="48 inputs and 10 outputs, not 3072 and 10"):
        CIFAR(CIFAROptions(arch="mlp", data=data, model=path)).network()
