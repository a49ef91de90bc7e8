"""Planted modules are found again, and MLPs from anywhere compute what PyTorch computes."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import fails
from helpers.numbers import assert_close, normal, seeded
from safetensors.torch import load_file, save_file
from torch import nn

import libgraph as lg
from libgraph.backend.train import train_model
from libgraph.errors import BackendError, DataError, NumericalError, UsageError
from libgraph.files.weights import read_weights
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.agreement import adjusted_rand_index, agreement_with_concepts, homogeneity
from libgraph.testing import check_backend
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.mnist import read_idx, read_mnist
from libgraph_backends.mlp.options import MLPOptions, TrainingOptions
from libgraph_backends.mlp.planted import Plan, Planted, random_change
from libgraph_backends.shared.layers import forward, from_module, from_state_dict, network_of

PLAN = {
    "blocks": 2, "width": 3, "layers": 2, "strengths": (1.0, 1.0), "interaction": 0.0,
    "correlation": 0.0, "dead": 0, "duplicated": 0, "hide": True, "seed": 0,
}  # fmt: skip


def plan(**options) -> Plan:
    return Plan(**{**PLAN, **options})


def modular(**options) -> MLP:
    return MLP(MLPOptions(**{"samples": 2000, **options}))


def inner(run, name="lib"):
    """Edges between features that are clustered, by layer pair."""
    bases = run.bases(name)
    return {
        (a, b): edges[bases[b].isolated :, bases[a].isolated :]
        for (a, b), edges in run.edges(name).items()
        if bases[b].rotated
    }


def off_diagonal(edges):
    return edges[~torch.eye(*edges.shape, dtype=torch.bool)]


# Planted networks


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hide": False},
        {"activation": "tanh", "interaction": 0.3, "correlation": 0.5},
        {"dead": 3, "duplicated": 2, "blocks": 3, "width": 2, "strengths": "1,0.5,2"},
        {"activation": "linear", "layers": 1},
    ],
)
def test_planted_networks_keep_the_contract(options):
    check_backend(lg.load_backend("mlp", samples="40", **options))


def test_blocks_do_not_interact_unless_asked():
    planted = Planted(plan(layers=3), torch.relu)
    x = normal(seeded(1), 20, 6)
    other = x.clone()
    other[:, 3:] = normal(seeded(2), 20, 3)
    for before, after in zip(forward(planted.plain, x), forward(planted.plain, other), strict=True):
        assert torch.equal(before[:, :3], after[:, :3])
        assert not torch.allclose(before[:, 3:], after[:, 3:])
    joined = Planted(plan(interaction=0.1), torch.relu)
    outside = [layer.matrix[:3, 3:] for layer in joined.plain]
    assert all(0 < float(part.abs().max()) < 1 for part in outside)
    inside = [layer.matrix[:3, :3] for layer in joined.plain]
    dense = Planted(plan(interaction=1.0), torch.relu)
    for weak, strong, same, layer in zip(
        outside, [m.matrix[:3, 3:] for m in dense.plain], inside, dense.plain, strict=True
    ):
        assert_close(10 * weak, strong)
        assert torch.equal(same, layer.matrix[:3, :3])


@pytest.mark.parametrize("options", [{}, {"dead": 4, "duplicated": 5, "layers": 3}])
def test_hiding_keeps_the_function_and_mixes_every_hidden_unit(options):
    planted = Planted(plan(**options), torch.relu)
    x = normal(seeded(1), 50, 6)
    plain, hidden = (list(forward(layers, x)) for layers in (planted.plain, planted.layers))
    assert_close(hidden[-1], plain[-1])
    for before, after, change in zip(plain[:-1], hidden[:-1], planted.changes[1:], strict=True):
        assert_close(after, before @ change)
        assert float((change.abs() > 1e-3).double().mean()) > 0.95


def test_more_units_leave_the_function_alone():
    x = normal(seeded(1), 50, 6)
    few, more = (Planted(plan(dead=d, duplicated=d), torch.relu) for d in (0, 5))
    *hidden, output = forward(more.plain, x)
    *_, expected = forward(few.plain, x)
    assert_close(output, expected)
    assert [layer.shape[1] for layer in hidden] == [16, 16]
    # Units that are off have no variance, copies no direction of their own, others no effect.
    assert int((hidden[0] == 0).all(0).sum()) >= 3
    assert int(torch.linalg.matrix_rank(hidden[0])) == 6
    assert int((more.plain[1].matrix[:-1] == 0).all(1).sum()) == 2
    assert more.members[1].tolist()[:6] == [0, 0, 0, 1, 1, 1]


def test_strengths_scale_the_outputs_of_their_block():
    x = normal(seeded(1), 5, 6)
    *_, one = forward(Planted(plan(), torch.relu).plain, x)
    *_, two = forward(Planted(plan(strengths=(1, 0.25)), torch.relu).plain, x)
    assert_close(two[:, :3], one[:, :3])
    biases = Planted(plan(), torch.relu).plain[-1].matrix[-1, 3:]
    assert_close(two[:, 3:], one[:, 3:] / 4)
    assert float(biases.abs().max()) > 0


def test_inputs_are_correlated_as_asked():
    x = Planted(plan(correlation=0.4, blocks=3, strengths=(1, 1, 1)), torch.relu).inputs(200_000, 0)
    correlation = torch.corrcoef(x.T)
    expected = torch.eye(9).double()
    for shift in (3, 6):
        expected += 0.4 * (torch.ones(9 - shift).diag(shift) + torch.ones(9 - shift).diag(-shift))
    assert float((correlation - expected).abs().max()) < 0.015
    assert float((x.var(0) - 1).abs().max()) < 0.02


def test_streams_and_seeds_are_different_and_repeatable():
    backend = modular()
    first, again = (modular(seed=0) for _ in range(2))
    rows = {split: next(iter(backend.batches(split, 5))).inputs for split in ("train", "test")}
    assert not torch.equal(rows["train"], rows["test"])
    assert first.network().fingerprint() == again.network().fingerprint()
    assert first.network().fingerprint() != modular(seed=1).network().fingerprint()


def test_a_change_of_basis_is_invertible_by_a_margin():
    for seed in range(20):
        change = random_change(8, seeded(seed))
        assert 1 <= float(torch.linalg.cond(change)) <= 9 + 1e-9


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_lib_does_not_depend_on_hiding(activation):
    plain, hidden = (
        lg.analyze(modular(hide=hide, activation=activation, seed=3), ablate=False)
        for hide in (False, True)
    )
    for name, basis in plain.bases("lib").items():
        assert_close(hidden.bases("lib")[name].importance, basis.importance, 1e-8)
    for pair, edges in plain.edges("lib").items():
        assert_close(hidden.edges("lib")[pair], edges, 1e-8)


def test_lib_interactions_of_a_linear_network_are_diagonal():
    run = lg.analyze(modular(activation="linear", interaction=1.0), ablate=False)
    assert len(inner(run)) == 4
    for edges in inner(run).values():
        assert float(off_diagonal(edges).max()) < 1e-12 * float(edges.max())
    assert max(float(off_diagonal(edges).max()) for edges in inner(run, "pca").values()) > 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_modules_are_found_again_in_lib_and_not_in_pca(seed):
    run = lg.analyze(modular(seed=seed, samples=20_000), seeds=3)
    found, baseline = (run.metrics.bases[name].modules for name in ("lib", "pca"))
    assert found.homogeneity >= 0.95
    assert baseline.homogeneity < 0.1
    assert abs(baseline.adjusted_rand_index) < 0.1
    main = run.metrics.modules
    assert main.homogeneity == found.homogeneity
    assert main.adjusted_rand_index == found.adjusted_rand_index
    assert 0.3 < main.coverage <= 1
    # The truth, from the graph itself.
    truth = [
        label.concept
        for layer in run.graph().layers
        if layer.labels
        for label, module in zip(
            layer.labels, run.graph().membership(layer.name).tolist(), strict=True
        )
        if module >= 0
    ]
    assert set(truth) == {"0", "1"}


def test_coarser_modules_are_the_blocks():
    run = lg.analyze(modular(samples=20_000, seed=1), seeds=3, resolution=0.5)
    assert run.metrics.modules.homogeneity == 1
    assert run.metrics.modules.adjusted_rand_index == 1


def test_neurons_show_nothing():
    run = lg.analyze(modular(samples=20_000), basis="neuron", seeds=3)
    assert run.metrics.modules.homogeneity < 0.1


def test_dead_and_duplicated_directions_are_no_features():
    few, more = (lg.analyze(modular(dead=d, duplicated=d, seed=2), ablate=False) for d in (0, 4))
    for name, basis in few.bases("lib").items():
        assert_close(more.bases("lib")[name].importance, basis.importance, 1e-8)


def test_labels_say_which_block_a_feature_is_of():
    planted = Planted(plan(layers=1), torch.relu)
    x = planted.inputs(500, 0)
    network = network_of(planted.layers)
    backend = modular(width=3, layers=1, samples=500)
    unhide = torch.linalg.inv(planted.changes[1])
    # Unit 1 alone, unit 4 alone, then both; the constant coordinate says nothing.
    wanted = torch.zeros(6, 3).double()
    wanted[1, 0] = wanted[4, 1] = 1
    units = next(forward(planted.plain, x))
    scale = units.std(0, correction=0)
    wanted[1, 2], wanted[4, 2] = 1 / scale[1], math.sqrt(3) / scale[4]
    encoder = torch.cat([unhide @ wanted, torch.ones(1, 3).double()])
    basis = lg.bases.Basis(encoder, encoder.T, torch.ones(3), 0)
    labels = planted.labels(x, {"input": _constant(7), "hidden1": basis})
    assert [label.concept for label in labels["hidden1"][:2]] == ["0", "1"]
    assert labels["hidden1"][0].text == "100% block 0"
    assert labels["hidden1"][2].concepts["1"] == pytest.approx(0.75)
    assert labels["hidden1"][2].text == "75% block 1 | 25% block 0"
    assert [label.text for label in labels["input"]] == ["constant"]
    assert labels["input"][0].concept is None
    assert len(network.node_layers) == len(backend.network().node_layers) == 3


def _constant(size):
    encoder = torch.zeros(size, 1).double()
    encoder[-1] = 1
    return lg.bases.Basis(encoder, encoder.T, torch.ones(1), 1)


def test_the_score_is_the_share_of_variance_that_is_lost():
    backend = modular(samples=500)
    outputs = next(iter(backend.batches("train", 500))).targets
    mean = outputs.mean(0).expand_as(outputs)
    assert float(backend.score(outputs[:, None], outputs).abs().max()) == 0
    assert float(backend.score(mean[:, None], outputs).mean()) == pytest.approx(1)
    assert (backend.score_name, backend.higher_is_better) == ("relative error", False)
    assert (backend.concept, backend.modules_known) == ("block", True)
    assert (MLP.score_name, MLP.higher_is_better, MLP.modules_known) == ("accuracy", True, False)


# Agreement with what is known


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
    import igraph

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
    partition = lg.communities.Partition(
        {"a": np.array([-1, 0, 0, 1, -1]), "b": np.array([-1, 0, 1])}, 1, 0, 0, 0, 0, 1
    )
    graph = InteractionGraph(layers, edges).with_partition(partition)
    assert agreement_with_concepts(graph) == {
        "homogeneity": pytest.approx(1), "adjusted_rand_index": 1, "coverage": 0.75,
    }  # fmt: skip
    nothing = agreement_with_concepts(graph.with_partition(None))
    assert nothing == {"homogeneity": None, "adjusted_rand_index": None, "coverage": 0}


# Digits


def test_digits_keep_the_contract():
    check_backend(lg.load_backend("mlp", task="digits"))


def test_the_bundled_weights_know_their_digits():
    backend = lg.load_backend("mlp", task="digits")
    assert (backend.samples("train"), backend.samples("test")) == (1438, 359)
    (batch,) = backend.batches("test", 1000)
    right = backend.score(backend.network()(batch.inputs), batch.targets)
    history = json.loads(_bundled("training.json"))["history"]
    assert float(right.mean()) == pytest.approx(history[-1]["test_accuracy"], abs=2 / 359)
    assert float(right.mean()) > 0.96


def _bundled(name) -> str:
    folder = Path(__file__).resolve().parents[3] / "backends" / "mlp" / "weights"
    return (folder / name).read_text(encoding="utf-8")


def test_digits_are_analysed():
    run = lg.analyze(lg.load_backend("mlp", task="digits"), limit=200, tolerances=(0.01,))
    assert [layer.name for layer in run.graph().layers] == ["input", "hidden1", "hidden2", "output"]
    assert "homogeneity" not in run.metrics.modules.as_dict()


def small(**options):
    return {"task": "digits", "hidden": "5", "steps": 40, **options}


def test_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    from libgraph import fit as training

    straight = train_model(MLP, small(steps=1000), tmp_path / "straight")
    saved = training._save

    def stop(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        train_model(MLP, small(steps=1000), tmp_path / "resumed")
    monkeypatch.setattr(training, "_save", saved)
    resumed = train_model(MLP, small(steps=1000), tmp_path / "resumed")
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("straight", "resumed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [r["step"] for r in resumed["history"]] == [500, 1000]
    assert resumed["history"][-1]["loss"] == straight["history"][-1]["loss"]
    assert resumed["sizes"] == [64, 5, 10]
    assert sorted(p.name for p in (tmp_path / "resumed").iterdir()) == [
        "model.safetensors", "training.json",
    ]  # fmt: skip


def test_training_starts_at_the_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_model(MLP, small(seed=seed), tmp_path / name)
    a, b, c = (load_file(tmp_path / n / "model.safetensors")["0.weight"] for n in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


# MNIST


def idx(numbers, *, kind=8) -> bytes:
    array = np.asarray(numbers, dtype=np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def mnist(folder: Path, *, images=None, labels=None, zipped=False, dot=False) -> Path:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 10)):
        pixels = generator.integers(0, 256, (count, 4, 3)) if images is None else images
        classes = np.arange(count) % 10 if labels is None else labels
        for what, data in (("images-idx3", pixels), ("labels-idx1", classes)):
            name = f"{prefix}-{what}-ubyte"
            name = name.replace("-idx", ".idx") if dot else name
            raw = data if isinstance(data, bytes) else idx(data)
            path = folder / (name + (".gz" if zipped else ""))
            path.write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


@pytest.mark.parametrize("options", [{}, {"zipped": True}, {"dot": True}])
def test_mnist_is_read_as_it_is_written(tmp_path, options):
    folder = mnist(tmp_path / "data", **options)
    images, labels = read_mnist(folder, "test")
    pixels = np.random.default_rng(0)
    pixels.integers(0, 256, (30, 4, 3))
    expected = torch.from_numpy(pixels.integers(0, 256, (10, 4, 3))).flatten(1) / 255
    assert_close(images, expected.float())
    assert labels.tolist() == list(range(10))
    assert len(read_mnist(folder, "train")[0]) == 30


WRONG_FILES = {
    "empty": (b"", "begins with nothing, not 00000803"),
    "text": (b"hello, world, how are you", "begins with 68656c6c"),
    "type": (idx(np.ones((2, 2, 2)), kind=13), "begins with 00000d03"),
    "dimensions": (idx([1, 2, 3]), "3 dimensions: it begins with 00000801"),
    "header": (idx(np.ones((2, 2, 2)))[:10], "no idx file"),
    "short": (idx(np.ones((2, 2, 2)))[:-1], "2 × 2 × 2 = 8 bytes after its header, not 7 bytes"),
    "long": (idx(np.ones((2, 2, 2))) + b"x", "after its header, not more"),
    "huge": (idx(np.ones((2, 2, 2))).replace(b"\0\0\0\2", b"\xff" * 4), "not 8 bytes"),
    "cut": (gzip.compress(idx(np.ones((20, 9, 9))))[:-12], "cannot be read"),
    "garbled": (b"\x1f\x8b" + b"nothing that gzip knows", "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_a_wrong_idx_file_is_named(tmp_path, kind):
    data, said = WRONG_FILES[kind]
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read_idx(path, 3)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": np.arange(30) % 11}, "the label 10 at number 10: they go from 0 to 9"),
        ({"labels": [1, 2]}, "has 2 labels for 30 images"),
        ({"images": np.ones((0, 4, 3)), "labels": []}, "no images"),
        ({"labels": idx([[1]])}, "1 dimension: it begins with 00000802"),
    ],
)
def test_wrong_images_or_labels_are_data_errors(tmp_path, options, said):
    with pytest.raises(DataError, match=said):
        read_mnist(mnist(tmp_path / "data", **options), "train")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no 'train-images-idx3-ubyte'"):
        read_mnist(tmp_path, "train")


def test_mnist_is_trained_and_analysed_from_the_command_line(run, tmp_path):
    folder = mnist(tmp_path / "data", zipped=True)
    trained = tmp_path / "model"
    options = ("-o", "task=mnist", "-o", f"data={folder}")
    result = run(
        "train", "mlp", *options, "-o", "hidden=6,5", "-o", "steps=20", "--out", trained, "--quiet"
    )
    assert result[0] == 0, result[2]
    model = ("-o", f"model={trained / 'model.safetensors'}", "-o", "sizes=12,6,5,10")
    code, _, err = run("analyze", "mlp", *options, *model, "--out", tmp_path / "run", "--quiet")
    assert code == 0, err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["node_layers"] == ["input", "hidden1", "hidden2", "output"]
    check_backend(MLP(MLPOptions(task="mnist", data=folder, model=trained / "model.safetensors")))


@pytest.fixture
def real_mnist() -> Path:
    path = Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist"
    if not path.is_dir():
        pytest.skip(f"MNIST is not at '{path}'")
    return path


def test_the_real_files_are_read(real_mnist):
    images, labels = read_mnist(real_mnist, "test")
    assert images.shape == (10_000, 784)
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_a_state_dict_is_analysed_on_the_real_files(run, tmp_path, real_mnist):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
    torch.save(module.state_dict(), tmp_path / "mine.pt")
    options = ["task=mnist", f"data={real_mnist}", f"model={tmp_path / 'mine.pt'}"]
    options += ["sizes=784,8,10", "activation=relu"]
    flags = [part for option in options for part in ("-o", option)]
    code, _, err = run(
        "analyze", "mlp", *flags, "--limit", 100, "--out", tmp_path / "run", "--quiet"
    )
    assert code == 0, err


# Anyone's own


MODULES = {
    "relu": lambda: [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)],
    "in place": lambda: [nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)],
    "no bias": lambda: [nn.Linear(5, 7, bias=False), nn.GELU(), nn.Linear(7, 3, bias=False)],
    "leaky": lambda: [nn.Linear(5, 7), nn.LeakyReLU(0.3), nn.Linear(7, 3), nn.Sigmoid()],
    "rows": lambda: [nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)],
    "nested": lambda: [
        nn.Sequential(nn.Linear(5, 4), nn.SiLU()), nn.Identity(), nn.Sequential(nn.Linear(4, 2)),
    ],
    "linear": lambda: [nn.Linear(5, 4), nn.Linear(4, 3)],
    "two in a row": lambda: [nn.Linear(5, 4), nn.Softplus(), nn.Tanh(), nn.Linear(4, 3)],
    "one": lambda: [nn.Linear(5, 2)],
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_sequential_computes_what_it_computed(name):
    torch.manual_seed(0)
    module = nn.Sequential(*MODULES[name]()).double().eval()
    inputs = normal(seeded(0), 40, 5)
    backend = MLP(module=module, inputs=inputs)
    expected = module(inputs).detach()
    assert_close(backend.network()(inputs)[:, 0], expected)
    assert_close(next(iter(backend.batches("train", 5))).targets, expected[:5])
    assert (backend.samples("train"), backend.samples("test")) == (32, 8)
    check_backend(backend)


def test_inputs_with_more_dimensions_are_flattened():
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    inputs = normal(seeded(0), 20, 2, 3)
    backend = MLP(module=module, inputs=inputs, targets=torch.arange(20) % 3)
    assert backend.classifies
    assert_close(backend.network()(inputs)[:, 0], module(inputs).detach())
    assert lg.analyze(backend).metrics.score.name == "accuracy"


def test_inputs_may_be_whole_numbers():
    module = nn.Sequential(nn.Linear(4, 3)).double()
    inputs = torch.arange(80).reshape(20, 2, 2) % 7
    backend = MLP(module=module, inputs=inputs)
    expected = module(inputs.flatten(1).double()).detach()
    assert_close(next(iter(backend.batches("train", 16))).targets, expected[:16])
    with pytest.raises(DataError, match="a row for each sample"):
        MLP(module=module, inputs=torch.arange(4))


def test_a_module_of_ones_own_on_the_digits():
    module = nn.Sequential(nn.Linear(64, 10))
    backend = MLP(MLPOptions(task="digits"), module=module)
    assert (backend.samples("test"), backend.score_name) == (359, "accuracy")
    assert backend.network().node_layers[0].size == 65


def test_a_module_without_inputs_runs_on_normal_ones():
    backend = MLP(MLPOptions(samples=50), module=nn.Sequential(nn.Linear(3, 2)))
    assert (backend.samples("train"), backend.samples("test")) == (50, 10)
    assert backend.score_name == "relative error"


UNSUPPORTED = {
    "convolution": ([nn.Linear(4, 4), nn.Conv1d(1, 1, 1)], "Layer '1' of the model is Conv1d"),
    "norm": ([nn.Linear(4, 4), nn.BatchNorm1d(4)], "Layer '1' of the model is BatchNorm1d"),
    "softmax": ([nn.Linear(4, 4), nn.Softmax(1)], "'1' of the model is Softmax"),
    "nested": ([nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))], "Layer '0.1' of the model is"),
    "flatten": ([nn.Flatten(0), nn.Linear(4, 4)], "Layer '0' of the model is Flatten"),
    "widths": ([nn.Linear(4, 3), nn.Linear(4, 2)], "'1' of the model takes 4 inputs.* has 3"),
    "first": ([nn.ReLU(), nn.Linear(4, 4)], "begins with ReLU"),
    "nothing": ([nn.Identity()], "no linear layer"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_layer_is_named(name):
    parts, said = UNSUPPORTED[name]
    with pytest.raises(BackendError, match=said):
        from_module(nn.Sequential(*parts))
    with pytest.raises(BackendError, match="The model is LSTM"):
        from_module(nn.LSTM(2, 2))


def test_weights_that_are_not_finite_are_named():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    module[2].bias.data[0] = math.nan
    with pytest.raises(NumericalError, match="layer '2' of the model"):
        from_module(module)
    with pytest.raises(NumericalError, match=r"'2\.weight' in here"):
        from_state_dict(module.state_dict(), None, "relu", "here")


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "silu", "sigmoid", "leaky_relu"])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_state_dict_computes_what_its_module_computes(tmp_path, activation, ending):
    torch.manual_seed(0)
    function = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}
    function |= {"sigmoid": nn.Sigmoid, "leaky_relu": nn.LeakyReLU}
    # Eleven layers of the same size: names in the order of the alphabet would be another network.
    parts = [part for _ in range(11) for part in (nn.Linear(4, 4), function[activation]())]
    module = nn.Sequential(*parts[:-1]).double()
    path = tmp_path / f"model{ending}"
    (save_file if ending == ".safetensors" else torch.save)(module.state_dict(), path)
    options = {"model": str(path), "sizes": ",".join(["4"] * 12), "activation": activation}
    backend = lg.load_backend("mlp", task="own", samples="20", **options)
    x = normal(seeded(0), 20, 4)
    assert_close(backend.network()(x)[:, 0], module(x).detach())


def test_names_are_in_order_of_their_numbers(tmp_path):
    names = ["2.weight", "10.weight", "0.weight", "net.b1.weight", "net.a.weight"]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    expected = ["0.weight", "2.weight", "10.weight", "net.a.weight", "net.b1.weight"]
    assert list(read_weights(tmp_path / "x.safetensors")) == expected


GOOD = {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(3), "b.weight": torch.ones(2, 3)}
WRONG_STATE = {
    "inputs": ({}, (5, 3, 2), "'a.weight' should be 3 × 5, not 3 × 4"),
    "outputs": ({}, (4, 3, 1), "'b.weight' should be 1 × 3, not 2 × 3"),
    "too few sizes": ({}, (4, 3), "2 sizes need 1 weights, not 2: a.weight, b.weight"),
    "chain": ({"b.weight": torch.ones(2, 5)}, None, "'b.weight' should be any × 3, not 2 × 5"),
    "bias": ({"a.bias": torch.ones(4)}, None, "'a.bias' should be 3, not 4"),
    "convolution": ({"a.weight": torch.ones(3, 4, 1)}, None, "'a.weight' should be any × any"),
    "norm": ({"running_mean": torch.ones(3)}, None, "'running_mean' is no weight"),
    "lone bias": ({"c.bias": torch.ones(3)}, None, "'c.bias' is no weight"),
    "integers": ({"a.weight": torch.ones(3, 4).long()}, None, "'a.weight' should hold floating"),
}


@pytest.mark.parametrize("kind", WRONG_STATE)
def test_a_parameter_that_does_not_fit_is_named(kind):
    change, sizes, said = WRONG_STATE[kind]
    with pytest.raises(BackendError) as error:
        from_state_dict({**GOOD, **change}, sizes, "relu", "here")
    assert said in str(error.value)
    assert str(error.value).startswith("here: ")


def test_a_state_dict_without_weights_is_refused():
    with pytest.raises(BackendError, match=r"no parameter whose name ends in \.weight"):
        from_state_dict({}, None, "relu", "here")


# On the command line


@pytest.fixture
def own(tmp_path):
    """A state dict, and rows for it."""
    save_file({"0.weight": torch.ones(2, 3)}, tmp_path / "own.safetensors")
    np.save(tmp_path / "rows.npy", normal(seeded(0), 30, 3).numpy())
    return tmp_path


def command(run, *options, out="out"):
    flags = [part for option in options for part in ("-o", option)]
    return run("analyze", "mlp", *flags, "--no-ablation", "--out", out, "--quiet")


def test_the_default_runs_and_writes_the_truth(run, tmp_path):
    code, out, err = run("analyze", "mlp", "-o", "samples=3000", "--out", tmp_path / "run")
    assert code == 0, err
    assert "relative error" in out
    assert "homogeneity" in out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["modules"]["homogeneity"] > 0.85
    assert "adjusted_rand_index" in metrics["bases"]["pca"]["modules"]
    graph = InteractionGraph.read_json(tmp_path / "run" / "graph.json")
    assert {label.concept for label in graph.layer("hidden1").labels} == {None, "0", "1"}


def test_rows_of_ones_own(run, own):
    model = f"model={own / 'own.safetensors'}"
    assert command(run, "task=own", model, f"data={own / 'rows.npy'}")[0] == 0
    assert command(run, "task=own", model, "samples=50", out="more")[0] == 0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["task=mnist"],
            2,
            "needs the folder with the files of MNIST: -o data=DIR, or -o download",
        ),
        (["task=mnist", "data=.", "download=true"], 2, "two places to have MNIST from"),
        (["task=mnist", "download=true"], 2, "needs a model: -o model=FILE"),
        (["task=digits", "download=true"], 2, "download=true fetches MNIST: use it with task=mn"),
        (["download=true"], 2, "download=true fetches MNIST"),
        (["task=mnist", "download=perhaps"], 2, "'download'"),
        (["task=mnist", "data=."], 2, "needs a model: -o model=FILE"),
        (["task=own"], 2, "needs the state dict"),
        (["task=else"], 2, "'task'"),
        (["data=."], 2, "task=modular makes its own"),
        (["model=x.pt"], 2, "task=modular makes its own"),
        (["strengths=1,2,3"], 2, "3 strengths do not fit 2 blocks"),
        (["strengths=1,-2"], 2, "'strengths'"),
        (["strengths=1,x"], 2, "'strengths"),
        (["interaction=-1"], 2, "'interaction'"),
        (["correlation=2"], 2, "'correlation'"),
        (["blocks=0"], 2, "'blocks'"),
        (["sizes=784"], 2, "at least two positive"),
        (["activation=cos"], 2, "'activation'"),
        (["task=own", "model=none.pt"], 3, "no weights file 'none.pt'"),
        (["task=own", "model={own}", "sizes=4,2"], 3, "'0.weight' should be 2 × 4, not 2 × 3"),
        (["task=digits", "model={own}"], 3, "takes 3 inputs, but the data have 64"),
        (["task=digits", "model={narrow}"], 3, "has 2 outputs, but the train split has class 9"),
        (["task=digits", "sizes=64,10"], 3, "2 sizes need 1 weights, not 3"),
        (["task=own", "model={own}", "data={wide}"], 3, "takes 3 inputs, but the data have 4"),
        (["task=own", "model={own}", "data={flat}"], 4, "inputs are all the same"),
        (["task=own", "model={own}", "data={nan}"], 4, "NaN or infinite"),
        (["task=own", "model={own}", "data={few}"], 4, "2 samples are too few"),
        (["task=own", "model={own}", "data={row}"], 4, "a row for each sample"),
        (["task=own", "model={own}", "data={own}"], 4, "no .npy file"),
        (["task=own", "model={own}", "data=none.npy"], 4, "'none.npy' cannot be read"),
        (["task=own", "model={dead}"], 4, "outputs are all the same"),
        (["task=mnist", "data=.", "model={own}"], 4, "no 'train-images-idx3-ubyte'"),
    ],
)
def test_mistakes_are_one_sentence(run, own, options, code, said):
    arrays = {
        "wide": np.random.default_rng(0).normal(size=(9, 4)),
        "flat": np.ones((9, 3)),
        "nan": np.full((9, 3), np.nan),
        "few": np.eye(3)[:2],
        "row": np.ones(9),
    }
    for name, array in arrays.items():
        np.save(own / f"{name}.npy", array)
    save_file({"0.weight": torch.ones(2, 64)}, own / "narrow.safetensors")
    save_file({"0.weight": torch.zeros(2, 3)}, own / "dead.safetensors")
    places = {name: own / f"{name}.npy" for name in arrays}
    places |= {name: own / f"{name}.safetensors" for name in ("own", "narrow", "dead")}
    fails(command(run, *(option.format(**places) for option in options)), code, said)


def test_training_mistakes(run):
    fails(run("train", "mlp", "-o", "task=mnist", "--out", "x"), 2, "needs the folder", "download=")
    fails(run("train", "mlp", "-o", "download=true", "--out", "x"), 2, "use it with task=mnist")
    both = ("-o", "task=mnist", "-o", "data=.", "-o", "download=true")
    fails(run("train", "mlp", *both, "--out", "x"), 2, "two places to have MNIST from")
    fails(run("train", "mlp", "-o", "hidden=0", "--out", "x"), 2, "hidden.0", "greater than 0")
    fails(run("train", "mlp", "-o", "task=modular", "--out", "x"), 2, "'task'")
    data = ("-o", "task=mnist", "-o", "data=nowhere")
    fails(run("train", "mlp", *data, "--out", "x"), 4, "no 'train-images-idx3-ubyte'")


def test_wrong_uses_in_python():
    with pytest.raises(UsageError, match="for a module of your own"):
        MLP(inputs=torch.ones(4, 2))
    module = nn.Sequential(nn.Linear(2, 3))
    rows = torch.randn(20, 2, generator=seeded(0))
    for targets, said in (
        (torch.arange(19) % 3, "20 inputs, but targets of shape"),
        (torch.ones(20), "whole numbers"),
        (torch.arange(20) % 3 - 1, "whole numbers"),
    ):
        with pytest.raises(DataError, match=said):
            MLP(module=module, inputs=rows, targets=targets).samples("train")
    with pytest.raises(BackendError, match="3 outputs, but the train split has class 3"):
        MLP(module=module, inputs=rows, targets=torch.arange(20) % 4).samples("train")
    assert TrainingOptions().hidden == (32, 32)
