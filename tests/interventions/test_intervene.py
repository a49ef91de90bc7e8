"""Interventions: against a pass written by hand, one sample and one feature after the other."""

import pytest
import torch
from helpers.cifar import small_backend, write_batches
from helpers.numbers import assert_within

import libgraph as lg
from libgraph.errors import TooLarge, UsageError
from libgraph.interventions.changes import Change, Intervention
from libgraph.interventions.intervene import intervene
from libgraph.interventions.steering import steer
from libgraph.runs.requests import intervention_of, read_request

BACKENDS = {
    "modular-addition": {},
    "mlp": {"blocks": 2, "width": 3, "layers": 2, "samples": 60},
    "cifar": {},
    "lm": {"sequences": 12, "layers": "0:1", "n_ctx": 9},
}
"""Every kind of section is in one of them: attention, norms, MLPs, convolutions, pooling."""


def by_hand(subject, intervention, inputs):
    """Outputs, and features of all layers, with each change made where it is due."""
    x = subject.network.embed(inputs)
    seen = {}
    for place, layer in enumerate(subject.layers):
        x = subject.network.sections[place - 1](x) if place else x
        basis = subject.cast[layer]
        for change in intervention.changes:
            if change.layer != layer:
                continue
            for feature in change.features:
                f = x @ basis.encoder[:, feature]
                mean = subject.usual[layer].mean[feature]
                new = {
                    "set": torch.full_like(f, change.value),
                    "scale": change.value * f,
                    "add": f + change.value,
                    "mean": torch.zeros_like(f) + mean,
                    "position-mean": torch.zeros_like(f)
                    + subject.usual[layer].at_positions[:, feature],
                }[change.how]
                where = range(x.shape[1]) if change.positions is None else change.positions
                step = torch.zeros_like(f)
                for position in where:
                    step[:, position] = (new - f)[:, position]
                x = x + step.unsqueeze(-1) * basis.decoder[feature]
        seen[layer] = x @ basis.encoder
    return x, seen


@pytest.fixture(scope="module", params=list(BACKENDS))
def subject(request, tmp_path_factory):
    if request.param == "cifar":
        folder = tmp_path_factory.mktemp("cifar")
        backend = small_backend("conv", write_batches(folder), folder)
    else:
        backend = lg.load_backend(request.param, **BACKENDS[request.param])
    run = lg.analyze(backend, ablate=False, beside=(), limit=40)
    return run.subject(limit=10)


