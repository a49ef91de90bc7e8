"""Agreement of modules with what is known: by hand, by igraph, and of which features."""

import math

import igraph
import numpy as np
import pytest

from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.modules.agreement import adjusted_rand_index, agreement_with_concepts, homogeneity


def test_homogeneity_and_rand_index_by_hand():
    truth = [0, 0, 0, 1, 1, 1]
    assert homogeneity([5, 5, 5, 2, 2, 2], truth) == pytest.approx(1)
    assert adjusted_rand_index([5, 5, 5, 2, 2, 2], truth) == pytest.approx(1)
    assert homogeneity([0] * 6, truth) == pytest.approx(0)
    assert adjusted_rand_index([0] * 6, truth) == pytest.approx(0)
    assert homogeneity(range(6), truth) == pytest.approx(1)
    assert adjusted_rand_index(range(6), truth) == pytest.approx(0)
    # One of three in the wrong module on either side: H(T|F) = H(1/3).
    mixed = [0, 0, 1, 1, 1, 0]
    left = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3) / math.log(2)
    assert homogeneity(mixed, truth) == pytest.approx(1 - left)
    # Pairs: 2 together in both, 6 in each, 15 in all.
    assert adjusted_rand_index(mixed, truth) == pytest.approx((2 - 36 / 15) / (6 - 36 / 15))
    assert homogeneity([0, 1], ["a", "a"]) == 1
    assert adjusted_rand_index([0, 0], ["a", "a"]) == 1


def test_the_index_is_that_of_igraph():
    generator = np.random.default_rng(0)
    for _ in range(10):
        a, b = generator.integers(0, 4, (2, 30)).tolist()
        expected = igraph.compare_communities(a, b, method="adjusted_rand")
        assert adjusted_rand_index(a, b) == pytest.approx(expected)


def test_only_features_that_may_have_a_module_count():
    labels = tuple(FeatureLabel(c or "constant", {c: 1.0} if c else {}) for c in ("", *"aabb"))
    layers = (
        LayerFeatures("a", np.ones(5), labels=labels),
        LayerFeatures("b", np.ones(3), isolated=1),
        LayerFeatures("c", np.ones(2), isolated=0, rotated=False, labels=labels[:2]),
    )
    edges = {("a", "b"): np.ones((3, 5)), ("b", "c"): np.ones((2, 3))}
    partition = Partition(
        {"a": np.array([-1, 0, 0, 1, -1]), "b": np.array([-1, 0, 1])}, 1, 0, 0, 0, 0, 1
    )
    graph = InteractionGraph(layers, edges).with_partition(partition)
    assert agreement_with_concepts(graph) == {
        "homogeneity": pytest.approx(1), "adjusted_rand_index": 1, "coverage": 0.75,
    }  # fmt: skip
    nothing = agreement_with_concepts(graph.with_partition(None))
    assert nothing == {"homogeneity": None, "adjusted_rand_index": None, "coverage": 0}
