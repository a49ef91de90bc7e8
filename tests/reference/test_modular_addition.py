"""Agreement with what the authors of the paper published for one model, to the digit.

`../shared/reference/modular_addition_seed0` holds their trained model and their results on it; the
tests skip where it is absent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import libgraph as lg

LAYERS = ("ln1.0", "ln2.0", "unembed")
LEADING = 1e-3
"""Features are compared down to this share of the largest; the weaker ones are noise."""


@pytest.fixture(scope="module")
def published(reference: Path) -> dict[str, Any]:
    return json.loads((reference / "modular_addition_seed0" / "expected.json").read_text())


@pytest.fixture(scope="module")
def arrays(reference: Path):
    return np.load(reference / "modular_addition_seed0" / "expected.npz")


def analysis(reference: Path, **options: Any) -> lg.Run:
    weights = reference / "modular_addition_seed0" / "model.pt"
    return lg.analyze(lg.load_backend("modular-addition", weights=weights), **options)


@pytest.fixture(scope="module")
def run(reference: Path) -> lg.Run:
    """At the paper's truncation."""
    return analysis(reference, truncate="abs:1e-15")


def leading(arrays, basis: str, layer: str) -> slice:
    """The features worth comparing, without the constant."""
    quantity = {"lib": "lambda", "pca": "variance"}[basis]
    values = arrays[f"{basis}/{quantity}/{layer}"][1:]
    return slice(1, 1 + int((values >= LEADING * values.max()).sum()))


def required(run: lg.Run, basis: str) -> list[int | None]:
    required = run.metrics.bases[basis].edges_required
    return [counts[0.001] for counts in required.values()]


def test_accuracy(run, published):
    assert run.metrics.score.test == pytest.approx(published["lib"]["test_accuracy"], abs=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("basis", "quantity"), [("lib", "lambda"), ("pca", "variance")])
def test_importance_of_leading_features(run, arrays, basis, quantity, layer):
    expected = arrays[f"{basis}/{quantity}/{layer}"]
    chosen = leading(arrays, basis, layer)
    assert chosen.stop > 8
    found = run.bases(basis)[layer].importance.numpy()
    np.testing.assert_allclose(found[chosen], expected[chosen], rtol=1e-3)


@pytest.mark.parametrize("pair", list(zip(LAYERS, (*LAYERS[1:], "output"), strict=True)))
@pytest.mark.parametrize("basis", ["lib", "pca"])
def test_edges_between_leading_features(run, arrays, basis, pair):
    expected = arrays[f"{basis}/edges/{pair[0]}->{pair[1]}"]
    inputs = leading(arrays, basis, pair[0])
    outputs = slice(None) if pair[1] == "output" else leading(arrays, basis, pair[1])
    found = run.edges(basis)[pair].numpy()[outputs, inputs]
    expected = expected[outputs, inputs]
    assert np.abs(found - expected).max() <= 1e-3 * expected.max()


@pytest.mark.parametrize(("basis", "counts"), [("lib", (133, 82, 633)), ("pca", (167, 114, 682))])
def test_edges_required(run, published, basis, counts):
    """The bisection ends at the published numbers, give or take two."""
    assert tuple(published[basis]["edges_required_at_0.001_accuracy"].values()) == counts
    assert np.abs(np.subtract(required(run, basis), counts)).max() <= 2


@pytest.mark.parametrize("basis", ["lib", "pca"])
def test_ablation_curves(run, published, basis):
    """Scores at the published numbers agree within three test samples."""
    edges, nodes = published[basis], run.ablation(basis).nodes
    for pair, found in run.ablation(basis).edges.items():
        curve = edges["edge_ablation_accuracy_by_edges_kept"][pair[0]]
        common = set(map(str, found.score)) & set(curve)
        assert len(common) >= 8
        for kept in common:
            assert found.score[int(kept)] == pytest.approx(curve[kept], abs=3 / 8939)
    for layer, found_nodes in nodes.items():
        curve = edges["node_ablation_accuracy_by_nodes_kept"][layer]
        common = set(map(str, found_nodes)) & set(curve)
        assert len(common) >= 10
        for kept in common:
            assert found_nodes[int(kept)] == pytest.approx(curve[kept], abs=3 / 8939)


def test_dominant_fourier_terms(run, published):
    labels = run.graph().layer("ln1.0").labels
    assert labels is not None
    for label, expected in zip(
        labels[1:9], published["lib"]["fourier_labels"]["ln1.0"][1:9], strict=True
    ):
        # The published shares are of what varies within positions, ours of the whole.
        position = label.concepts.get("position", 0.0)
        terms = [part for part in label.text.split(" | ") if not part.endswith("% position")]
        share, _, term = terms[0].partition("% ")
        published_share, _, published_term = expected.split("|")[0].partition("% ")
        assert term == published_term
        within = float(share) / (1 - position)
        if position > 0.5:
            # Too small to be printed exactly; one term has the whole of its frequency here.
            frequency = term.removeprefix("cos(").partition("x")[0]
            within = 100 * label.concepts[frequency] / (1 - position)
        assert abs(within - int(published_share)) <= 1.5


@pytest.mark.slow
def test_default_truncation_needs_half_the_features(reference, run):
    """As measured: fewer or as many edges, with about half of LIB's features."""
    default = analysis(reference)
    assert required(default, "lib") == pytest.approx([130, 82, 633], abs=2)
    assert required(default, "pca") == pytest.approx([156, 114, 682], abs=2)
    kept = [len(r.bases("lib")[layer]) for r in (default, run) for layer in LAYERS]
    assert sum(kept[:3]) < 0.55 * sum(kept[3:])
