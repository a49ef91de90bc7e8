"""Every feature and module switched off: against one intervention after the other."""

import json

import pytest
import torch

import libgraph as lg
from libgraph.accumulate import halfway as halfway_module
from libgraph.accumulate.halfway import Halfway, halfway
from libgraph.interventions import survey as survey_module
from libgraph.interventions.changes import Change, Intervention
from libgraph.interventions.intervene import intervene
from libgraph.interventions.survey import LesionSurvey, _members, _shuffled, survey_lesions
from libgraph.runs.tables import survey_tables


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    backend = lg.load_backend("mlp", blocks=3, width=3, layers=2, samples=300)
    path = tmp_path_factory.mktemp("survey") / "run"
    run = lg.analyze(backend, ablate=False, beside=(), lesions=True, out=path)
    return run, run.lesions(), path


def test_scores_are_those_of_single_interventions(surveyed):
    run, survey, _ = surveyed
    subject = run.subject(limit=survey.samples)
    for layer in run.graph().layers:
        if not layer.rotated:
            assert layer.name not in survey.features
            continue
        scores = survey.features[layer.name]
        assert all(score is None for score in scores[: layer.isolated])
        for index in (layer.isolated, layer.size - 1):
            change = Change(layer.name, (index,))
            alone = intervene(subject, [Intervention("alone", (change,))])
            # In single precision, as scores are.
            assert scores[index] == pytest.approx(alone.mean_scores[0], rel=1e-4, abs=1e-5)
    for number, module in enumerate(survey.modules):
        alone = run.intervene([f"module:{number}"], "mean", subject=subject)
        assert module.score == pytest.approx(alone.mean_scores[0], rel=1e-4, abs=1e-5)
        losses = [survey.score - score for score in (module.score, *module.random)]
        if not run.backend.higher_is_better:
            losses = [-loss for loss in losses]
        assert module.p == pytest.approx(
            (1 + sum(loss >= losses[0] for loss in losses[1:])) / len(losses)
        )


def test_lesions_go_on_where_they_were_to_the_same_bits(surveyed, tmp_path, monkeypatch):
    run, _, _ = surveyed
    monkeypatch.setattr(halfway_module, "EVERY", 0.0)
    monkeypatch.setattr(survey_module, "TOGETHER", 5)
    calls = []

    def counting(stop):
        calls.clear()

        def counted(subject, lesions, **options):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(len(lesions))
            return intervene(subject, lesions, **options)

        monkeypatch.setattr(survey_module, "intervene", counted)

    def survey(place):
        with halfway(place):
            return survey_lesions(run.subject(limit=50), run.graph(), draws=3)

    counting(None)
    expected, whole = survey(None), len(calls)
    counting(4)
    with pytest.raises(KeyboardInterrupt):
        survey(Halfway(tmp_path, "lesions", "abc"))
    counting(None)
    assert survey(Halfway(tmp_path, "lesions", "abc")) == expected
    assert len(calls) == whole - 4


def test_random_sets_are_as_large_and_of_about_the_same_ranks(surveyed):
    run, _, _ = surveyed
    graph = run.graph()
    generator = torch.Generator().manual_seed(0)
    members = _members(graph, 0)
    moved = 0
    for _ in range(20):
        chosen = _shuffled(graph, members, generator)
        assert {n: len(f) for n, f in chosen.items()} == {n: len(f) for n, f in members.items()}
        for name, features in chosen.items():
            layer = graph.layer(name)
            assert len(set(features)) == len(features)
            assert min(features) >= layer.isolated
            assert max(features) < layer.size
            pairs = zip(sorted(features), sorted(members[name]), strict=True)
            assert all(abs(a - b) < 8 for a, b in pairs)
            moved += features != members[name]
    assert moved


def test_edges_predict_all_of_a_linear_map_and_part_of_others(surveyed):
    run, survey, _ = surveyed
    subject = run.subject()
    inputs = next(iter(subject.data)).inputs[:256]
    activations = list(subject.network.activations(inputs))
    for place, (a, b, section) in enumerate(subject.network.pairs):
        found = survey.predicted[f"{a.name}->{b.name}"]
        basis, after = subject.cast[a.name], subject.cast[b.name]
        x, error, total = activations[place], 0.0, 0.0
        for feature in range(basis.isolated, len(basis)):
            step = subject.usual[a.name].mean[feature] - x @ basis.encoder[:, feature]
            moved = step.unsqueeze(-1) * basis.decoder[feature]
            change = (section(x + moved) - section(x)) @ after.encoder
            _, guess = torch.func.jvp(section, (x,), (moved,))
            difference = (change - guess @ after.encoder)[..., after.isolated :]
            error += float(difference.square().sum())
            total += float(change[..., after.isolated :].square().sum())
        assert found == pytest.approx(1 - error / total, abs=1e-4)


def test_a_run_read_back_has_its_lesions_on_screen_and_page(surveyed):
    run, survey, path = surveyed
    saved = lg.open_run(path)
    assert saved.lesions() == survey
    assert LesionSurvey.read(path / "lesions.json") == survey
    assert list(survey_tables(survey, saved.metrics))[-1] == "What edges predict"
    layer = run.graph().layers[1]
    assert "without it alone" in str(saved.feature(f"{layer.name}/{layer.isolated}"))
    text = (path / "report.html").read_text(encoding="utf-8")
    start = text.index('id="data"')
    data = json.loads(text[text.index(">", start) + 1 : text.index("</script>", start)])
    assert data["lesions"]["features"][layer.name][layer.isolated] is not None
    (path / "lesions.json").write_text("{", encoding="utf-8")
    with pytest.raises(lg.UsageError, match="cannot be read"):
        saved.lesions()


def test_a_graph_without_modules_has_lesions_of_features_alone(surveyed):
    run, _, _ = surveyed
    graph = run.graph()
    bare = lg.InteractionGraph(graph.layers, graph.edges)
    assert survey_lesions(run.subject(limit=5), bare).modules == ()


def test_a_run_that_replaces_it_has_none_of_its_lesions(tmp_path):
    backend = lg.load_backend("mlp", blocks=2, width=2, layers=1, samples=40)
    lg.analyze(backend, ablate=False, beside=(), lesions=True, out=tmp_path / "run")
    lg.analyze(backend, ablate=False, beside=(), out=tmp_path / "run", force=True)
    assert lg.open_run(tmp_path / "run").lesions() is None
