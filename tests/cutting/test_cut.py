"""Models of every kind, cut with one call: the same outputs, closed forms where there are any."""

import copy

import pytest
import torch
from helpers import own_models as own
from torch import nn

import libgraph as lg
from libgraph.sections import Function
from libgraph.testing import check_section

CHEAP = ("forward", "linearize", "jacobian_gram", "interactions")


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def tokens(vocabulary, *shape):
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))


CASES = {
    "mlp": (own.MLP, normal(9, 6), 0),
    "resnet": (lambda: own.with_statistics(own.ResNet(2)), normal(2, 3, 8, 8), 0),
    "gpt": (own.GPT, tokens(20, 3, 5), 0),
    "llama": (lambda: own.GPT(llama=True), tokens(20, 3, 5), 0),
    "vit": (own.ViT, normal(3, 3, 8, 8), 0),
    "rnn": (own.RNN, normal(5, 3, 3), 0),
    "gru": (own.GRU, normal(4, 3, 3), 0),
    "group norm": (own.GroupNormNet, normal(3, 3, 4, 4), 0),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), normal(3, 4, 8), 0),
    "convnext": (own.ConvNeXt, normal(3, 3, 6, 6), 0),
    "mobile": (lambda: own.with_statistics(own.MobileNet()), normal(3, 3, 6, 6), 0),
    "dense": (own.DenseNet, normal(3, 3, 4, 4), 0),
    "norms of queries": (own.QueryNorm, normal(3, 4, 8), 0),
    "einsum": (own.EinsumAttention, normal(3, 5, 8), 0),
    "tokens to channels": (own.TokenConvolution, tokens(9, 4, 5), 0),
    "waves": (own.Waves, normal(7, 2), 0),
    "instance": (own.InstanceNormNet, normal(3, 3, 5, 5), 0),
    "squeeze": (own.SqueezeExcite, normal(3, 3, 4, 4), 1),
    "pooled": (lambda: own.with_statistics(own.MaxPooled()), normal(2, 3, 8, 8), 1),
    "lstm": (own.LSTM, normal(3, 3, 3), 1),
    "mixer": (own.Mixer, normal(3, 4, 5), 1),
    "slopes": (own.Alibi, normal(3, 5, 8), 1),
    "autoencoder": (own.AutoEncoder, normal(3, 1, 4, 4), 1),
    "unet": (own.UNet, normal(3, 1, 4, 4), 1),
    "odd": (own.Odd, normal(6, 4), 1),
}  # fmt: skip
"""A model, example inputs, and how many of its sections are known to automatic differentiation."""


@pytest.fixture(scope="module")
def networks():
    made = {}

    def network_of(name):
        if name not in made:
            torch.manual_seed(0)
            model = CASES[name][0]()
            made[name] = model, lg.cut(model, CASES[name][1])
        return made[name]

    return network_of


def double(x):
    return x.double() if x.is_floating_point() else x


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_models(name, networks):
    model, network = networks(name)
    x = double(CASES[name][1])
    # Other data than it was cut with, and another number of them.
    x = torch.cat([x.flip(1) if x.ndim > 1 else x, x])
    with torch.no_grad():
        expected = own.in_double(model)(x)
        actual = network.last.to_value(network(x))
    assert float((actual - expected).abs().max()) < 1e-9 * float(expected.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_closed_forms_are_found(name, networks):
    _, network = networks(name)
    functions = [section for section in network.sections if isinstance(section, Function)]
    assert len(functions) == CASES[name][2], str(network)
    assert [row.how for row in network.rows[1:]].count("autodiff") == len(functions)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("pooled", "resnet")])
def test_sections_are_derived_as_autodiff_derives_them(name, networks):
    _, network = networks(name)
    with torch.no_grad():
        activations = network.activations(double(CASES[name][1])[:2])
        for x, (a, b, section) in zip(activations, network.pairs, strict=False):
            check_section(section, x, name=f"{a.name}->{b.name}", checks=CHEAP)


def test_a_resnets_blocks_are_derived_as_autodiff_derives_them(networks):
    """With a skip as it is, and with one that is a convolution."""
    _, network = networks("resnet")
    names = [layer.name for layer in network.node_layers]
    chosen = [names.index(name) for name in ("layer3.0.relu", "layer3.0", "layer4", "output")]
    with torch.no_grad():
        for number, x in enumerate(network.activations(double(CASES["resnet"][1]))):
            if number + 1 in chosen:
                check_section(network.sections[number], x, checks=CHEAP)


