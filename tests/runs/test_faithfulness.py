"""Faithfulness of a run: bases side by side, one network for all of them, tables and figures."""

import json
import math
from dataclasses import replace

import pytest

import libgraph as lg
from libgraph.errors import UsageError
from libgraph.interventions.faithfulness import Curve, faithfulness
from libgraph.interventions.options import FaithfulnessOptions
from libgraph.runs.faithfulness import Faithfulness
from libgraph.runs.saved_run import open_run

FEW = {"shares": (0.05, 0.2, 1.0), "draws": 2}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    backend = lg.load_backend("mlp", blocks=2, width=3, layers=2, samples=200, seed=1)
    out = tmp_path_factory.mktemp("faithful") / "run"
    return lg.analyze(backend, out=out, ablate=False, beside=("pca", "neuron"))


@pytest.fixture(scope="module")
def figures(computed):
    return computed.faithfulness(**FEW, restored=4, apart=True)


def test_all_bases_are_measured_on_the_same_network(computed, figures):
    assert tuple(figures.curves) == ("lib", "pca", "neuron")
    assert figures.cpr == {name: curve.cpr for name, curve in figures.curves.items()}
    for name, curve in figures.curves.items():
        assert curve.whole == pytest.approx(0, abs=1e-12)
        # Without edges everything is at its mean, in whatever basis.
        assert curve.empty == pytest.approx(figures.curves["lib"].empty)
        assert curve.faithfulness[-1] == pytest.approx(1)
        assert curve.counts[-1] == curve.available
        alone = faithfulness(computed.subject(name), computed.edges(name), figures.options)
        assert alone.scores == pytest.approx(curve.scores)
        assert alone.random[0] == pytest.approx(curve.random[0])
    assert figures.curves["lib"].cmd < figures.curves["neuron"].cmd


def test_a_run_from_its_directory_gives_the_same(computed, figures):
    saved = open_run(computed.directory)
    again = saved.faithfulness("pca", subject=saved.subject(), **FEW)
    assert again.curves["pca"].scores == pytest.approx(figures.curves["pca"].scores)


def test_fewer_samples_are_the_first_ones(computed):
    subject = computed.subject()
    one = computed.faithfulness("lib", subject=subject, limit=10, draws=0)
    other = computed.faithfulness("lib", limit=10, draws=0)
    assert one.samples == other.samples == 10
    assert one.curves["lib"].scores == pytest.approx(other.curves["lib"].scores)
    assert subject.data.limit is None


def test_as_many_edges_in_every_basis(computed):
    subject, edges = computed.subject("lib", limit=10), computed.edges("lib")
    options = FaithfulnessOptions(**FEW)
    # Of a basis that has fewer edges than another, all of them are kept before the last share.
    curve = faithfulness(subject, edges, options, most=200)
    assert curve.available == 108
    assert curve.counts == (10, 40, 108)
    alike = computed.faithfulness(**FEW, alike=True, limit=10)
    assert f"shares of {curve.available}" in str(alike)
    assert alike.curves["pca"].counts == (5, 22, 108)


def test_what_is_told_is_what_was_found(figures):
    text = str(figures)
    for words in ("LIB", "NEURON", "random", "CPR", "5 %", "10 % of the edges, and 4 random"):
        assert words in text
    assert f"{figures.cmd['lib']:.3f}" in text
    assert "Edges kept in one layer pair at a time, and in all, PCA" in text
    values = json.loads(json.dumps(figures.as_dict()))
    lib, curve = values["bases"]["lib"], figures.curves["lib"]
    assert lib["cpr"] == curve.cpr
    assert lib["faithfulness"] == list(curve.faithfulness)
    assert lib["restored"]["worst"] == curve.restored.worst
    assert lib["apart"]["edges"][0]["alone"] == dict(curve.apart.edges[0].alone)
    assert values["options"]["draws"] == 2


def test_what_cannot_be_said_is_told_in_words():
    curve = Curve(4, (0.5, 1.0), (2, 4), 0.5, 0.5, (0.4, 0.5), ((0.5, 0.5),))
    figures = Faithfulness(
        "a run", "accuracy", 9, FaithfulnessOptions(shares=(0.5, 1)), {"x": curve}
    )
    assert math.isnan(figures.cpr["x"])
    assert "the whole network scores as it does without edges" in str(figures)
    assert figures.as_dict()["bases"]["x"]["faithfulness"] == [None, None]
    # A network that is better than nothing says nothing of the kind.
    better = replace(figures, curves={"x": replace(curve, empty=0.1)})
    assert "without edges" not in str(better)


@pytest.mark.parametrize(
    ("bases", "options", "said"),
    [
        ("ica", {}, "no basis 'ica'"),
        (None, {"draw": 2}, "no option 'draw' of faithfulness; did you mean 'draws'"),
        (None, {"shares": (2,)}, "1 at most"),
    ],
)
def test_mistakes(computed, bases, options, said):
    with pytest.raises(UsageError, match=said):
        computed.faithfulness(bases, **options)
