"""Agreement with the authors' code on a small random GPT-2: attention, norms, many layers.

`../shared/reference/tiny_gpt2` holds the model and the results; the tests skip where it is absent.
The network is put together here from sections, with LayerNorm's scale and shift folded into the
weights that read it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import gelu, pad

import libgraph as lg
from libgraph.accumulate import Data, silent
from libgraph.bases import METHODS, Truncation, node_statistics
from libgraph.interactions import interactions
from libgraph.quadrature import Quadrature

D, HEADS, EPSILON = 16, 2, 1e-5
TOLERANCE = 1e-6


def gelu_new(x):
    return gelu(x, approximate="tanh")


class Embedding(nn.Module):
    def __init__(self, tokens, positions):
        super().__init__()
        self.register_buffer("tokens", tokens)
        self.register_buffer("positions", positions)

    def forward(self, inputs):
        x = self.tokens[inputs] + self.positions[: inputs.shape[1]]
        return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def network(w) -> lg.Network:
    sections, layers = [], []

    def reads_norm(norm, part):
        """A weight that reads (y, r, 1): scale and shift folded in, nothing read from r."""
        weight, bias = w[f"{part}.weight"], w[f"{part}.bias"]
        folded = w[f"{norm}.weight"][:, None] * weight
        shift = w[f"{norm}.bias"] @ weight + bias
        return torch.cat([folded, torch.zeros_like(folded), shift[None]])

    def residual(bias):
        """(y, r, 1) to (r + bias, 1)."""
        skip = torch.cat([torch.zeros(D, D + 1), torch.eye(D + 1)])
        skip[-1, :-1] = bias
        return skip

    def normalise(name, after, keep=True):
        sections.extend(lg.split_norm(D, epsilon=EPSILON, keep=keep))
        layers.append(lg.NodeLayer(name, D + 1))
        out = name.replace("ln_final", "ln_final_out").replace("ln1.", "ln1_out.")
        out = out.replace("ln2.", "ln2_out.")
        # The authors' code leaves the last norm's variance among the other directions.
        isolated = () if name == "ln_final" else (0,)
        layers.append(lg.NodeLayer(out, D + 2, isolated=isolated))
        layers.append(lg.NodeLayer(after, 2 * D + 1 if keep else D + 1))

    for layer in range(2):
        h = f"transformer.h.{layer}"
        normalise(f"ln1.{layer}", f"attn_in.{layer}")
        q, k, v = reads_norm(f"{h}.ln_1", f"{h}.attn.c_attn").split(D, dim=1)
        output = pad(w[f"{h}.attn.c_proj.weight"], (0, 1))
        skip = residual(w[f"{h}.attn.c_proj.bias"])
        sections.append(lg.Attention(skip, q, k, v, output, heads=HEADS))
        normalise(f"ln2.{layer}", f"mlp_in.{layer}")
        inner = reads_norm(f"{h}.ln_2", f"{h}.mlp.c_fc")
        outer = pad(w[f"{h}.mlp.c_proj.weight"], (0, 1))
        sections.append(lg.SkipMLP(residual(w[f"{h}.mlp.c_proj.bias"]), inner, outer, gelu_new))
    normalise("ln_final", "unembed", keep=False)
    embed = Embedding(w["transformer.wte.weight"], w["transformer.wpe.weight"])
    return lg.Network(embed, sections, layers)


class Sequences(lg.Backend):
    name = "tiny-gpt2"

    def __init__(self, chain, tokens):
        super().__init__()
        self.chain, self.tokens = chain, tokens

    def network(self):
        return self.chain

    def samples(self, split):
        return len(self.tokens)

    def batches(self, split, batch_size):
        for tokens in self.tokens.split(batch_size):
            yield lg.Batch(tokens, tokens)

    def score(self, outputs, targets):
        return outputs.sum((1, 2))


@pytest.fixture(scope="module")
def expected(reference):
    return np.load(reference / "tiny_gpt2" / "expected.npz")


@pytest.fixture(scope="module")
def found(reference, expected):
    weights = load_file(reference / "tiny_gpt2" / "model" / "model.safetensors")
    chain = network({name: tensor.double() for name, tensor in weights.items()}).double()
    data = Data(Sequences(chain, torch.from_numpy(expected["tokens"])), "train", batch_size=7)
    statistics = node_statistics(chain, data)
    truncation = Truncation.parse("abs:1e-9")
    bases = {
        name: METHODS[name](chain, statistics, data, truncation, silent) for name in ("lib", "pca")
    }
    return bases, interactions(chain, bases, data, Quadrature.gradient())


@pytest.mark.parametrize("basis", ["lib", "pca"])
def test_importance(found, expected, basis):
    bases, _ = found
    for layer, each in bases[basis].items():
        quantity = "lambda" if basis == "lib" and layer != "unembed" else "variance"
        wanted = expected[f"{basis}/{quantity}/{layer}"]
        assert len(each) == len(wanted), layer
        error = np.abs(each.importance.numpy() - wanted)[1:].max()
        assert error <= TOLERANCE * wanted[1:].max(), layer


@pytest.mark.parametrize("basis", ["lib", "pca"])
def test_edges(found, expected, basis):
    _, edges = found
    for (a, b), matrix in edges[basis].items():
        wanted = expected[f"{basis}/edges/{a}->{b}"][1:, 1:]
        error = np.abs(matrix.numpy()[1:, 1:] - wanted).max()
        assert error <= TOLERANCE * wanted.max(), (a, b)