def test_node_layers_are_at_skip_additions(networks):
    _, network = networks("resnet")
    names = [layer.name for layer in network.node_layers]
    blocks = [
        "layer1.0",
        "layer1",
        "layer2.0",
        "layer2",
        "layer3.0",
        "layer3",
        "layer4.0",
        "layer4",
    ]
    assert [name for name in names if name in blocks] == blocks
    _, network = networks("gpt")
    kinds = [type(section).__name__ for section in network.sections]
    assert kinds.count("Attention") == 2
    layers = {layer.name: layer for layer in network.node_layers}
    assert layers["blocks.0.ln1.scale"].isolated == (16,) or layers[
        "blocks.0.ln1.scale"
    ].isolated == (0,)
    assert not layers["output"].rotated


def test_blocks_alone_are_chains():
    torch.manual_seed(0)
    network = lg.cut(own.GPT(), tokens(20, 3, 5), inside=False)
    names = [layer.name for layer in network.node_layers]
    assert names == ["add", "blocks.0.add", "blocks.0", "blocks.1.add", "blocks.1", "ln.normalized",
                     "output"]  # fmt: skip
    assert {row.how for row in network.rows[1:]} == {"closed form"}


def test_node_layers_can_be_named():
    torch.manual_seed(0)
    model = own.GPT()
    network = lg.cut(model, tokens(20, 3, 5), at=["blocks.0", "blocks.1"])
    assert [layer.name for layer in network.node_layers] == [
        "add",
        "blocks.0",
        "blocks.1",
        "output",
    ]
    with pytest.raises(
        lg.UsageError, match=r"'blocks\.0\.mlp' is no place to cut: something passes"
    ):
        lg.cut(model, tokens(20, 3, 5), at=["blocks.0.mlp"])
    with pytest.raises(lg.UsageError, match=r"no 'block' in the model .* blocks\.0"):
        lg.cut(model, tokens(20, 3, 5), at="block")


def test_it_says_what_it_cut():
    torch.manual_seed(0)
    text = str(lg.cut(own.MLP(), normal(9, 6)))
    assert "1.scale" in text
    assert "Variance" in text
    assert "5 of 5 sections have closed forms" in text


def test_a_branch_that_depends_on_data_is_refused_with_its_line():
    with pytest.raises(lg.BackendError, match=r"own_models\.py:\d+ \(if .*sum\(\) > 0:\)"):
        lg.cut(own.Branch(), normal(3, 4))


def test_the_model_is_left_as_it_is():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True)).train()
    before = copy.deepcopy(model.state_dict())
    lg.cut(model, normal(5, 3))
    assert model.training
    assert model[0].weight.requires_grad
    assert model[0].weight.dtype == torch.float32
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (nn.BatchNorm1d(3, track_running_stats=False), normal(4, 3), "for a sample alone"),
        (nn.GRU(3, 2, batch_first=True), normal(4, 2, 3), "not one tensor: wrap it"),
        (nn.Linear(3, 2), normal(4, 2), "cannot be run on the example inputs"),
        (own.Chance(), normal(4, 3), "other outputs each time"),
        ("model", normal(4, 3), "is a str, not a torch.nn.Module"),
        (nn.LazyLinear(3), normal(4, 3), "has no size yet"),
    ],
)
def test_what_cannot_be_cut_is_refused(model, inputs, message):
    with pytest.raises(lg.BackendError, match=message):
        lg.cut(model, inputs)


def test_a_number_of_samples_that_is_written_out_is_found(networks):
    """`len(x)` makes a constant of it for torch.export: two captures tell it from others."""
    _, network = networks("rnn")
    assert network(double(normal(2, 3, 3))).shape == (2, 1, 2)


def test_a_network_works_in_single_precision(networks):
    _, network = networks("pooled")
    single = copy.deepcopy(network).float()
    x = CASES["pooled"][1]
    assert single(x).dtype == torch.float32
    assert torch.allclose(single(x).double(), network(x.double()), atol=1e-5)
    assert copy.deepcopy(network).fingerprint() == network.fingerprint()
