"""Models in somebody's own files: found, given parameters and data, analysed by one command."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import libgraph as lg
from libgraph.errors import DataError
from libgraph_backends.pytorch import Torch
from libgraph_backends.pytorch.options import TorchOptions
from libgraph_backends.pytorch.scores import SCORES
from libgraph_cli.main import main

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

def data():
    torch.manual_seed(1)
    x = torch.randn(30, 4)
    return x, x[:, :3].argmax(1)

def splits(split):
    n = 12 if split == "train" else 5
    return torch.randn(n, 4), torch.zeros(n, 3)

class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 10
    def __getitem__(self, i):
        return torch.full((4,), float(i)) + torch.arange(4) ** 2, i % 3

pairs = Pairs()

def margin(outputs, targets):
    return outputs.gather(1, targets[:, None])[:, 0]

def fails():
    return 1 / 0

def needs(width):
    return nn.Linear(width, 2)
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "models.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "package"]:
        del sys.modules[name]


def backend(**options):
    return Torch(TorchOptions(**{"model": "own.py:build", "data": "own.py:data", **options}))


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def outputs_of(made, x):
    return made.cut.last.to_value(made.network()(x.double()))


def test_one_command_from_a_file_to_a_graph(code, monkeypatch, capsys):
    arguments = ["analyze", "torch", "-o", "model=own.py:build", "-o", "data=package.models:data",
                 "-o", "classes=a,b,c", "--out", "run", "-q"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["libgraph", *arguments])
    main()
    assert "torch: test accuracy" in capsys.readouterr().out
    assert (code / "run" / "graph.graphml").is_file()
    figures = json.loads((code / "run" / "metrics.json").read_text())
    assert "accuracy" in json.dumps(figures)


@pytest.mark.parametrize("place", ["own.py:build", "package.models:build"])
def test_models_of_files_and_packages(code, place):
    made = backend(model=place)
    x = torch.randn(3, 4)
    expected = module().double()(x.double())
    assert torch.allclose(outputs_of(made, x), expected, atol=1e-12)


def test_a_program_that_was_exported(code):
    batch = torch.export.Dim("batch")
    program = torch.export.export(module(), (torch.randn(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, code / "model.pt2")
    x = torch.randn(3, 4)
    expected = module().double()(x.double())
    assert torch.allclose(outputs_of(backend(model="model.pt2"), x), expected, atol=1e-12)


def prefixed(prefix):
    def write(state, path):
        save_file({prefix + name: tensor for name, tensor in state.items()}, path)

    return write


def nested(state, path):
    torch.save({"state_dict": {f"model.{n}": t for n, t in state.items()}, "epoch": 3}, path)


def sharded(state, path):
    path.mkdir()
    for i, (name, tensor) in enumerate(state.items()):
        save_file({name: tensor}, path / f"{i}.safetensors")
    places = {name: f"{i}.safetensors" for i, name in enumerate(state)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def beside(state, path):
    save_file({**{f"net.{n}": t for n, t in state.items()}, "critic.weight": torch.ones(2)}, path)


@pytest.mark.parametrize(
    "write",
    [prefixed(""), prefixed("module."), prefixed("_orig_mod."), prefixed("a.b."), nested, sharded,
     beside],
    ids=["plain", "parallel", "compiled", "deep", "nested", "sharded", "beside"],
)  # fmt: skip
def test_weights_as_people_have_them(code, write):
    torch.manual_seed(3)
    other = module()
    nn.init.normal_(other[0].weight)
    write({name: tensor.half() for name, tensor in other.state_dict().items()}, code / "w")
    made = backend(weights="w")
    x = torch.randn(3, 4)
    expected = other.half().double()(x.double())
    assert torch.allclose(outputs_of(made, x), expected, atol=1e-12)


def test_samples_by_split_data_sets_and_tensors_alone(code):
    made = backend(data="own.py:splits")
    assert (made.samples("train"), made.samples("test")) == (12, 5)
    assert (made.score_name, made.higher_is_better) == ("mean-squared-error", False)
    made = backend(data="own.py:pairs", samples=6)
    assert (made.samples("train"), made.samples("test")) == (6, 2)
    alone = Torch(module=module(), data=torch.randn(10, 4))
    (batch,) = alone.batches("test", 8)
    scores = alone.score(alone.network()(batch.inputs), batch.targets)
    assert torch.allclose(scores, torch.zeros(2).double())


def test_a_score_of_ones_own(code):
    made = backend(score="own.py:margin")
    (batch,) = made.batches("test", 8)
    outputs = made.network()(batch.inputs)
    chosen = outputs[:, 0].gather(1, batch.targets[:, None])[:, 0]
    assert torch.equal(made.score(outputs, batch.targets), chosen)
    assert made.score_name == "margin"


def test_scores_of_tokens_are_means_over_them():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    x = torch.randint(0, 5, (12, 3))
    made = Torch(module=model, data=(x, x))
    assert made.score_name == "cross-entropy"
    logits = model.double()(x[:4])
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), x[:4], reduction="none").mean(1)
    assert torch.allclose(made.score(made.network()(x[:4]), x[:4]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "own.py:nothing"}, "no 'nothing' in 'own.py'; there are"),
        ({"model": "own:build:"}, "is no place in code"),
        ({"model": "gone.py:build"}, "no file 'gone.py'"),
        ({"model": "gone.module:build"}, "no module 'gone' here"),
        ({"model": "own.py:fails"}, r"fails with ZeroDivisionError: .* \(at .*own\.py:\d+"),
        ({"model": "own.py:needs"}, "needs the argument 'width'"),
        ({"model": "own.py:data"}, "gives a tuple: it has to be a torch.nn.Module"),
        ({"model": "weights.safetensors"}, "holds parameters alone"),
        ({"model": "own.py:build", "weights": "w"}, "no parameter '0.weight' of the model"),
        ({"data": "own.py:build"}, "no pairs of an input and its target"),
        ({"score": "own.py:pairs"}, "not a function"),
        ({"classes": "a,b"}, "has 2 names for 3 outputs"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_sentence(code, options, message):
    save_file({"other": torch.ones(2, 2)}, code / "w")
    with pytest.raises(lg.LibgraphError, match=message) as caught:
        lg.analyze(backend(**options), limit=4)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(code):
    state = module().state_dict()
    save_file({**state, "2.weight": torch.ones(3, 7)}, code / "w")
    with pytest.raises(lg.BackendError, match=r"'2\.weight' should be 3 × 6, not 3 × 7"):
        backend(weights="w").network()
    save_file({**state, "2.scale": torch.ones(3)}, code / "w")
    with pytest.raises(lg.BackendError, match=r"'2\.scale' has no place in the model"):
        backend(weights="w").network()


def test_tied_weights_may_be_stored_once(code):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.write = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.write.weight = self.read.weight

        def forward(self, x):
            return self.write(torch.tanh(self.read(x)))

    model, x = Tied(), torch.randint(0, 5, (12, 3))
    save_file({"write.weight": torch.ones(5, 4)}, code / "w")
    made = Torch(TorchOptions(weights="w"), module=model, data=(x, x))
    expected = 4 * torch.tanh(torch.ones(3, 3, 5)).double()
    assert torch.allclose(outputs_of_tokens(made, x[:3]), expected)
    assert not torch.equal(model.read.weight, torch.ones(5, 4))


def outputs_of_tokens(made, x):
    return made.cut.last.to_value(made.network()(x))


def test_ignored_tokens_are_left_out():
    outputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 2, -100, -100], [1, -100, 0, 2]], dtype=torch.int32)
    for name, (score, _) in SCORES.items():
        if name != "mean-squared-error":
            expected = [score(outputs[i : i + 1, row != -100], row[row != -100][None])
                        for i, row in enumerate(targets)]  # fmt: skip
            assert torch.allclose(score(outputs, targets), torch.cat(expected))


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("accuracy", torch.tensor([0, 3]), "a target 3, but the model has 3 outputs"),
        ("cross-entropy", torch.tensor([0, -1]), "a target -1, but"),
        ("accuracy", torch.tensor([0.0, 1.0]), "classes are whole numbers"),
        ("mean-squared-error", torch.zeros(2), "one for each of the outputs"),
    ],
)
def test_targets_that_are_none_of_the_outputs(name, targets, message):
    with pytest.raises(DataError, match=message):
        SCORES[name][0](torch.zeros(2, 3), targets)


def test_one_number_for_each_sample():
    score, _ = SCORES["mean-squared-error"]
    assert score(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).tolist() == [0, 4]
    assert score(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).tolist() == [0, 4]
