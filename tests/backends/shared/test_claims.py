"""What a header or a configuration claims is held against its file before memory is taken."""

from __future__ import annotations

import gzip
import io
import json
import struct

import numpy as np
import pytest
import torch
from helpers.hooked import configuration, random_parameters
from helpers.idx import idx
from helpers.language_models import CONFIGURATIONS
from helpers.limits import within_limits
from safetensors.torch import save_file

from libgraph.backend import read_array
from libgraph.errors import BackendError, DataError
from libgraph_backends.lm.libraries import quiet
from libgraph_backends.lm.loading import load_bundled, load_model
from libgraph_backends.mlp.mnist import read_idx
from libgraph_backends.shared.checkpoints import renamed
from libgraph_backends.shared.layers import from_state_dict
from libgraph_backends.shared.state_dicts import StateDict, read_checkpoint


def npy(header, data=bytes(64), version=1):
    """A file with this header, whatever follows it."""
    text = repr(header).encode() if isinstance(header, dict) else header
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + data


def header(shape, descr="<i8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


ARRAYS = {
    "petabytes": header((2**50,)),
    "more than an index": header((2**70, 2**70)),
    "a product that wraps around": header((2**32, 2**32)),
    "less than nothing": header((-1, -8)),
    "texts of no length": header((2**50,), "<U0"),
    "objects": header((8,), "|O"),
    "too short": header((9,)),
    "no shape": header(((5,),)),
    "brackets": b"{'descr': " + b"(" * 5000,
    "fields": header((8,), [("a", "<i8", (2**40,))]),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("from_pipe", [False, True])
def test_arrays_that_are_not_there(tmp_path, name, version, from_pipe):
    content = npy(ARRAYS[name], version=version)
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with within_limits(len(content)):
        assert read_array(io.BytesIO(content) if from_pipe else path) is None


@pytest.mark.parametrize("version", [(2, 0), (1, 114), (3, 0)])
def test_a_header_that_says_it_is_long(tmp_path, version):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY" + bytes(version) + b"\xff\xff\xff\x7f" + bytes(100))
    with within_limits(path.stat().st_size):
        assert read_array(path) is None


@pytest.mark.parametrize("from_pipe", [False, True])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["<i8", ">u2", "u1", "<f4", "?"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_arrays_that_are_there(tmp_path, from_pipe, order, dtype, version):
    for shape in ((3, 4), (), (5,), (0, 3), (2, 0, 4)):
        array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype))
        array = np.asarray(array, order=order)
        path = tmp_path / "a.npy"
        with path.open("wb") as file:
            np.lib.format.write_array(file, array, (version, 0))
        found = read_array(io.BytesIO(path.read_bytes()) if from_pipe else path)
        assert found is not None
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
        assert found.shape == shape


def test_images_that_unpack_to_much_more(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((100, 1000, 1000)))))
    size = path.stat().st_size
    with within_limits(size), pytest.raises(DataError, match="10 times its size: unpack it"):
        read_idx(path, 3)


def test_images_that_claim_to_unpack_to_gigabytes(tmp_path):
    path = tmp_path / "images.gz"
    content = idx(np.ones((2, 2, 2))).replace(b"\0\0\0\2", b"\0\0\7\0")
    path.write_bytes(gzip.compress(content))
    with within_limits(path.stat().st_size), pytest.raises(DataError, match="10 times its size"):
        read_idx(path, 3)
    path.write_bytes(content)
    with within_limits(path.stat().st_size), pytest.raises(DataError, match="not 8 bytes"):
        read_idx(path, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "is no index"),
        (b'{"weight_map": {"a": ["b"]}}', "is no index"),
        (b'{"weight_map": [1]}', "is no index"),
        (b'{"weight_map": {"a": "../b"}}', "no file beside it"),
    ],
)
def test_indexes_that_are_none(tmp_path, content, said):
    path = tmp_path / "w.index.json"
    path.write_bytes(content)
    with within_limits(len(content)), pytest.raises(BackendError, match=said):
        read_checkpoint(path)


def test_a_million_layers_are_refused_at_once():
    row = torch.ones(1, 1)
    names = (f"l{'x' * (i % 7)}.{i}" for i in range(10**6))
    state = StateDict({f"{name}.weight": row for name in names}, "it", keeps_order=False)
    with within_limits(10**8), pytest.raises(BackendError, match="1000000 layers"):
        from_state_dict(state, None, "relu")


def test_many_names_are_matched_in_one_pass():
    wanted = {f"h.{i}.w": None for i in range(100)}
    row = torch.ones(1)
    tensors = {f"net.{i}.h.{i}.w": row for i in range(10**5)} | {
        f"net.h.{i}.w": row for i in range(9)
    }
    with within_limits(10**8):
        found = renamed(tensors, wanted)
    assert [name for name in found if name in wanted] == [f"h.{i}.w" for i in range(9)]


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What is imported at the first time does not count as taken for a file."""
    with quiet():
        load_bundled()


@pytest.mark.parametrize("layers", [3000, 10**12])
def test_more_layers_of_hooked_transformers_than_parameters(tmp_path, layers):
    config = configuration("plain")
    save_file(random_parameters(config), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layers": layers}))
    with within_limits(10**6), pytest.raises(BackendError, match=f"says {layers} layers"):
        load_model(str(tmp_path), None)


@pytest.fixture
def folder(tmp_path):
    """A small model of Hugging Face as it is saved."""
    import transformers

    config = next(iter(CONFIGURATIONS.values()))
    with quiet():
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("claim", [{"n_layer": 10**6}, {"vocab_size": 10**12}, {"n_embd": 2**20}])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_configurations_of_far_larger_models(folder, claim, name):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | claim))
    if name.endswith("bin"):
        torch.save(read_checkpoint(folder).tensors, folder / name)
        (folder / "model.safetensors").unlink()
    with within_limits(10**7), pytest.raises(BackendError, match="far larger than its weights"):
        load_model(str(folder), None)
