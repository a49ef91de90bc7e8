"""Images in files: as large as those of CIFAR-10, and smaller ones."""

import pytest
from helpers.cifar import write_batches


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with batches of images of 32 × 32 pixels."""
    return write_batches(tmp_path_factory.mktemp("cifar10"))


@pytest.fixture
def small_data(tmp_path_factory, monkeypatch):
    """A folder with batches of images of 8 × 8 pixels, which images have meanwhile."""
    sizes = {"SHAPE": (3, 8, 8), "PIXELS": 3 * 8 * 8, "RECORD": 1 + 3 * 8 * 8}
    places = {
        "SHAPE": ("batches", "data", "network", "training"),
        "PIXELS": ("batches", "network", "training"),
        "RECORD": ("batches",),
    }
    for name, modules in places.items():
        for module in modules:
            monkeypatch.setattr(f"libgraph_backends.cifar.{module}.{name}", sizes[name])
    return write_batches(tmp_path_factory.mktemp("small-cifar10"), side=8)
