"""The pipeline from Python, and the bundled model."""

from __future__ import annotations

import errno
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import libgraph as lg
from libgraph.degeneracy.measure import measure_degeneracy
from libgraph.edges.score import base_score
from libgraph.errors import MissingExtra, NumericalError, TooLarge, UsageError
from libgraph.runs.measures import sparsity, sparsity_in_total
from libgraph.testing import check_backend
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.options import TrainingOptions
from libgraph_backends.modular_addition.training import initial_weights


@pytest.fixture(scope="module")
def tiny() -> ModularAddition:
    options = TrainingOptions(modulus=7, d_model=8, heads=2, d_mlp=12, seed=3)
    return ModularAddition(weights={k: v.detach() for k, v in initial_weights(options).items()})


def test_the_built_in_backend_keeps_the_contract(tiny):
    check_backend(tiny)


def test_a_network_that_is_shared_breaks_the_contract(tiny, monkeypatch):
    network = tiny.network()
    monkeypatch.setattr(tiny, "network", lambda: network)
    with pytest.raises(AssertionError, match="same object twice"):
        check_backend(tiny)


def test_a_few_lines_of_python(tiny):
    run = lg.analyze(tiny, basis="lib")
    graph = run.graph()
    assert set(graph.communities) <= {
        f"{layer.name}/{i}" for layer in graph.layers for i in range(layer.size)
    }
    assert set(run.sparsity) == {"lib", "pca"}
    assert run.directory is None


def untimed(run: lg.Run) -> str:
    return run.metrics.model_copy(update={"seconds": {}}).text()


def test_results_read_back_are_the_results_computed(tiny, tmp_path):
    first = lg.analyze(tiny, out=tmp_path / "run")
    again = lg.analyze(tiny, out=tmp_path / "run", force=True)
    for name in ("lib", "pca"):
        assert first.ablation(name) == again.ablation(name)
        for layer, basis in first.bases(name).items():
            for part in ("encoder", "decoder", "importance"):
                assert torch.equal(getattr(basis, part), getattr(again.bases(name)[layer], part))
        for pair, matrix in first.edges(name).items():
            assert torch.equal(matrix, again.edges(name)[pair])
    assert untimed(first) == untimed(again)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"resolution": 2.0}, set()),
        ({"tolerances": (0.1,)}, {"ablation lib", "ablation pca"}),
        ({"integration": "trapezoid:2"}, {"interactions", "ablation lib", "ablation pca"}),
        (
            {"truncate": "rel:1e-6"},
            {"bases", "interactions", "ablation lib", "ablation pca", "examples"},
        ),
    ],
)
def test_only_stages_that_depend_on_a_change_run_again(tiny, tmp_path, change, again):
    """Hashes tell: a stage whose hash is the same is not run again."""
    lg.analyze(tiny, out=tmp_path / "run")
    before = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    lg.analyze(tiny, out=tmp_path / "run", force=True, **change)
    after = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert {stage for stage in after if after[stage]["hash"] != before[stage]["hash"]} == again


def test_another_model_is_another_hash(tiny, tmp_path):
    lg.analyze(tiny, out=tmp_path / "run")
    before = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    weights = {name: tensor.clone() for name, tensor in tiny.weights.items()}
    weights["blocks.0.mlp.b_in"][0] += 1e-6
    lg.analyze(ModularAddition(weights=weights), out=tmp_path / "run", force=True)
    after = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert all(before[stage]["hash"] != after[stage]["hash"] for stage in before)


def test_batch_size_changes_nothing_but_rounding(tiny):
    large, small = (lg.analyze(tiny, batch_size=size, ablate=False) for size in (1000, 3))
    for pair, matrix in large.edges("lib").items():
        torch.testing.assert_close(
            matrix, small.edges("lib")[pair], rtol=1e-6, atol=1e-8 * float(matrix.max())
        )


