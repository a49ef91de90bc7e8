"""What of a file of weights is read: all of it, by its content, or nothing."""

import io
import pickle
import resource
import subprocess
import sys
import zipfile

import pytest
import torch
from helpers.numbers import normal, seeded
from safetensors.torch import save, save_file, save_model
from torch import nn

from libgraph.errors import BackendError
from libgraph.files.weights import is_safetensors, read_weights

STATE = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(3)}


def read(tmp_path, value):
    path = tmp_path / "model.pt"
    torch.save(value, path)
    return read_weights(path)


@pytest.mark.parametrize("name", ["w.SAFETENSORS", "w", "w.safetensors?download=true", "w.pt"])
def test_safetensors_are_known_by_their_content(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert list(read_weights(tmp_path / name)) == ["0.bias", "0.weight"]
    assert is_safetensors(tmp_path / name)


@pytest.mark.parametrize("name", ["w.safetensors", "w", "w.bin"])
@pytest.mark.parametrize("zipped", [False, True])
def test_checkpoints_are_known_by_their_content(tmp_path, name, zipped):
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert list(read_weights(tmp_path / name)) == ["0.weight", "0.bias"]
    assert not is_safetensors(tmp_path / name)


OPTIMIZER = torch.optim.Adam([nn.Parameter(torch.ones(3, 2))]).state_dict()
MOMENTS = {"state": {0: {"exp_avg": torch.ones(3, 2)}}, "param_groups": [{"params": [0]}]}
WRAPPED = {
    "model": {"model": STATE, "optimizer": MOMENTS, "epoch": 3, "loss": torch.tensor(0.5)},
    "state_dict": {"state_dict": STATE, "hyper_parameters": {"weights": torch.ones(10)}},
    "deep": {"checkpoint": {"net": STATE}, "optimizer": OPTIMIZER},
    "list": {"model": STATE, "optimizers": [MOMENTS]},
    "beside an optimizer": {**STATE, "optimizer": MOMENTS},
    "DataParallel": {f"module.{name}": tensor for name, tensor in STATE.items()},
    "compiled": {f"_orig_mod.{name}": tensor for name, tensor in STATE.items()},
    "both": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()},
    "parameters": {name: nn.Parameter(tensor) for name, tensor in STATE.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_state_dict_in_a_checkpoint_is_read(tmp_path, name):
    tensors = read(tmp_path, WRAPPED[name])
    assert list(tensors) == list(STATE)
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_compiled_parts_lose_what_is_added_to_their_names(tmp_path):
    names = [f"{i}._orig_mod.weight" for i in range(2)]
    assert list(read(tmp_path, dict.fromkeys(names, torch.ones(2, 2)))) == ["0.weight", "1.weight"]


ITSELF = {"model": STATE}
ITSELF["self"] = ITSELF
SEVERAL = {
    "two models": ({"model": STATE, "ema": STATE.copy()}, "'model', 'ema'"),
    "a model and a list": ({"model": STATE, "heads": [torch.ones(2, 2)]}, "'model', 'heads'"),
    "at the top and below": ({**STATE, "head": {"weight": torch.ones(2, 3)}}, "its top, 'head'"),
    "layers by themselves": ({"a": {"w": torch.ones(2, 2)}, "b": {"w": torch.ones(2, 2)}}, "'a'"),
    "a list alone": ({"weights": [torch.ones(2, 2)]}, "'weights'"),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_nothing_is_left_out_in_silence(tmp_path, name):
    value, said = SEVERAL[name]
    with pytest.raises(BackendError, match=f"in several places .*{said}.*save the one"):
        read(tmp_path, value)


def test_a_checkpoint_that_holds_itself(tmp_path):
    assert list(read(tmp_path, ITSELF)) == list(STATE)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_eight_bits_become_single_precision_exactly(tmp_path, dtype, ending):
    weight = normal(seeded(0), 3, 2).to(dtype)
    path = tmp_path / f"w.{ending}"
    (torch.save if ending == "pt" else save_file)({"0.weight": weight}, path)
    tensor = read_weights(path)["0.weight"]
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, weight.float())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors_are_written_out(tmp_path, layout):
    weight = torch.eye(4)
    tensor = read(tmp_path, {"0.weight": getattr(weight, layout)()})["0.weight"]
    assert torch.equal(tensor, weight)


def nested():
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])


def quantized():
    return torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)


def huge():
    index = torch.zeros(2, 1, dtype=torch.long)
    return torch.sparse_coo_tensor(index, torch.ones(1), (10**6, 10**6))


