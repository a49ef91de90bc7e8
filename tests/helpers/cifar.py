"""Small networks of images, and batches of images."""

import numpy as np
from safetensors.torch import save_file

from libgraph_backends.cifar.backend import CIFAR
from libgraph_backends.cifar.options import CIFAROptions, TrainingOptions
from libgraph_backends.cifar.training import initial_model

SMALL = {
    "conv": {"channels": (3, 2), "kernels": (5, 3), "strides": (5, 4)},
    "mlp": {"hidden": (4, 3)},
}
"""Training options of a small network by its kind."""


def write_batches(folder, side=32):
    """Made-up images, lighter from class to class: two batches for training, one for tests."""
    random = np.random.default_rng(0)
    for name in ("data_batch_1", "data_batch_3", "test_batch"):
        records = random.integers(0, 76, (30, 1 + 3 * side * side), dtype=np.uint8)
        records[:, 0] = np.arange(30) % 10
        records[:, 1:] += 20 * records[:, :1]
        records.tofile(folder / f"{name}.bin")
    return folder


def small_model(arch="conv", **options):
    """A network with random weights."""
    return initial_model(TrainingOptions(arch=arch, **{**SMALL[arch], **options}))


def write_model(module, folder):
    """Its state dict as a file."""
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return path


def small_backend(arch, data, folder, **options):
    """The backend of a small network."""
    if arch == "conv":
        options["strides"] = SMALL[arch]["strides"]
    path = write_model(small_model(arch), folder)
    return CIFAR(CIFAROptions(arch=arch, data=data, model=path, **options))
