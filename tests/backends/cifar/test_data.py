"""CIFAR-10 is read as it was written, and a file that could run code is refused."""

import os
import pickle
import struct
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libgraph.errors import DataError
from libgraph_backends.cifar import batches
from libgraph_backends.cifar.data import CLASSES, read_cifar10
from libgraph_backends.cifar.labels import ANIMALS, VEHICLES

OLD, NEW = "numpy.core.multiarray", "numpy._core.multiarray"


def planted(count, seed=0):
    """Images `(n, 3, 32, 32)` and labels `(n,)`."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return images, generator.integers(0, 10, count)


def binary(images, labels):
    """Records, written one byte after another."""
    out = bytearray()
    for image, label in zip(images, labels, strict=True):
        out.append(int(label))
        for channel in range(3):
            for row in range(32):
                out += bytes(image[channel, row].tolist())
    return bytes(out)


def string(text):
    """As Python 2 writes one."""
    short = b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))
    return short + text


def number(value):
    return b"J" + struct.pack("<i", value)


def python2(images, labels, *, module=OLD, kind=b"u1", shape=None, data=None):
    """A batch as Python 2 and the NumPy of then wrote it, opcode by opcode."""
    shape = (len(images), 3072) if shape is None else shape
    data = images.tobytes() if data is None else data
    names = string(b"labels") + b"](" + b"".join(number(label) for label in labels) + b"e"
    type_ = b"cnumpy\ndtype\n" + string(kind) + number(0) + number(1) + b"\x87R"
    type_ += b"(" + number(3) + string(b"|") + b"NNN" + 2 * number(-1) + number(0) + b"tb"
    array = b"c" + module.encode() + b"\n_reconstruct\ncnumpy\nndarray\n"
    array += number(0) + b"\x85" + string(b"b") + b"\x87R("
    array += number(1) + b"(" + b"".join(map(number, shape)) + b"t" + type_ + b"\x89"
    array += string(data) + b"tb"
    title = string(b"batch_label") + string(b"training batch 1 of 5")
    return b"\x80\x02}(" + title + names + string(b"data") + array + b"u."


def python3(images, labels, *, protocol=2, **change):
    batch = {b"data": images.reshape(-1, 3072), b"labels": [int(label) for label in labels]}
    return pickle.dumps({**batch, **change}, protocol=protocol)


WRITERS = {
    "binary": (".bin", binary),
    "python 2": ("", python2),
    "python 2, new names": ("", lambda *batch: python2(*batch, module=NEW)),
    "python 3": ("", python3),
    "python 3, protocol 4": ("", lambda *batch: python3(*batch, protocol=4)),
}


def write(folder, kind="binary", names=("data_batch_1",), counts=(3,)):
    """Batches of these sizes, one seed each; returns what should be read."""
    ending, writer = WRITERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    batches = [planted(count, seed) for seed, count in enumerate(counts)]
    for name, batch in zip(names, batches, strict=True):
        (folder / (name + ending)).write_bytes(writer(*batch))
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def same(actual, expected):
    images, labels = expected
    assert (actual.images.dtype, actual.labels.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(actual.images.numpy(), images)
    assert actual.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_batch_is_read_as_it_was_written(tmp_path, kind):
    expected = write(tmp_path, kind)
    same(read_cifar10(tmp_path, "train"), expected)


def test_what_we_write_here_is_a_pickle_of_python_2():
    images, labels = planted(2)
    for module in (OLD, NEW):
        with warnings.catch_warnings(action="ignore"):
            batch = pickle.loads(python2(images, labels, module=module), encoding="bytes")  # noqa: S301
        assert set(batch) == {b"batch_label", b"labels", b"data"}
        assert batch[b"data"].dtype == np.uint8
        assert np.array_equal(batch[b"data"].reshape(images.shape), images)
        assert batch[b"labels"] == labels.tolist()


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 3),
    place=st.tuples(st.integers(0, 2), st.integers(0, 31), st.integers(0, 31)),
    value=st.integers(1, 255),
    label=st.integers(0, 9),
    kind=st.sampled_from(list(WRITERS)),
)
def test_channels_come_first_then_rows(tmp_path_factory, count, place, value, label, kind):
    folder = tmp_path_factory.mktemp("data")
    images = np.zeros((count, 3, 32, 32), dtype=np.uint8)
    images[-1][place] = value
    ending, writer = WRITERS[kind]
    (folder / f"test_batch{ending}").write_bytes(writer(images, [label] * count))
    actual = read_cifar10(folder, "test")
    assert actual.images.nonzero().tolist() == [[count - 1, *place]]
    assert int(actual.images.max()) == value
    assert actual.labels.tolist() == [label] * count
    # In the file, red is before green is before blue, and a row has 32 bytes.
    if kind == "binary":
        content = (folder / "test_batch.bin").read_bytes()
        channel, row, column = place
        assert content[3073 * (count - 1) + 1 + 1024 * channel + 32 * row + column] == value


def test_an_array_in_the_order_of_fortran_is_the_same_array(tmp_path):
    images, labels = planted(3)
    rows = np.asfortranarray(images.reshape(3, 3072))
    batch = {b"data": rows, b"labels": labels.tolist()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    same(read_cifar10(tmp_path, "test"), (images, labels))


@pytest.mark.parametrize(("kind", "ending"), [("binary", ".bin"), ("python 2", "")])
def test_as_many_training_batches_as_there_are(tmp_path, kind, ending):
    names = ("data_batch_2", "data_batch_4", "data_batch_5")
    expected = write(tmp_path, kind, names, (2, 1, 3))
    (tmp_path / "notes.txt").write_text("of no concern")
    actual = read_cifar10(tmp_path, "train")
    same(actual, expected)
    assert actual.files == tuple(tmp_path / (name + ending) for name in names)
    assert actual.missing == (f"data_batch_1{ending}", f"data_batch_3{ending}")


def test_the_test_batch_is_its_own(tmp_path):
    write(tmp_path, names=("data_batch_1",))
    with pytest.raises(DataError, match=r"no test batch .*the folder with test_batch, with"):
        read_cifar10(tmp_path, "test")
    expected = write(tmp_path, names=("test_batch",), counts=(5,))
    actual = read_cifar10(tmp_path, "test")
    same(actual, expected)
    assert actual.missing == ()
    assert len(read_cifar10(tmp_path, "train").images) == 3


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("binary", "cifar-10-batches-bin"), ("python 2", "cifar-10-batches-py")],
)
def test_the_folder_may_be_around_the_official_one(tmp_path, kind, folder):
    expected = write(tmp_path / folder, kind)
    same(read_cifar10(tmp_path, "train"), expected)
    assert read_cifar10(tmp_path, "train").files[0].parent == tmp_path / folder


def test_classes():
    assert len(CLASSES) == 10
    assert {CLASSES[index] for index in VEHICLES} == {"airplane", "automobile", "ship", "truck"}
    assert sorted(ANIMALS | VEHICLES) == list(range(10))
    assert not ANIMALS & VEHICLES


# What is refused


def test_without_batches_the_names_are_said(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as error:
            read_cifar10(folder, "train")
        assert f"no train batch of CIFAR-10 in '{folder}'" in str(error.value)
        assert "data_batch_1 to data_batch_5, with the ending .bin or with none" in str(error.value)


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def test_a_pickle_that_runs_a_command_is_refused(tmp_path):
    ran = tmp_path / "ran"
    dangerous = python3(*planted(1), batch_label=Command(ran))
    (tmp_path / "test_batch").write_bytes(dangerous)
    with pytest.raises(DataError) as error:
        read_cifar10(tmp_path, "test")
    assert f"'{os.system.__module__}.system'" in str(error.value)
    assert f"'{tmp_path / 'test_batch'}'" in str(error.value)
    assert not ran.exists()
    # It would have run.
    pickle.loads(dangerous)  # noqa: S301
    assert ran.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval", "__builtin__ eval", "os system", "numpy load", "numpy.lib.npyio load",
        "numpy.core.multiarray fromfile", "numpy ndarray.tofile", "libgraph.files.atomic read_json",
        "numpy.core.multiarray scalar", "_codecs decode", "codecs encode", "copyreg _reconstructor",
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_else_may_be_named(tmp_path, name, protocol):
    module, attribute = name.split()
    if protocol == 2:
        content = b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n."
    else:
        names = [b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute)]
        content = b"\x80\x04" + b"".join(names) + b"\x93."
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=f"names '{module}.{attribute}'"):
        read_cifar10(tmp_path, "test")


def objects():
    """Rows of Python objects in place of bytes."""
    array = np.empty((1, 3072), dtype=object)
    array[:] = 1
    return pickle.dumps({b"data": array, b"labels": [1]}, protocol=2)


IMAGES, LABELS = planted(2)
ROWS = IMAGES.reshape(2, 3072)
WRONG = {
    "empty": (".bin", b"", "has 0 bytes, but a batch has 3073 for each image"),
    "cut": (".bin", binary(IMAGES, LABELS)[:-1], "has 6145 bytes.*official ones 30730000"),
    "long": (".bin", binary(IMAGES, LABELS) + b"x", "has 6147 bytes"),
    "label": (".bin", binary(IMAGES, [3, 10]), "the label 10 at number 1: they go from 0 to 9"),
    "no pickle": ("", b"hello, world", "damaged or no pickle"),
    "nothing": ("", b"", "damaged or no pickle"),
    "cut pickle": ("", python2(IMAGES, LABELS)[:-100], "damaged or no pickle"),
    "cut, python 3": ("", python3(IMAGES, LABELS)[:-9], "damaged or no pickle"),
    "call of nothing": ("", b"\x80\x02K\x01K\x01\x85R.", r"damaged or no pickle \(TypeError\)"),
    "persistent": ("", b"\x80\x02U\x01aQ.", "damaged or no pickle"),
    "list": ("", pickle.dumps([1, 2], protocol=2), "no b'data' in it"),
    "names alone": ("", pickle.dumps([b"data", b"labels"], protocol=4), "no b'data' in it"),
    "no data": ("", pickle.dumps({b"labels": [1]}, protocol=0), "no b'data' in it"),
    "no labels": ("", python2(IMAGES, LABELS).replace(b"labels", b"lapels"), "no b'labels' in it"),
    "other keys": ("", pickle.dumps({"data": [], "labels": []}, protocol=4), "no b'data' in it"),
    "a list of images": ("", pickle.dumps(
        {b"data": [[1] * 3072], b"labels": [1]}, protocol=4), "an array of unsigned bytes"),
    "an array not made": ("", b"\x80\x02}(" + string(b"data") + b"cnumpy\nndarray\n" +
        string(b"labels") + b"]u.", "an array of unsigned bytes"),
    "objects": ("", objects(), "an array of unsigned bytes"),
    "floats": ("", python2(IMAGES, LABELS, kind=b"f4"), "an array of unsigned bytes"),
    "signed": ("", python2(IMAGES, LABELS, kind=b"i1"), "an array of unsigned bytes"),
    "flat": ("", python2(IMAGES, LABELS, shape=(6144,)), "with 3072 for each"),
    "wide": ("", python2(IMAGES, LABELS, shape=(1, 6144)), "with 3072 for each"),
    "none": ("", python2(IMAGES[:0], []), "with 3072 for each"),
    "negative": ("", python2(IMAGES, LABELS, shape=(-2, -3072)), "with 3072 for each"),
    "huge": ("", python2(IMAGES, LABELS, shape=(2**31 - 1, 3072)), "all of them"),
    "short": ("", python2(IMAGES, LABELS, data=IMAGES.tobytes()[:-1]), "all of them"),
    "more labels": ("", python2(IMAGES, [1, 2, 3]), "3 labels for 2 images"),
    "fewer labels": ("", python2(IMAGES, [1]), "1 labels for 2 images"),
    "label, python": ("", python2(IMAGES, [10, 3]), "the label 10 at number 0: they go from"),
    "negative label": ("", python2(IMAGES, [0, -1]), "the label -1 at number 1: they go from"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_batch_is_named(tmp_path, kind):
    ending, content, said = WRONG[kind]
    path = tmp_path / f"test_batch{ending}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_cifar10(tmp_path, "test")
    assert str(error.value).startswith(f"'{path}' ")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ((1, 2), "as a list of whole numbers"),
        ([1.0, 2], "as a list of whole numbers"),
        ([True, 2], "as a list of whole numbers"),
        (None, "as a list of whole numbers"),
        ([1, 2**80], "at number 1"),
        ([-(2**80), 2], "at number 0"),
    ],
)
def test_labels_are_whole_numbers(tmp_path, labels, said):
    content = pickle.dumps({b"data": ROWS, b"labels": labels}, protocol=2)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_cifar10(tmp_path, "test")


def test_bytes_are_decoded_in_one_way_only(tmp_path):
    # By way of "hex" and its like a short file would grow without end.
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R."
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match="UnpicklingError"):
        read_cifar10(tmp_path, "test")


COPIES = b"X\x40\x00\x00\x00" + 64 * b"a"
DEMANDING = {
    "a note under a large number": b"\x80\x02Nr\x00\x84\xd7\x17.",
    "a note in text": b"Np400000000\n.",
    "bytes that are not there": b"\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.",
    "copies of a text": b"\x80\x02(c_codecs\nencode\nq\x01" + COPIES + b"X\x06\x00\x00\x00latin1"
    b"\x86q\x02R" + 100 * b"h\x01h\x02R" + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("kind", DEMANDING)
def test_a_small_batch_takes_little_memory(tmp_path, kind):
    (tmp_path / "test_batch").write_bytes(DEMANDING[kind])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="damaged or no pickle"):
            read_cifar10(tmp_path, "test")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["binary", "python 2"])
def test_a_file_beyond_all_measure_is_not_read(tmp_path, monkeypatch, kind):
    write(tmp_path, kind)
    monkeypatch.setattr(batches, "MOST", 9000)
    with pytest.raises(DataError, match="more than 9000 bytes"):
        read_cifar10(tmp_path, "train")


def test_a_wrong_batch_among_right_ones_is_named(tmp_path):
    write(tmp_path, names=("data_batch_1", "data_batch_2"), counts=(1, 1))
    (tmp_path / "data_batch_3.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match=r"data_batch_3\.bin' has the label 10 at number 0"):
        read_cifar10(tmp_path, "train")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_batch_that_may_not_be_read_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "data_batch_1.bin").chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        read_cifar10(tmp_path, "train")


# The real files


@pytest.fixture
def real_cifar() -> Path:
    path = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"
    if not path.is_dir():
        pytest.skip(f"CIFAR-10 is not at '{path}'")
    return path


def test_the_real_files_are_read(real_cifar):
    train, test = (read_cifar10(real_cifar, split) for split in ("train", "test"))
    assert train.images.shape == (30_000, 3, 32, 32)
    assert train.missing == ("data_batch_4.bin", "data_batch_5.bin")
    # The first is a frog, whose first pixel and the published means anyone can look up.
    assert [CLASSES[label] for label in train.labels[:3].tolist()] == ["frog", "truck", "truck"]
    assert train.images[0, :, 0, 0].tolist() == [59, 62, 63]
    assert test.labels.bincount().tolist() == [1000] * 10
    means = train.images.double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    assert (test.images.double().mean((0, 2, 3))).tolist() == pytest.approx(
        [126.025, 123.708, 114.854], abs=0.01
    )