STRANGE = {
    "meta": (lambda: torch.ones(2, 2, device="meta"), "on the meta device"),
    "nested": (nested, "nested tensor"),
    "quantized": (quantized, "is quantized"),
    "huge": (huge, "more than 10 times the file"),
    "expanded": (lambda: torch.ones(1).expand(10**6, 10**6), "more than 10 times the file"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:.*quantize.*:DeprecationWarning")
@pytest.mark.parametrize("kind", STRANGE)
def test_tensors_that_are_no_arrays_are_named(tmp_path, kind):
    make, said = STRANGE[kind]
    with pytest.raises(BackendError, match=f"parameter '0.weight' .*{said}"):
        read(tmp_path, {"0.weight": make()})


def test_small_views_are_fine(tmp_path):
    weight = torch.ones(3, 1).expand(3, 2)
    assert torch.equal(read(tmp_path, {"0.weight": weight})["0.weight"], weight)


CONTENTS = {
    "nothing": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "page": (b"\n<!DOCTYPE html><html>", "is a web page"),
    "nine bytes": (b"\x80\x02Nr\x00\x84\xd7\x17.", "model.pt"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_files_that_are_something_else_are_named(tmp_path, kind):
    content, said = CONTENTS[kind]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=said):
        read_weights(path)


def test_a_program_is_named(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    with pytest.raises(BackendError, match=r"TorchScript program.*torch\.jit\.load"):
        read_weights(path)


def test_an_archive_that_unpacks_to_more_than_it_holds(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("model/data/0", bytes(2**24))
    with pytest.raises(BackendError, match="unpack to more than it can hold"):
        read_weights(path)


ASKS = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R."
"""A call of bytearray for 4 GiB of zeros, which PyTorch allows."""


@pytest.mark.parametrize("zipped", [False, True])
def test_a_small_file_takes_little_memory(tmp_path, zipped):
    path = tmp_path / "model.pt"
    if zipped:
        torch.save(STATE, path)
        members = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
        with zipfile.ZipFile(path, "w") as archive:
            for name in members.namelist():
                content = ASKS if name.endswith("data.pkl") else members.read(name)
                archive.writestr(name, content)
    else:
        path.write_bytes(ASKS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BackendError, match="more than tensors"):
        read_weights(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def test_the_environment_does_not_let_code_in(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "model.pt"
    code = (
        "import torch, pathlib, sys\n"
        "class Payload:\n"
        "    def __reduce__(self): return pathlib.Path.mkdir, (pathlib.Path(sys.argv[2]),)\n"
        "torch.save({'x': Payload()}, sys.argv[1])\n"
        "from libgraph.files.weights import read_weights\n"
        "read_weights(pathlib.Path(sys.argv[1]))\n"
    )
    environment = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, path, marker], env=environment, capture_output=True, text=True
    )
    assert "BackendError" in done.stderr
    assert not marker.exists()


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(STATE))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(BackendError, match=r"w\.safetensors' cannot be read \(Permission denied\)"):
        read_weights(path)


def test_tensors_that_are_shared_come_back_under_all_their_names(tmp_path):
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 3))
    save_model(model, tmp_path / "model.safetensors")
    weights = read_weights(tmp_path / "model.safetensors")
    assert list(weights) == sorted(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (
            {"weights": {"0.weight": torch.ones(3, 2)}, "biases": {"0.bias": torch.ones(3)}},
            "biases",
        ),
        ({**STATE, "2.bias": [1.0, 2.0, 3.0]}, "2.bias"),
        ({"0.weight": torch.ones(3, 2), "bias": {"0": torch.ones(3)}}, "bias.0"),
        ({"model": {"0.weight": torch.ones(3, 2)}, "0.bias": torch.ones(3)}, "0.bias"),
        ({"model": STATE, "mean": torch.ones(2), "std": torch.ones(2)}, "mean"),
        ({"model": STATE, "norm": {"running_mean": torch.ones(2)}}, "norm.running_mean"),
    ],
)
def test_vectors_beside_a_state_dict_are_not_left_out(tmp_path, value, name):
    with pytest.raises(BackendError, match=rf"holds '{name}[\w.]*' beside the state dict"):
        read(tmp_path, value)


def test_notes_beside_a_state_dict_are_left_out(tmp_path):
    notes = {"rng": torch.get_rng_state(), "loss": torch.tensor(0.1), "epoch": 3, "losses": [0.1]}
    assert list(read(tmp_path, {"model": STATE, **notes})) == ["0.weight", "0.bias"]