def some(subject):
    """One of each kind, two at once, and one that begins in the middle."""
    first, middle = subject.layers[0], subject.layers[len(subject.layers) // 2]
    last = len(subject.cast[first]) - 1
    return [
        Intervention("set", (Change(first, (1,), "set", 0.3),)),
        Intervention("scale", (Change(middle, (1, 2), "scale", -1.5),)),
        Intervention("add", (Change(first, (last,), "add", 0.7, (-1,)),)),
        Intervention("mean", (Change(first, (1,)), Change(middle, (2,)))),
        Intervention("positions", (Change(middle, (1,), "position-mean"),)),
    ]


def test_outputs_scores_and_changes_are_those_of_a_pass_by_hand(subject):
    interventions = some(subject)
    result = intervene(subject, interventions, outputs=True)
    batches = list(subject.data)
    inputs = torch.cat([batch.inputs for batch in batches])
    targets = torch.cat([batch.targets for batch in batches])
    base, features = by_hand(subject, Intervention("nothing", ()), inputs)
    assert_within(result.base_outputs, base, rtol=1e-10)
    for number, intervention in enumerate(interventions):
        outputs, moved = by_hand(subject, intervention, inputs)
        assert_within(result.outputs[number], outputs, rtol=1e-10)
        scores = subject.backend.score(outputs, targets)
        assert_within(result.scores[number], scores, rtol=1e-10)
        for layer, found in result.moved.items():
            change = moved[layer] - features[layer]
            assert_within(found.mean[number], change.mean((0, 1)), atol=1e-10)
            assert_within(found.rms[number], change.square().mean((0, 1)).sqrt(), atol=1e-10)


def test_interventions_in_parts_are_those_at_once(subject, monkeypatch):
    interventions = some(subject)
    whole = intervene(subject, interventions, outputs=True)
    monkeypatch.setattr("libgraph.interventions.intervene.AT_ONCE", 1)
    parts = intervene(subject, interventions, outputs=True)
    assert_within(parts.outputs, whole.outputs, rtol=1e-10)
    for layer in whole.moved:
        assert_within(parts.moved[layer].rms, whole.moved[layer].rms, atol=1e-10)


@pytest.fixture(scope="module")
def addition():
    backend = lg.load_backend("modular-addition")
    run = lg.analyze(backend, ablate=False, beside=(), limit=500)
    return run, run.subject(limit=200)


def test_resampled_values_are_those_of_other_samples(addition):
    run, subject = addition
    result = run.intervene(["ln2.0/1"], "resample", subject=subject, seed=3)
    pool = subject.features(subject.donors)["ln2.0"][..., 1]
    generator = torch.Generator().manual_seed(3)
    start, changes = 0, []
    for batch in subject.data:
        donors = torch.randint(2**31, (len(batch.inputs),), generator=generator) % len(pool)
        changes.append(pool[donors] - subject.features(batch.inputs)["ln2.0"][..., 1])
        start += len(batch.inputs)
    assert start == 200
    found = result.moved["ln2.0"].rms[0, 1]
    assert_within(found, torch.cat(changes).square().mean().sqrt().double(), rtol=1e-9)


def test_nothing_changes_where_a_feature_is_scaled_by_one(addition):
    run, subject = addition
    result = run.intervene({"ln1.0/2": 1.0, "unembed/4": 1.0}, "scale", subject=subject)
    assert result.mean_scores == (result.base_score,)
    assert all(float(moved.rms.max()) < 1e-9 for moved in result.moved.values())


def test_a_module_is_all_its_features(addition):
    run, subject = addition
    members = list(run.module(0).members)
    module = run.intervene(["module:0"], "mean", subject=subject, outputs=True)
    together = run.intervene(dict.fromkeys(members), "mean", subject=subject, outputs=True)
    assert_within(module.outputs, together.outputs, rtol=1e-12)


def test_steering_moves_the_sum_that_is_predicted(addition):
    run, subject = addition
    inputs = subject.backend.inputs_of("12 + 45")
    nothing = steer(subject, intervention_of(run, ["ln2.0/1=1x"]), inputs)
    assert int(nothing.base.argmax()) == 57
    assert_within(nothing.steered, nothing.base, atol=1e-9)
    strongest = sorted(range(run.partition.size), key=lambda m: -len(run.module(m).members))
    turned = [f"module:{module}=-1x" for module in strongest[:2]]
    steered = steer(subject, intervention_of(run, turned), inputs)
    assert int(steered.steered.argmax()) != 57
    assert steered.strongest(1) == [57]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ln2.0/5", ("ln2.0/5", "mean", None)),
        ("ln2.0/5=0", ("ln2.0/5", "set", 0.0)),
        ("ln2.0/5=-1.5", ("ln2.0/5", "set", -1.5)),
        ("ln2.0/5=2x", ("ln2.0/5", "scale", 2.0)),
        ("a=b/5=1e-3x", ("a=b/5", "scale", 1e-3)),
        ("ln2.0/5+=1.5", ("ln2.0/5", "add", 1.5)),
        ("module:3=resample", ("module:3", "resample", None)),
        ("x/1=position-mean", ("x/1", "position-mean", None)),
    ],
)
def test_what_people_write(text, read):
    assert read_request(text) == read


@pytest.mark.parametrize("text", ["ln2.0/5=", "ln2.0/5=two", "a/1+=mean", "a/1+=2x", "a/1=set"])
def test_what_cannot_be_read_is_told(text):
    with pytest.raises(UsageError, match=r"cannot be read|at once"):
        read_request(text)


@pytest.mark.parametrize(
    ("what", "how", "message"),
    [
        (["ln2.0/500"], "mean", "There is no feature 'ln2.0/500'"),
        (["ln3.0/1"], "mean", "There is no feature 'ln3.0/1'"),
        (["module:99"], "mean", "There is no module 99"),
        (["ln2.0/1"], "set", "needs a value"),
        ({"ln2.0/1": float("nan")}, "set", "not finite"),
        ({"ln2.0/1": 1.0, "module:0": 2.0}, "set", "twice"),
        ([], "mean", "no intervention"),
        (["ln2.0/1"], "double", "nothing to do"),
    ],
)
def test_mistakes_are_told(addition, what, how, message):
    run, subject = addition
    if isinstance(what, dict) and "module:0" in what:
        what = {run.module(0).members[0]: 1.0, "module:0": 2.0}
    with pytest.raises(UsageError, match=message):
        run.intervene(what, how, subject=subject)


def test_positions_and_sizes_are_checked(addition, monkeypatch):
    run, subject = addition
    with pytest.raises(UsageError, match=r"no position 3 at ln1\.0: samples have 3"):
        run.intervene({"ln1.0/1": 0.0}, positions=[3], subject=subject)
    monkeypatch.setattr("libgraph.interventions.intervene.MOST_OUTPUTS", 10)
    with pytest.raises(TooLarge, match="use a limit"):
        run.intervene({"ln1.0/1": 0.0}, outputs=True, subject=subject)


def test_another_network_is_refused(tmp_path, addition):
    backend = lg.load_backend("mlp", blocks=2, width=3, layers=2, samples=60)
    run = lg.analyze(backend, ablate=False, beside=(), out=tmp_path / "run")
    other = lg.load_backend("mlp", blocks=2, width=3, layers=2, samples=60, seed=5)
    saved = lg.open_run(tmp_path / "run")
    assert saved.subject().network.fingerprint() == run.subject().network.fingerprint()
    with pytest.raises(UsageError, match="another network"):
        saved.subject(backend=other)
