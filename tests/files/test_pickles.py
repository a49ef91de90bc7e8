"""What a pickle asks for is found out before it is made: what its bytes can hold, or nothing."""

from __future__ import annotations

import io
import pickle
import time
import zipfile

import pytest
import torch
from helpers.limits import within_limits
from torch import nn

from libgraph.errors import BackendError
from libgraph.files.pickles import look_through
from libgraph.files.weights import read_weights


def looked(content, size=None):
    return look_through(io.BytesIO(content), len(content) if size is None else size)


VALUES = [
    {"a": [1, 2.5, None, True], ("x", ("y", 2)): {1, 2}, b"b": frozenset({3})},
    [list(range(1000)), "text" * 100, (1, 2, 3, 4), 2**200, -5, bytearray(b"x")[:0].decode()],
    complex(1, 2),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_plain_values_of_every_protocol_pass(protocol, number):
    assert looked(pickle.dumps(VALUES[number], protocol)) == []


def nested(levels):
    """A tuple that holds the one before it twice, as a key: 2^levels steps for its hash."""
    body = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))
    return b"\x80\x02}" + body + b"K\x01s."


HUNGRY = {
    "a note under a large number": b"\x80\x02Nr\x00\x84\xd7\x17.",
    "a text that is not there": b"\x80\x02X\x00\x00\x00\xf0abc.",
    "bytes that are not there": b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00abc.",
    "room for bytes": b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
    "room, named late": b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93J\x00\x00\x00\x7f\x85R.",
    "a tensor of any size": b"\x80\x02ctorch\nFloatTensor\nJ\x00\x00\x00\x7f\x85R.",
    "a storage of any size": b"\x80\x02ctorch.storage\nUntypedStorage\nJ\x00\x00\x00\x7f\x85\x81.",
    "a subclass of it": (
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nTensor\nN)}tR."
    ),
    "a key without end": nested(60),
    "copies of a text": (
        b"\x80\x02X\x00\x10\x00\x00" + b"a" * 4096 + b"q\x000"
        + b"c_codecs\nencode\nq\x010" + b"h\x01h\x00\x85R0" * 10_000 + b"N."
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUNGRY)
def test_what_asks_for_more_than_it_has_is_refused_at_once(name):
    began = time.process_time()
    with pytest.raises(pickle.UnpicklingError):
        looked(HUNGRY[name])
    assert time.process_time() - began < 1


@pytest.mark.parametrize("content", [b"", b"\x80", b"nothing", b"\x80\x02h\x05.", b"\x80\x02s."])
def test_what_is_no_pickle(content):
    with pytest.raises(pickle.UnpicklingError):
        looked(content)


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


STATE = {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(4).double(), "n": torch.tensor(3)}


def test_the_storages_of_a_checkpoint():
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as archive:
        content = archive.read("archive/data.pkl")
    assert [storage.size for storage in looked(content)] == [24, 32, 8]


def changed(content, old, new):
    assert content.count(old) >= 1
    return content.replace(old, new)


def archive_with(change, content):
    """The same archive with its pickle changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, change(part) if name.endswith("data.pkl") else part)
    return file.getvalue()


def claims(part):
    """Six numbers said to be 256 million."""
    return changed(part, b"K\x06", b"J\x00\x00\x00\x10")


def beyond(part):
    """Three rows of two said to be 65 536 rows."""
    return changed(part, b"K\x03K\x02\x86", b"J\x00\x00\x01\x00K\x02\x86")


@pytest.mark.parametrize("change", [claims, beyond])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_more_numbers_than_are_there(tmp_path, change, zipped):
    content = saved({"w": torch.ones(3, 2)}, _use_new_zipfile_serialization=zipped)
    content = archive_with(change, content) if zipped else change(content)
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with within_limits(len(content)), pytest.raises(BackendError):
        read_weights(path)


def expanded():
    return {f"{i}.weight": torch.ones(1).expand(2**11, 2**11) for i in range(10)}


def sparse():
    index = torch.zeros(2, 1, dtype=torch.long)
    one = torch.sparse_coo_tensor(index, torch.ones(1), (2**12, 2**12))
    return {f"{i}.weight": one for i in range(10)}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("make", [expanded, sparse])
def test_many_tensors_that_a_small_file_describes(tmp_path, make):
    path = tmp_path / "w.pt"
    path.write_bytes(saved(make()))
    with (
        within_limits(path.stat().st_size),
        pytest.raises(BackendError, match="more than 10 times the file"),
    ):
        read_weights(path)


def test_models_as_they_are_saved_pass(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    model = nn.Sequential(layer, nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.LSTM(4, 4), layer)
    optimizer = torch.optim.Adam(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    value = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        path.write_bytes(saved(value, _use_new_zipfile_serialization=zipped))
        found = read_weights(path)
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(found[name], t) for name, t in model.state_dict().items())
