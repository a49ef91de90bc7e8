"""Agreement with the authors' code on a small random GPT-2: attention, norms, many layers.

`../shared/reference/tiny_gpt2` holds the model and the results; the tests skip where it is absent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import node_statistics
from libgraph.edges.interactions import interactions
from libgraph.progress import silent
from libgraph.sections.quadrature import Quadrature

pytest.importorskip("transformer_lens")

from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.options import LMOptions

TOLERANCE = 1e-6


def published(name):
    """What the authors call one of our node layers."""
    first, _, kind = name.rpartition(".")
    layer, _, norm = first.partition(".")
    if first == "ln_final":
        return {"scale": "ln_final_out", "normalized": "unembed"}[kind]
    if kind in ("scale", "normalized"):
        stream = {"ln1": "attn_in", "ln2": "mlp_in"}[norm]
        return f"{norm}_out.{layer}" if kind == "scale" else f"{stream}.{layer}"
    return {"resid_pre": f"ln1.{layer}", "resid_mid": f"ln2.{layer}"}.get(kind, "ln_final")


@pytest.fixture(scope="module")
def expected(reference):
    return np.load(reference / "tiny_gpt2" / "expected.npz")


@pytest.fixture(scope="module")
def found(reference, expected, tmp_path_factory):
    # One token more, because rows hold what comes next as well; one row more, held out.
    tokens = np.pad(expected["tokens"], ((0, 1), (0, 1)))
    ids = tmp_path_factory.mktemp("tokens") / "ids.npy"
    np.save(ids, tokens)
    model = str(reference / "tiny_gpt2" / "model")
    options = LMOptions(model=model, text=str(ids), n_ctx=tokens.shape[1] - 1, test_share=0.01)
    backend = LM(options)
    chain = backend.network()
    # The authors' code leaves the last norm's variance among the other directions.
    chain.node_layers = tuple(
        replace(layer, isolated=()) if layer.name == "ln_final.scale" else layer
        for layer in chain.node_layers
    )
    data = Data(backend, "train", batch_size=7)
    statistics = node_statistics(chain, data)
    truncation = Truncation.parse("abs:1e-9")
    bases = {
        name: METHODS[name](chain, statistics, data, truncation, silent) for name in ("lib", "pca")
    }
    return bases, interactions(chain, bases, data, Quadrature.gradient())


def test_node_layers_are_those_of_the_reference(found, expected):
    names = [published(name) for name in found[0]["lib"]]
    assert len(names) == 15
    assert {f"pca/variance/{name}" for name in names} <= set(expected.files)


@pytest.mark.parametrize("basis", ["lib", "pca"])
def test_importance(found, expected, basis):
    bases, _ = found
    for name, each in bases[basis].items():
        layer = published(name)
        quantity = "lambda" if basis == "lib" and layer != "unembed" else "variance"
        wanted = expected[f"{basis}/{quantity}/{layer}"]
        assert len(each) == len(wanted), layer
        error = np.abs(each.importance.numpy() - wanted)[1:].max()
        assert error <= TOLERANCE * wanted[1:].max(), layer


@pytest.mark.parametrize("basis", ["lib", "pca"])
def test_edges(found, expected, basis):
    _, edges = found
    for (a, b), matrix in edges[basis].items():
        wanted = expected[f"{basis}/edges/{published(a)}->{published(b)}"][1:, 1:]
        error = np.abs(matrix.numpy()[1:, 1:] - wanted).max()
        assert error <= TOLERANCE * wanted.max(), (a, b)
