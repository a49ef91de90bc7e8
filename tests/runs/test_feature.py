"""One feature of a run: what feeds it, where it leads, its examples, and all of it as text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.runs import forget_checksums

import libgraph as lg
from libgraph.backend import Batch
from libgraph.errors import BackendError, UsageError
from libgraph.runs.examples import KINDS, ORDINARY, STRONGEST, load_examples, save_examples
from libgraph.runs.feature import ablated
from libgraph.runs.saved_run import open_run
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.modular_addition.backend import ModularAddition


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("feature") / "run"
    return lg.analyze(ModularAddition(weights=weights), out=out, seeds=2)


@pytest.fixture(scope="module")
def saved(run):
    return open_run(run.directory)


def test_inputs_and_outputs_are_rows_and_columns_of_all_interactions(run):
    layer = "ln2.0"
    entering, leaving = run.edges()["ln1.0", layer].numpy(), run.edges()[layer, "unembed"].numpy()
    feature = run.feature(f"{layer}/2")
    row = entering[2].copy()
    row[0] = 0
    links = feature.inputs(top=None)
    assert [link.feature for link in links] == [
        f"ln1.0/{j}" for j in np.argsort(-row, kind="stable") if row[j] > 0
    ]
    assert sum(link.share for link in links) == pytest.approx(1)
    assert [link.interaction for link in links] == sorted(row[row > 0], reverse=True)
    epsilon = run.graph().epsilon["ln1.0", layer]
    assert all(link.kept == (link.interaction >= epsilon) for link in links)
    column = leaving[:, 2].copy()
    column[0] = 0
    assert feature.outputs(1)[0].feature == f"unembed/{column.argmax()}"
    assert len(feature.inputs(3)) == 3


def test_a_feature_is_its_directions(run):
    feature = run.feature("ln2.0/3")
    basis = run.bases()["ln2.0"]
    reads, writes = feature.direction()
    assert torch.equal(reads, basis.encoder[:, 3])
    assert torch.equal(writes, basis.decoder[3])
    assert feature.label == run.graph().layer("ln2.0").labels[3]
    assert feature.module == run.graph().membership("ln2.0")[3]
    importance = basis.importance[1:].clamp(min=0)
    assert feature.share == pytest.approx(float(basis.importance[3] / importance.sum()))
    assert run.feature("ln2.0/0").share is None


def test_examples_are_the_extremes_of_the_features(run):
    """Against features computed here from all samples of the split."""
    inputs = torch.cat([batch.inputs for batch in run.backend.batches("train", 64)])
    activations = list(run.backend.network().double().activations(inputs))
    for place, name in enumerate(("ln1.0", "ln2.0")):
        f = activations[place] @ run.bases()[name].encoder
        stored = run.all_examples().layers[name]
        for index in range(1, f.shape[2]):
            examples = run.examples(f"{name}/{index}")
            assert [example.kind for example in examples] == list(KINDS)
            assert len({e.sample for e in examples[-ORDINARY:]}) == ORDINARY
            for example in examples:
                value = float(f[example.sample, example.position, index])
                assert example.value == pytest.approx(value, rel=1e-5, abs=1e-5)
                if len(example.values) == f.shape[1]:
                    shown = f[example.sample, :, index].float()
                    np.testing.assert_allclose(example.values, shown, rtol=1e-4, atol=1e-5)
            best = f[..., index].amax(1).sort(descending=True).values[:STRONGEST]
            found = [example.value for example in examples[:STRONGEST]]
            np.testing.assert_allclose(found, best, rtol=1e-4, atol=1e-5)
            deviation = f[..., index].std(correction=0)
            assert float(stored.deviation[index]) == pytest.approx(float(deviation), rel=1e-4)
    text = str(examples[0])
    x, y, _ = inputs[examples[0].sample].tolist()
    assert text.endswith(f"{x} + {y}[ =]")


def test_effects_are_those_of_small_steps(run):
    """A step along a feature moves outputs, in the mean, by as much as is said."""
    network = run.backend.network().double()
    inputs = torch.cat([batch.inputs for batch in run.backend.batches("train", 64)])[:32]
    stored = run.all_examples().layers["ln2.0"]
    x = network.activations_at(1, inputs)
    step = 1e-4 * float(stored.deviation[2])
    direction = run.bases()["ln2.0"].decoder[2]
    change = network.from_layer(1, x + step * direction) - network.from_layer(
        1, x - step * direction
    )
    change = change.sum(1).mean(0) / 2e-4
    effects = run.feature("ln2.0/2").effects()
    outputs = stored.outputs[2].tolist()
    assert outputs[0] == int(change.argmax())
    assert outputs[len(outputs) // 2] == int(change.argmin())
    for effect, output in zip(effects, outputs, strict=True):
        assert effect.output == f"sum {output}"
        # Corners of the ReLU within a step.
        assert effect.change == pytest.approx(float(change[output]), rel=0.02, abs=1e-6)


def test_a_run_read_back_says_the_same(run, saved):
    for name in ("ln1.0/1", "ln2.0/4", "unembed/2", "ln1.0/0", "output/3"):
        one, other = run.feature(name), saved.feature(name)
        assert str(one) == str(other)
        assert one.inputs() == other.inputs()
        assert one.position_share == other.position_share
    assert [f.id for f in run.search("cos(1x")] == [f.id for f in saved.search("COS(1x")]
    assert {f.id for f in run.search("cos(1x")} == {
        f"{layer.name}/{place}"
        for layer in run.graph().layers
        for place, label in enumerate(layer.labels)
        if "cos(1x" in label.text
    }
    assert run.module(0) == saved.module(0)
    assert saved.subgraph(module=0).communities == run.subgraph(module=0).communities
    assert len(saved.to_pandas().edges) == saved.to_networkx().number_of_edges()
    assert saved.to_igraph().ecount() == len(saved.to_pandas().edges)


def test_a_module_is_all_of_its_kept_edges(run):
    graph = run.graph()
    module = run.module(0)
    members = {name for name, number in graph.communities.items() if number == 0}
    assert set(module.members) == members
    edges = graph.to_networkx().edges(data="weight")
    inside = sum(w for a, b, w in edges if a in members and b in members)
    entering = sum(w for a, b, w in edges if a not in members and b in members)
    assert module.weight == pytest.approx(inside)
    assert sum(flow.weight for flow in module.inputs) == pytest.approx(entering)


def test_examples_are_the_same_bytes_and_come_back(run, tmp_path):
    examples = run.all_examples()
    for name in ("one", "other"):
        save_examples(tmp_path / name, examples)
    stored = (run.directory / "examples.safetensors").read_bytes()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes() == stored
    again = load_examples(tmp_path / "one")
    assert again.texts == examples.texts
    assert torch.equal(again.layers["ln1.0"].windows, examples.layers["ln1.0"].windows)


def test_a_run_without_examples_says_how_to_get_them(run, tmp_path):
    import shutil

    path = shutil.copytree(run.directory, tmp_path / "old")
    (path / "examples.safetensors").unlink()
    with pytest.raises(UsageError, match=r"it is missing.*force=True"):
        open_run(path).examples("ln2.0/2")
    # An earlier version wrote no list of files.
    forget_checksums(path)
    old = open_run(path)
    with pytest.raises(UsageError, match=r"no examples.*force=True adds them"):
        old.examples("ln2.0/2")
    assert "no examples" in str(old.feature("ln2.0/2"))
    (path / "examples.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"examples\.safetensors"):
        open_run(path).examples("ln2.0/2")


def test_ablation_brackets_the_feature():
    found = ablated({0: 0.1, 4: 0.5, 9: 0.9, 16: 1.0}, 5)
    assert found == (9, 0.9, 4, 0.5)
    assert ablated({0: 0.1}, 5) is None


class Pictures(MLP):
    """Rows of four as pictures of two by two."""

    shown = "pictures"

    def show(self, inputs):
        if self.shown == "few":
            return [["only one"]]
        if self.shown == "floats":
            return torch.zeros(len(inputs), 2, 2, 3)
        bytes_ = (inputs.abs() * 50).clamp(max=255).to(torch.uint8)
        return bytes_.view(-1, 2, 2, 1).expand(-1, -1, -1, 3)


def small(kind: str):
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 4, generator=generator)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    backend = Pictures(module=module, inputs=inputs)
    backend.shown = kind
    return backend, inputs


def test_pictures_are_those_of_the_samples():
    backend, inputs = small("pictures")
    run = lg.analyze(backend, seeds=1, ablate=False)
    for example in run.examples("input/1"):
        assert example.picture.shape == (2, 2, 3)
        assert example.place is None
        row = (inputs[example.sample].abs() * 50).clamp(max=255).to(torch.uint8)
        assert example.picture[..., 0].flatten().tolist() == row.tolist()


def test_of_few_outputs_each_is_named_once(tmp_path):
    backend, _ = small("pictures")
    run = lg.analyze(backend, seeds=1, ablate=False, out=tmp_path / "run")
    effects = run.feature("hidden1/1").effects()
    assert sorted(effect.output for effect in effects) == ["output 0", "output 1", "output 2"]
    stored = run.all_examples().layers["hidden1"]
    # The most up first, the most down behind it; as of earlier versions, too.
    assert effects[0].change == max(effect.change for effect in effects)
    assert effects[2].change == min(effect.change for effect in effects)
    twice = replace(
        stored, outputs=stored.outputs.repeat(1, 2), effects=stored.effects.repeat(1, 2)
    )
    feature = run.feature("hidden1/1")
    feature.__dict__["_examples"] = twice
    assert feature.effects() == effects


@pytest.mark.parametrize(("kind", "what"), [("few", "1 samples for"), ("floats", "bytes")])
def test_a_backend_that_shows_something_else_is_told(kind, what):
    backend, _ = small(kind)
    with pytest.raises(BackendError, match=what):
        lg.analyze(backend, seeds=1, ablate=False)


def test_inputs_without_a_picture_are_named():
    backend = MLP(module=torch.nn.Sequential(torch.nn.Linear(6, 2)))
    rows = torch.tensor([[0.0, 3.0, -7.0, 1.0, 0.5, 0.25]])
    assert backend.show(rows) == [["input 2 -7, input 1 3, input 3 1, input 4 0.5"]]
    assert isinstance(next(iter(backend.batches("train", 2))), Batch)


def test_json_of_a_feature_is_json(run):
    from libgraph.runs.shown import feature_values, layer_values, module_values

    values = [
        feature_values(run.feature("ln1.0/2")),
        module_values(run.module(0)),
        layer_values(run, "ln2.0", "lib"),
    ]
    json.dumps(values, allow_nan=False)
    assert values[0]["inputs"] == []
    assert len(values[2]["features"]) == run.graph().layer("ln2.0").size
