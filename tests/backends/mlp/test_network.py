"""A `Sequential` or a state dict, made into sections, computes what PyTorch computes."""

import math

import numpy as np
import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import save_file
from torch import nn

import libgraph as lg
from libgraph.errors import DataError, UsageError
from libgraph.testing import check_backend
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.data import read_rows
from libgraph_backends.mlp.options import MLPOptions

MODULES = {
    "relu": lambda: [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)],
    "in place": lambda: [nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)],
    "no bias": lambda: [nn.Linear(5, 7, bias=False), nn.GELU(), nn.Linear(7, 3, bias=False)],
    "leaky": lambda: [nn.Linear(5, 7), nn.LeakyReLU(0.3), nn.Linear(7, 3), nn.Sigmoid()],
    "rows": lambda: [nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)],
    "nested": lambda: [
        nn.Sequential(nn.Linear(5, 4), nn.SiLU()), nn.Identity(), nn.Sequential(nn.Linear(4, 2)),
    ],
    "linear": lambda: [nn.Linear(5, 4), nn.Linear(4, 3)],
    "two in a row": lambda: [nn.Linear(5, 4), nn.Softplus(), nn.Tanh(), nn.Linear(4, 3)],
    "alone": lambda: [nn.Linear(5, 2)],
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_sequential_computes_what_it_computed(name):
    torch.manual_seed(0)
    module = nn.Sequential(*MODULES[name]()).double().eval()
    inputs = normal(seeded(0), 40, 5)
    backend = MLP(module=module, inputs=inputs)
    expected = module(inputs).detach()
    assert_close(backend.network()(inputs)[:, 0], expected)
    assert_close(next(iter(backend.batches("train", 5))).targets, expected[:5])
    assert (backend.samples("train"), backend.samples("test")) == (32, 8)
    check_backend(backend)


def test_inputs_with_more_dimensions_are_flattened():
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    inputs = normal(seeded(0), 20, 2, 3)
    backend = MLP(module=module, inputs=inputs, targets=torch.arange(20) % 3)
    assert backend.classifies
    assert_close(backend.network()(inputs)[:, 0], module(inputs).detach())
    assert lg.analyze(backend).metrics.score.name == "accuracy"


def test_inputs_may_be_whole_numbers():
    module = nn.Sequential(nn.Linear(4, 3)).double()
    inputs = torch.arange(80).reshape(20, 2, 2) % 7
    backend = MLP(module=module, inputs=inputs)
    expected = module(inputs.flatten(1).double()).detach()
    assert_close(next(iter(backend.batches("train", 16))).targets, expected[:16])
    with pytest.raises(DataError, match="a row for each sample"):
        MLP(module=module, inputs=torch.arange(4))


ROWS = [[0, 1, 2, 3], [1, 0, 1, 0], [2, 2, 0, 1]]


@pytest.mark.parametrize(
    "inputs",
    [
        ROWS,
        np.array(ROWS),
        np.array(ROWS, dtype=np.uint16),
        torch.tensor(ROWS).float().requires_grad_(),
        torch.tensor(ROWS).float().to_sparse(),
        torch.tensor(ROWS).float().to(torch.float8_e4m3fn),
        torch.tensor(ROWS).half(),
    ],
    ids=lambda inputs: f"{type(inputs).__name__} {getattr(inputs, 'dtype', '')}",
)
def test_inputs_and_classes_of_any_kind(inputs):
    module = nn.Sequential(nn.Linear(4, 3))
    targets = np.array([0, 2, 1], dtype=np.uint16)
    backend = MLP(module=module, inputs=inputs, targets=targets)
    (batch,) = backend.batches("train", 5)
    assert batch.inputs.tolist() == ROWS[:2]
    assert (batch.targets.dtype, batch.targets.tolist()) == (torch.int64, [0, 2])


@pytest.mark.parametrize(
    "inputs",
    [[[1, 2], [3]], "rows", torch.zeros(4, 4, device="meta"), torch.zeros(4, 4).cfloat(), None],
)
def test_inputs_that_are_no_numbers(inputs):
    module = nn.Sequential(nn.Linear(4, 3))
    if inputs is None:
        with pytest.raises(DataError, match="Targets have to be"):
            MLP(module=module, inputs=ROWS, targets="classes")
        return
    with pytest.raises(DataError, match=r"Inputs'? (have to be|is on)"):
        MLP(module=module, inputs=inputs)


