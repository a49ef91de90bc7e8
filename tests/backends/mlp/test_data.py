"""Digits, MNIST as it is written, and what is refused of both."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.idx import idx, write_mnist
from helpers.numbers import assert_close

import libgraph as lg
from libgraph.errors import DataError
from libgraph.testing import check_backend
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.data import read_rows
from libgraph_backends.mlp.mnist import read_idx, read_mnist
from libgraph_backends.mlp.network import BUNDLED
from libgraph_backends.mlp.options import MLPOptions

# Digits


@pytest.fixture(scope="module")
def digits():
    return lg.load_backend("mlp", task="digits")


def test_digits_keep_the_contract(digits):
    check_backend(digits)


def test_the_bundled_weights_know_their_digits(digits):
    assert (digits.samples("train"), digits.samples("test")) == (1438, 359)
    (batch,) = digits.batches("test", 1000)
    right = digits.score(digits.network()(batch.inputs), batch.targets)
    record = Path(str(BUNDLED)).with_name("training.json").read_text(encoding="utf-8")
    accuracy = json.loads(record)["history"][-1]["test_accuracy"]
    assert float(right.mean()) == pytest.approx(accuracy, abs=2 / 359)
    assert float(right.mean()) > 0.96


def test_digits_are_analysed(digits):
    run = lg.analyze(digits, limit=200, tolerances=(0.01,))
    assert [layer.name for layer in run.graph().layers] == ["input", "hidden1", "hidden2", "output"]
    assert "homogeneity" not in run.metrics.modules.as_dict()


# MNIST


@pytest.mark.parametrize("options", [{}, {"zipped": True}, {"dot": True}])
def test_mnist_is_read_as_it_is_written(tmp_path, options):
    folder = write_mnist(tmp_path / "data", **options)
    images, labels = read_mnist(folder, "test")
    pixels = np.random.default_rng(0)
    pixels.integers(0, 256, (30, 4, 3))
    expected = torch.from_numpy(pixels.integers(0, 256, (10, 4, 3))).flatten(1) / 255
    assert_close(images, expected.float())
    assert labels.tolist() == list(range(10))
    assert len(read_mnist(folder, "train")[0]) == 30


WRONG_FILES = {
    "empty": (b"", "begins with nothing, not 00000803"),
    "text": (b"hello, world, how are you", "begins with 68656c6c"),
    "type": (idx(np.ones((2, 2, 2)), kind=13), "begins with 00000d03"),
    "dimensions": (idx([1, 2, 3]), "3 dimensions: it begins with 00000801"),
    "header": (idx(np.ones((2, 2, 2)))[:10], "no idx file"),
    "short": (idx(np.ones((2, 2, 2)))[:-1], "2 × 2 × 2 = 8 bytes after its header, not 7 bytes"),
    "long": (idx(np.ones((2, 2, 2))) + b"x", "after its header, not more"),
    "huge": (idx(np.ones((2, 2, 2))).replace(b"\0\0\0\2", b"\xff" * 4), "not 8 bytes"),
    "cut": (gzip.compress(idx(np.ones((20, 9, 9))))[:-12], "cannot be read"),
    "garbled": (b"\x1f\x8b" + b"nothing that gzip knows", "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_wrong_idx_file_is_named(tmp_path, kind):
    data, said = WRONG_FILES[kind]
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read_idx(path, 3)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": np.arange(30) % 11}, "the label 10 at number 10: they go from 0 to 9"),
        ({"labels": [1, 2]}, "has 2 labels for 30 images"),
        ({"images": np.ones((0, 4, 3)), "labels": []}, "no images"),
        ({"labels": idx([[1]])}, "1 dimension: it begins with 00000802"),
    ],
)
def test_wrong_images_or_labels_are_data_errors(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        read_mnist(write_mnist(tmp_path / "data", **options), "train")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no 'train-images-idx3-ubyte'"):
        read_mnist(tmp_path, "train")


def test_mnist_is_trained_and_analysed_from_the_command_line(run, tmp_path):
    folder = write_mnist(tmp_path / "data", zipped=True)
    trained = tmp_path / "model"
    options = ("-o", "task=mnist", "-o", f"data={folder}")
    result = run(
        "train", "mlp", *options, "-o", "hidden=6,5", "-o", "steps=20", "--out", trained, "--quiet"
    )
    assert result[0] == 0, result[2]
    model = ("-o", f"model={trained / 'model.safetensors'}", "-o", "sizes=12,6,5,10")
    code, _, err = run("analyze", "mlp", *options, *model, "--out", tmp_path / "run", "--quiet")
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["node_layers"] == ["input", "hidden1", "hidden2", "output"]
    check_backend(MLP(MLPOptions(task="mnist", data=folder, model=trained / "model.safetensors")))


@pytest.fixture
def real_mnist() -> Path:
    path = Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist"
    if not path.is_dir():
        pytest.skip(f"MNIST is not at '{path}'")
    return path


def test_the_real_files_are_read(real_mnist):
    images, labels = read_mnist(real_mnist, "test")
    assert images.shape == (10_000, 784)
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_a_state_dict_is_analysed_on_the_real_files(run, tmp_path, real_mnist):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
    )
    torch.save(module.state_dict(), tmp_path / "mine.pt")
    options = ["task=mnist", f"data={real_mnist}", f"model={tmp_path / 'mine.pt'}"]
    options += ["sizes=784,8,10", "activation=relu"]
    flags = [part for option in options for part in ("-o", option)]
    code, _, err = run(
        "analyze", "mlp", *flags, "--limit", 100, "--out", tmp_path / "run", "--quiet"
    )
    assert code == 0, err


# Rows of one's own


def npy(header, content=bytes(48)):
    head = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


DAMAGED = {
    "a header without end": npy("{'descr': '<f8', 'fortran_order': False, 'shape': ((5,), "),
    "more numbers than there are": npy(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    ),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }"),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_rows_are_named(tmp_path, kind):
    path = tmp_path / "rows.npy"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(DataError, match=r"rows\.npy' cannot be read"):
        read_rows(path)


@pytest.mark.parametrize("kind", ["<f8", ">f4", "<f2", "u2", ">i4", "?"])
def test_rows_of_any_kind_of_number(tmp_path, kind):
    rows = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    np.save(tmp_path / "rows.npy", rows)
    assert torch.equal(read_rows(tmp_path / "rows.npy"), torch.tensor(rows.tolist()).double())
