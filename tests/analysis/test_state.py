"""What is computed does not depend on what the caller has set, and leaves it as it was."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers.numbers import assert_close, normal, seeded
from torch import nn

import libgraph as lg
from libgraph.backend import own_state
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.workload import Workload
from libgraph_backends.mlp.backend import MLP

INPUTS = normal(seeded(0), 60, 3)
CHEAP = {"ablate": False, "seeds": 1}


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default device": default_device,
    "device": lambda: torch.device("meta"),
    "default dtype": default_dtype,
    "errors of NumPy": lambda: np.errstate(all="raise"),
}


def settings():
    """All that `own_state` sets, and random numbers."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
        torch.get_default_dtype(),
        np.geterr(),
        torch.get_rng_state().tolist(),
        random.getstate(),
    )


def backend():
    with own_state():
        module = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2))
        for parameter in module.parameters():
            nn.init.normal_(parameter, generator=seeded(parameter.numel()))
    return MLP(module=module, inputs=INPUTS)


def results():
    run = lg.analyze(backend(), basis="sparse", beside=("lib",), sparse_steps=3, **CHEAP)
    return [edge for name in ("sparse", "lib") for edge in run.edges(name).values()]


@pytest.fixture(scope="module")
def expected():
    return results()


@pytest.mark.parametrize("name", SETTINGS)
def test_an_analysis_gives_the_same_whatever_is_set(name, expected):
    with SETTINGS[name]():
        before = settings()
        actual = results()
        assert settings() == before
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    assert not any(edge.is_inference() for edge in actual)


@contextmanager
def quick_products(how):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(how)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("how", ["high", "medium"])
def test_products_of_single_precision_keep_all_digits(how):
    a, b = (normal(seeded(i), 64, 64).float() for i in range(2))
    expected = a @ b
    with quick_products(how):
        with own_state():
            assert torch.equal(a @ b, expected)
            # Export reads it, and PyTorch refuses to tell what is set in two ways.
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == how
        quick = lg.analyze(backend(), dtype="float32", **CHEAP)
    whole = lg.analyze(backend(), dtype="float32", **CHEAP)
    for pair, edges in whole.edges("lib").items():
        assert torch.equal(quick.edges("lib")[pair], edges)


@pytest.mark.parametrize("name", ["autocast", "default device"])
@pytest.mark.parametrize(
    "verb", [lg.plan, lambda b: lg.measure_degeneracy(b, samples=10)], ids=["plan", "degeneracy"]
)
def test_other_verbs_run_whatever_is_set(name, verb):
    with SETTINGS[name]():
        before = settings()
        verb(backend())
        assert settings() == before


def test_training_leaves_random_numbers_alone(tmp_path):
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        options = {"modulus": 5, "steps": 2, "d_model": 4, "heads": 1, "d_mlp": 4}
        lg.train("modular-addition", options, tmp_path / "m")
    assert torch.equal(torch.get_rng_state(), state)


def test_errors_of_numpy_do_not_leak_in():
    small = np.full(2, 1e-300)
    with np.errstate(all="raise"):
        with own_state():
            assert not (small * small).any()
        with pytest.raises(FloatingPointError):
            small * small


class Given(MLP):
    """One whose weights and data were made in inference mode."""

    def network(self):
        with torch.inference_mode():
            network = super().network()
            for section in network.sections:
                for name, buffer in section.named_buffers(recurse=False):
                    setattr(section, name, buffer.clone())
        return network

    def batches(self, split, batch_size):
        for inputs, targets in super().batches(split, batch_size):
            with torch.inference_mode():
                batch = lg.Batch(inputs.clone(), targets.clone())
            yield batch


def test_tensors_that_were_made_in_inference_mode():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    plain, given = (kind(module=module, inputs=INPUTS) for kind in (MLP, Given))
    network = Workload(given, AnalysisOptions()).network
    assert not any(tensor.is_inference() for tensor in network.state_dict().values())
    runs = [
        lg.analyze(backend, basis="sparse", sparse_steps=3, **CHEAP) for backend in (plain, given)
    ]
    for a, b in zip(*(run.edges().values() for run in runs), strict=True):
        assert_close(a, b)