def test_a_module_of_ones_own_on_the_digits():
    module = nn.Sequential(nn.Linear(64, 10))
    backend = MLP(MLPOptions(task="digits"), module=module)
    assert (backend.samples("test"), backend.score_name) == (359, "accuracy")
    assert backend.network().node_layers[0].size == 65


def test_a_module_without_inputs_runs_on_normal_ones():
    backend = MLP(MLPOptions(samples=50), module=nn.Sequential(nn.Linear(3, 2)))
    assert (backend.samples("train"), backend.samples("test")) == (50, 10)
    assert backend.score_name == "relative error"


FUNCTIONS = {
    "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU, "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "softplus": nn.Softplus, "linear": nn.Identity,
}  # fmt: skip


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_state_dict_computes_what_its_module_computes(tmp_path, activation, ending):
    torch.manual_seed(0)
    # Eleven layers of the same size: names in the order of the alphabet would be another network.
    parts = [part for _ in range(11) for part in (nn.Linear(4, 4), FUNCTIONS[activation]())]
    module = nn.Sequential(*parts[:-1]).double()
    path = tmp_path / f"model{ending}"
    (save_file if ending == ".safetensors" else torch.save)(module.state_dict(), path)
    options = {"model": str(path), "sizes": ",".join(["4"] * 12), "activation": activation}
    backend = lg.load_backend("mlp", task="own", samples="20", **options)
    x = normal(seeded(0), 20, 4)
    assert_close(backend.network()(x)[:, 0], module(x).detach())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"task": "digits", "activation": "linear"}, "task=digits without model="),
        ({"blocks": 3, "task": "digits"}, "task=digits without model="),
        ({"sizes": "64,5,10"}, "task=modular"),
        ({"task": "own", "model": "m.pt", "data": "x.npy", "samples": 7}, "task=own with data="),
        ({"task": "own", "model": "m.pt", "interaction": 0.3}, "task=own"),
    ],
)
def test_options_that_a_task_has_no_use_for_are_refused(options, why):
    with pytest.raises(UsageError, match=rf"{why} has no use for \w+=: leave it out"):
        lg.load_backend("mlp", **options)


def test_the_error_is_relative_to_the_variance_of_the_outputs():
    backend = MLP(module=nn.Sequential(nn.Linear(2, 1)), inputs=normal(seeded(0), 10, 2))
    outputs = next(iter(backend.batches("train", 8))).targets
    far = backend.score(outputs[:, None] + math.sqrt(float(outputs.var(correction=0))), outputs)
    torch.testing.assert_close(far, torch.ones(8).double(), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "given",
    [
        np.array(ROWS, dtype=">f8"),
        np.array(ROWS, dtype=">i4"),
        np.array(ROWS, dtype=np.longdouble),
        np.array(ROWS[::-1])[::-1],
        np.asfortranarray(ROWS),
        [torch.tensor(row) for row in ROWS],
        np.ma.masked_array(ROWS, mask=False),
    ],
)
def test_numbers_of_any_layout_are_read(given):
    backend = MLP(module=nn.Sequential(nn.Linear(4, 3)), inputs=given)
    assert next(iter(backend.batches("train", 5))).inputs.tolist() == ROWS[:2]


ROWS_OF_TWO = [[1.0, 2.0], [2.0, 1.0], [3.0, 0.0]]


def test_lists_do_not_depend_on_the_default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        backend = MLP(
            module=nn.Sequential(nn.Linear(2, 3).double()), inputs=[[0.1, 1 / 3], *ROWS_OF_TWO]
        )
    finally:
        torch.set_default_dtype(before)
    assert next(iter(backend.batches("train", 1))).inputs.tolist() == [[0.1, 1 / 3]]


def test_masked_values_are_refused():
    masked = np.ma.masked_array(ROWS, mask=np.equal(ROWS, 0))
    with pytest.raises(DataError, match="masked values"):
        MLP(module=nn.Sequential(nn.Linear(4, 3)), inputs=masked)


def test_two_arrays_in_a_file_are_refused(tmp_path):
    path = tmp_path / "two.npy"
    with path.open("wb") as file:
        np.save(file, np.ones((20, 4)))
        np.save(file, np.ones((30, 4)))
    with pytest.raises(DataError, match="goes on for 1088 bytes after its array"):
        read_rows(path)