def test_overflow_in_the_precision_of_scores_is_found_first(tiny, tmp_path, caplog):
    """Weights may be finite, and fine in float64, and overflow in float32: no score is a NaN's."""
    weights = {name: tensor.clone() for name, tensor in tiny.weights.items()}
    weights["blocks.0.mlp.W_in"] *= 1e30
    weights["blocks.0.mlp.W_out"] *= 1e30
    huge = ModularAddition(weights=weights)
    with pytest.raises(NumericalError, match="are NaN or infinite in float32"):
        lg.analyze(huge, out=tmp_path / "run", dtype="float32")
    assert not list(tmp_path.iterdir())
    run = lg.analyze(huge, ablate=False, seeds=1)
    assert "Single precision is not enough for the score (it is not finite)" in caplog.text
    assert 0 <= run.metrics.score.test <= 1


def test_the_whole_model_is_scored_once(tiny, monkeypatch):
    """Whatever is held against it: ablations of nodes and of edges, in every basis."""
    scored = []
    monkeypatch.setattr(
        "libgraph.edges.score.base_score", lambda *given: scored.append(given) or base_score(*given)
    )
    run = lg.analyze(tiny, beside=("pca", "neuron"), curves=True)
    assert len(scored) == 1
    assert run.metrics.score.test == base_score(*scored[0])


def test_truncating_everything_is_an_error(tiny):
    with pytest.raises(NumericalError, match="above the threshold abs:1e"):
        lg.analyze(tiny, truncate="abs:1e300")


def test_another_score_is_another_hash(tiny, tmp_path):
    class Lenient(ModularAddition):
        score_name = "leniency"

    lg.analyze(tiny, out=tmp_path / "run")
    before = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    lg.analyze(Lenient(weights=tiny.weights), out=tmp_path / "run", force=True)
    after = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert before["ablation lib"]["hash"] != after["ablation lib"]["hash"]


def test_unknown_options_name_the_near_ones(tiny):
    with pytest.raises(UsageError, match="resolution"):
        lg.analyze(tiny, resolutoin=2)


@pytest.fixture(scope="module")
def bundled() -> lg.Run:
    return lg.analyze(lg.load_backend("modular-addition"), basis="lib", ablate=False)


def test_the_bundled_model_has_learnt_its_task(bundled):
    assert bundled.metrics.score.test >= 0.999


def test_the_bundled_model_has_modules_of_one_frequency(bundled):
    """The leading features are Fourier terms, and modules gather those of one frequency."""
    labels = bundled.graph().layer("ln1.0").labels
    assert labels is not None
    assert all(max(label.concepts.values()) > 0.5 for label in labels[2:6])
    within = bundled.metrics.bases["lib"].modules.within_concept
    assert within > 0.5


def test_sparsity_does_not_depend_on_how_many_idle_features_are_kept():
    """A dropped feature is one without edges; with them left out, PCA would seem sparser."""

    def basis(kept: int) -> lg.Basis:
        return lg.Basis(torch.eye(9)[:, :kept], torch.eye(9)[:kept], torch.ones(kept), isolated=1)

    edges = torch.zeros(9, 9, dtype=torch.float64)
    edges[1:4, 1:5] = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    whole = sparsity({"a": basis(9), "b": basis(9)}, {("a", "b"): edges})
    few = sparsity({"a": basis(5), "b": basis(4)}, {("a", "b"): edges[:4, :5]})
    assert whole == few
    assert sparsity({"a": basis(1), "b": basis(1)}, {("a", "b"): edges[:1, :1]}) == {"a->b": None}


CHECKS = {"halves": True, "curves": True, "draws": 3}


def test_bases_beside_each_other_and_what_tells_modules_from_chance(tiny, tmp_path):
    beside = ("neuron", "pca", "random", "global")
    run = lg.analyze(tiny, beside=beside, out=tmp_path / "run", **CHECKS)
    assert list(run.metrics.bases) == ["lib", *beside]
    for name, figures in run.metrics.bases.items():
        for layer, curve in figures.curves.nodes.items():
            assert curve == run.ablation(name).nodes[layer]
        for pair, curve in figures.curves.edges.items():
            assert {2**i for i in range(max(curve).bit_length())} <= set(curve)
            assert 0 <= figures.area.edges[pair] <= 1
        assert len(figures.area.edges) == 3
        modules = figures.as_dict()["modules"]
        assert -1 <= modules["halves"] <= 1
        assert ("significance" in modules) == (name == "lib")
        measures = figures.sparsity["ln1.0->ln2.0"]
        assert set(figures.sparsity_total.as_dict()) == set(measures.as_dict())
    significance = run.metrics.bases["lib"].modules.significance
    assert significance.draws == 3
    assert significance.p in (0.25, 0.5, 0.75, 1.0)
    again = lg.analyze(tiny, beside=beside, out=tmp_path / "run", force=True, **CHECKS)
    assert untimed(run) == untimed(again)


