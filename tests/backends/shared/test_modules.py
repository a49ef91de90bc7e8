"""A module that is given computes what its sections compute, or is refused."""

import math
import warnings

import pytest
import torch
from helpers import modules
from helpers.examples import examples
from helpers.numbers import assert_close, normal, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from libgraph.errors import BackendError, DataError, NumericalError
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.options import MLPOptions
from libgraph_backends.shared.layers import affine
from libgraph_backends.shared.modules import from_module

INPUTS = normal(seeded(0), 30, 4)


def linear(d_in, d_out):
    """A layer of weights that are the same in every test."""
    layer = nn.Linear(d_in, d_out).double()
    nn.init.normal_(layer.weight, generator=seeded(d_in))
    nn.init.normal_(layer.bias, generator=seeded(d_out))
    return layer


def sequential():
    return nn.Sequential(linear(4, 6), nn.ReLU(), linear(6, 3))


def outcome(module, inputs=INPUTS):
    return MLP(module=module, inputs=inputs).network().double()(inputs)[:, 0]


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first, self.act = linear(6, 3), linear(4, 6), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def twice(part):
    return nn.Sequential(linear(4, 6), part, linear(6, 6), part, linear(6, 3))


def hooked(hook):
    module = sequential()
    module[0].register_forward_hook(hook)
    return module


def weight_norm():
    module = sequential()
    with torch.no_grad(), pytest.warns(FutureWarning):
        nn.utils.weight_norm(module[0]).weight_g.mul_(2)
    return module


def tied():
    module = nn.Sequential(linear(4, 4), nn.Tanh(), linear(4, 4))
    module[2].weight = module[0].weight
    return module


class Squeezed(modules.Plain):
    def forward(self, x):
        return self.net(x).squeeze(-1)


RIGHT = {
    "an activation twice": lambda: twice(nn.ReLU()),
    "a layer twice": lambda: twice(linear(6, 6)),
    "weights twice": tied,
    "any order of names": TwoLayers,
    "own forward, another order": lambda: modules.Backwards(linear(6, 3), nn.ReLU(), linear(4, 6)),
    "a module around it": lambda: modules.Plain(sequential()),
    "DataParallel": lambda: nn.DataParallel(sequential()),
    "a hook that looks on": lambda: hooked(lambda *_: None),
    "a hook that gives the same": lambda: hooked(lambda _, __, y: y.clone()),
    "weight norm": weight_norm,
    "parametrized": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(linear(4, 6)), nn.ReLU(), linear(6, 3)
    ),
    "flattened": lambda: nn.Sequential(nn.Flatten(), linear(4, 3), nn.AlphaDropout(0.5)),
    "in training": lambda: nn.Sequential(linear(4, 6), nn.Dropout(0.9), linear(6, 3)).train(),
    "an outcome without dimension": lambda: Squeezed(linear(4, 1)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_module_does_is_what_is_read(name):
    module = RIGHT[name]()
    modes = [part.training for part in module.modules()]
    actual = outcome(module)
    assert modes == [part.training for part in module.modules()]
    expected = module.eval()(INPUTS.clone()).detach().reshape(actual.shape)
    assert_close(actual, expected)
    assert not any(part._forward_pre_hooks for part in module.modules() if type(part) is nn.ReLU)


def compiled():
    return torch.compile(sequential())


@pytest.mark.parametrize("inside", [False, True])
def test_a_compiled_module_is_read_without_compiling_it(inside):
    module = compiled()
    module = nn.Sequential(module, linear(3, 2)) if inside else module
    whole = nn.Sequential(sequential(), linear(3, 2)) if inside else sequential()
    assert_close(outcome(module), whole(INPUTS).detach())


def pruned():
    module = sequential()
    module.register_forward_pre_hook(lambda _, x: (x[0] * 0.5,))
    return module


def in_training_alone():
    class Loud(nn.ReLU):
        def forward(self, x):
            return x if self.training else super().forward(x)

    return nn.Sequential(linear(4, 6), Loud(), linear(6, 3)).train()


def quantized():
    with warnings.catch_warnings(action="ignore"):
        return torch.ao.quantization.quantize_dynamic(sequential().float(), {nn.Linear})


def around(module):
    module.register_forward_hook(lambda _, __, y: -y)
    return module


def script(module):
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        return torch.jit.script(module)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = linear(4, 3), linear(4, 3)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], dim=-1)


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear(4, 3)

    def forward(self, x):
        return functional.linear(x, self.layer.weight)


class Pair(modules.Plain):
    def forward(self, x):
        return self.net(x), x


class Failing(modules.Plain):
    def forward(self, x):
        raise ValueError("a reason\nin lines")


class Noisy(modules.Plain):
    def forward(self, x):
        return functional.dropout(self.net(x), 0.5)