def test_halves_are_even_and_odd_samples(tiny, tmp_path):
    run = lg.analyze(tiny, out=tmp_path / "run", ablate=False, halves=True)
    table = str(run).partition("Are modules more than chance?")[2].splitlines()
    agreement = run.metrics.bases["lib"].modules.halves
    assert table[2].split() == ["LIB", f"{agreement:.2f}", *"-----"]
    halves = load_file(tmp_path / "run" / "halves.safetensors")
    whole = run.edges("lib")["ln1.0", "ln2.0"]
    even, odd = (halves[f"lib {half}/ln1.0->ln2.0"] for half in ("even", "odd"))
    (batch,) = tiny.batches("train", tiny.samples("train"))
    counts = len(batch.inputs[::2]), len(batch.inputs[1::2])
    both = (counts[0] * even + counts[1] * odd) / sum(counts)
    torch.testing.assert_close(both, whole)
    assert not torch.allclose(even, odd)


def test_measures_in_total_weigh_layer_pairs_alike(tiny):
    run = lg.analyze(tiny, ablate=False)
    bases, edges = run.bases("lib"), run.edges("lib")
    larger = {pair: 10.0**i * matrix for i, (pair, matrix) in enumerate(edges.items())}
    in_total = sparsity_in_total(bases, edges).as_dict()
    assert sparsity_in_total(bases, larger).as_dict() == pytest.approx(in_total)
    (pair,) = list(edges)[:1]
    alone = {pair: edges[pair]}
    only = {layer: bases[layer] for layer in pair}
    measures = sparsity(only, alone)["->".join(pair)].as_dict()
    assert sparsity_in_total(only, alone).as_dict() == pytest.approx(measures)


def test_a_rotated_network_has_no_directions_of_a_file(tiny, tmp_path):
    save_file({"ln1.0/decoder": torch.eye(8)}, tmp_path / "mine.safetensors")
    with pytest.raises(UsageError, match="draws=0"):
        lg.analyze(tiny, basis=str(tmp_path / "mine.safetensors"), draws=2)


def test_two_bases_of_one_name(tiny, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_file({"ln1.0/decoder": torch.eye(8)}, tmp_path / folder / "mine.safetensors")
    both = [str(tmp_path / folder / "mine.safetensors") for folder in ("a", "b")]
    with pytest.raises(UsageError, match="both be called mine"):
        lg.analyze(tiny, basis=both[0], beside=(both[1],))


def test_bisections_alone_make_no_area(tiny):
    """The numbers that they try are all near the one that they find."""
    for figures in lg.analyze(tiny).metrics.bases.values():
        assert figures.area.edges == {}
        assert len(figures.area.nodes) == 3


@pytest.mark.parametrize("wrong", ["mlp", torch.nn.Linear(2, 2)])
def test_what_is_no_backend(wrong):
    for function in (lg.analyze, measure_degeneracy):
        with pytest.raises(UsageError, match="load_backend"):
            function(wrong)


# Pictures


def test_a_full_disk_while_the_picture_is_saved_ends_the_run(tiny, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(UsageError, match=r"Cannot write .*modules\.png.*free some space"):
        lg.analyze(tiny, out=tmp_path / "run", ablate=False)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "run.partial" / "edges.safetensors").is_file()


@pytest.mark.parametrize("kind", [MissingExtra, TooLarge])
def test_a_picture_that_cannot_be_drawn_is_left_out(tiny, tmp_path, monkeypatch, caplog, kind):
    def refuse(*arguments, **options):
        raise kind("No picture of this.")

    monkeypatch.setattr("libgraph.report.graph_files.draw", refuse)
    with caplog.at_level(logging.WARNING, "libgraph"):
        lg.analyze(tiny, out=tmp_path / "run", ablate=False)
    assert "graph.png was not drawn: No picture of this." in caplog.text
    assert (tmp_path / "run" / "graph.graphml").is_file()
    assert not (tmp_path / "run" / "graph.png").exists()