REFUSED = {
    "subclass of a layer": (lambda: nn.Sequential(modules.Scaled(4, 3).double()), "not compute"),
    "subclass of an activation": (lambda: twice(modules.Leaky()), "does not compute what its 3"),
    "hook": (lambda: hooked(lambda _, __, y: 1.01 * y), "hooks, functions or a forward"),
    "hook before": (pruned, "does not compute"),
    "hook on a wrapper": (lambda: around(nn.DataParallel(sequential())), "does not compute"),
    "residual": (lambda: modules.Residual(linear(4, 4), nn.ReLU()), "does not compute"),
    "function": (lambda: modules.Functional(sequential()), "does not compute"),
    "buffers": (lambda: modules.Normalized(sequential()).double(), "does not compute"),
    "two branches": (Branches, "layer 'b' of the model reads something else"),
    "a function alone": (Weights, "The model is Weights, for which there is no section"),
    "batch norm": (lambda: nn.Sequential(linear(4, 4), nn.BatchNorm1d(4).double()), "BatchNorm1d"),
    "list": (lambda: nn.ModuleList(sequential()), r"ModuleList.*Sequential\(\*model\)"),
    "dictionary": (lambda: nn.ModuleDict({"a": linear(4, 3)}), r"Sequential\(\*model\.values"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "'0' of the model is LazyLinear.*not known"),
    "meta": (lambda: sequential().to("meta"), "meta device: it has shapes, but no weights"),
    "two outputs": (lambda: Pair(sequential()), "gives a tuple, not one tensor"),
    "an error": (lambda: Failing(sequential()), "cannot be run.*ValueError: a reason"),
    "two precisions": (lambda: nn.Sequential(linear(4, 6), nn.Linear(6, 3)), "cannot be run"),
    "a script": (lambda: script(sequential()), "is TorchScript"),
    "no module": (lambda: functional.relu, "not a torch.nn.Module"),
    "quantized": (quantized, "quantized.dynamic.*Linear, for which there is no section"),
    "eight bits": (lambda: sequential().to(torch.float8_e4m3fn), r"float8_e4m3fn.*model\.float"),
    "chance": (lambda: Noisy(sequential()), "does not compute"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line(name):
    make, said = REFUSED[name]
    module = make()
    with pytest.raises(BackendError, match=said) as error:
        outcome(module)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_message_does_not_print_the_model():
    norms = nn.TransformerEncoderLayer(4, 1).double()
    large = nn.Sequential(*[linear(4, 4) for _ in range(50)], norms)
    with pytest.raises(BackendError, match="for which there is no section") as error:
        from_module(large)
    assert len(str(error.value)) < 400


@given(st.integers(0, 2**32))
@examples(50)
def test_a_random_module_is_read_as_it_is_or_refused(seed):
    module = modules.random_module(seed)
    inputs = normal(seeded(seed), 12, 3)
    before = inputs.clone()
    refused = None
    try:
        actual = MLP(module=module, inputs=inputs).network()(inputs)[:, 0]
    except BackendError as error:
        refused = str(error)
    assert torch.equal(inputs, before)
    if refused is not None:
        assert "\n" not in refused
        return
    with torch.no_grad():
        expected = module.eval()(inputs.clone())
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert float(error) < 1e-9


def test_most_random_modules_without_anything_wild_are_read():
    read = 0
    for seed in range(100):
        try:
            from_module(modules.random_module(seed), normal(seeded(seed), 8, 3))
            read += 1
        except BackendError:
            pass
    assert 20 < read < 80


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_modules_are_compared_in_their_own_precision(dtype):
    module = twice(nn.SiLU(inplace=True)).to(dtype)
    network = MLP(module=module, inputs=INPUTS).network()
    expected = module.double()(INPUTS.to(dtype).double()).detach()
    assert_close(network.double()(INPUTS.to(dtype).double())[:, 0], expected)
    part = twice(modules.Leaky()).to(dtype)
    with pytest.raises(BackendError, match="does not compute"):
        MLP(module=part, inputs=INPUTS)


def test_a_module_is_compared_on_all_data():
    class Threshold(nn.ReLU):
        def forward(self, x):
            return super().forward(x) + (x > 30)

    rows = normal(seeded(0), 5000, 2)
    module = nn.Sequential(linear(2, 2), Threshold(), linear(2, 2))
    MLP(module=module, inputs=rows)
    rows[-1] = 1e3
    with pytest.raises(BackendError, match="does not compute"):
        MLP(module=module, inputs=rows)


def test_a_module_is_compared_on_the_data_of_a_task():
    class Positive(nn.Linear):
        def forward(self, x):
            return super().forward(x) + (x.min() >= 0)

    backend = MLP(MLPOptions(task="digits"), module=nn.Sequential(Positive(64, 10)))
    with pytest.raises(BackendError, match="does not compute"):
        backend.samples("train")


def test_inputs_of_more_dimensions_are_given_as_they_are():
    class Turned(modules.Plain):
        def forward(self, x):
            return self.net(x.transpose(1, 2).flatten(1))

    images = normal(seeded(0), 20, 2, 3)
    plain = nn.Sequential(nn.Flatten(), linear(6, 2))
    assert_close(outcome(plain, images), plain(images).detach())
    with pytest.raises(BackendError, match="does not compute"):
        outcome(Turned(linear(6, 2)), images)


def test_weights_and_inputs_that_are_not_finite():
    module = sequential()
    rows = INPUTS.clone()
    rows[3, 1] = math.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        MLP(module=module, inputs=rows)
    with pytest.raises(NumericalError, match="output in float16 holds NaN"):
        MLP(module=module.half(), inputs=60000 * torch.ones(5, 4))
    module[2].bias.data[0] = math.nan
    with pytest.raises(NumericalError, match="layer '2' of the model"):
        MLP(module=module, inputs=INPUTS)


def test_biases_keep_their_precision():
    bias = torch.tensor([1.001, 1e-3])
    matrix = affine(torch.ones(2, 3, dtype=torch.bfloat16), bias, "here")
    assert torch.equal(matrix[-1], bias)


class Wrapped(nn.Module):
    """A function after a network whose hidden activations are far larger than its outputs."""

    def __init__(self, scale, function):
        super().__init__()
        self.a, self.b = linear(4, 6), linear(6, 3)
        with torch.no_grad():
            self.a.weight.mul_(scale)
            self.b.weight.div_(scale)
        self.squash = nn.Sigmoid()
        self.function = function

    def forward(self, x):
        return self.function(self.squash(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.bfloat16, 10), (torch.float16, 100), (torch.float32, 1e5), (torch.float64, 1e12)],
)
def test_large_activations_do_not_hide_what_a_module_does_to_small_outputs(dtype, scale):
    class Plain(Wrapped):
        def __init__(self, function):
            super().__init__(scale, function)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.function(self.squash(self.b(self.act(self.a(x)))))

    from_module(Plain(lambda y: y).to(dtype), INPUTS)
    with pytest.raises(BackendError, match="does not compute"):
        from_module(Plain(lambda y: 1 - y).to(dtype), INPUTS)


def test_weights_that_are_computed_are_those_of_evaluation():
    spectral_norm = nn.utils.parametrizations.spectral_norm
    module = nn.Sequential(spectral_norm(linear(4, 6)), nn.ReLU(), spectral_norm(linear(6, 3)))
    module.eval()
    before = module(INPUTS).detach()
    module.train()
    network = MLP(module=module, inputs=INPUTS).network()
    assert_close(network(INPUTS)[:, 0], before)
    module.eval()
    assert torch.equal(module(INPUTS), before)


@pytest.mark.parametrize("in_place", [True, False])
def test_buffers_are_left_as_they_were(in_place):
    class Counting(nn.Sequential):
        def __init__(self, *parts):
            super().__init__(*parts)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            if in_place:
                self.calls += 1
            else:
                self.calls = self.calls + 1
            return super().forward(x)

    module = Counting(linear(4, 6), nn.ReLU(), linear(6, 3))
    buffer = module.calls
    from_module(module, INPUTS)
    assert module.calls is buffer
    assert buffer == 0


def test_a_module_that_changes_its_parameters_is_refused_and_restored():
    class Drifting(nn.Sequential):
        def forward(self, x):
            with torch.no_grad():
                self[0].bias.mul_(0.999)
            return super().forward(x)

    module = Drifting(linear(4, 6), nn.ReLU(), linear(6, 3))
    before = module[0].bias.detach().clone()
    with pytest.raises(BackendError, match=r"changes its parameter '0\.bias' while it runs"):
        from_module(module, INPUTS)
    assert torch.equal(module[0].bias, before)


def test_activations_with_parameters_are_refused():
    class Slope(nn.LeakyReLU):
        def __init__(self):
            super().__init__()
            self.negative_slope = nn.Parameter(torch.tensor(0.25).double())

        def forward(self, x):
            return torch.where(x > 0, x, self.negative_slope * x)

    with pytest.raises(BackendError, match="a negative_slope that is a tensor"):
        from_module(nn.Sequential(linear(4, 6), Slope(), linear(6, 3)), INPUTS)


def test_empty_layers_are_refused():
    with warnings.catch_warnings(action="ignore"):
        module = nn.Sequential(nn.Linear(4, 0), nn.Tanh(), nn.Linear(0, 3)).double()
    with pytest.raises(BackendError, match="0 outputs: there is nothing"):
        from_module(module, INPUTS)


def test_sparse_outputs_are_compared():
    class Sparse(nn.Sequential):
        def forward(self, x):
            return super().forward(x).to_sparse()

    assert len(from_module(Sparse(linear(4, 6), nn.ReLU(), linear(6, 3)), INPUTS)) == 2
