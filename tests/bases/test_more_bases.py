"""Bases to compare with: random rotations, Jacobians to the output, directions of a file."""

import numpy as np
import pytest
import torch
from helpers.commands import fails
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import KINDS
from safetensors.torch import save_file
from scipy.linalg import hadamard
from torch.func import jacrev

from libgraph.accumulate import gradient_grams
from libgraph.bases.directions import directions
from libgraph.bases.global_lib import global_lib, output_grams
from libgraph.bases.lib import lib, lib_basis
from libgraph.bases.method import Truncation
from libgraph.bases.methods import basis_method, basis_name
from libgraph.bases.pca import pca
from libgraph.bases.random_basis import random, random_rotation
from libgraph.bases.statistics import node_statistics
from libgraph.errors import UsageError
from libgraph.progress import silent

WHOLE = Truncation(True, 1e-12)


class Case:
    def __init__(self, kinds=("relu", "attention", "linear"), sizes=(4, 3, 5, 3), seed=0):
        self.network = random_network(list(kinds), list(sizes), seed=seed, rotated=False)
        self.inputs = normal(seeded(seed), 12, 3, sizes[0])
        self.data = toy_data(self.network, self.inputs, batch_size=5)
        self.statistics = node_statistics(self.network, self.data)
        self.activations = list(self.network.activations(self.inputs))

    def make(self, method, truncation=WHOLE):
        return method(self.network, self.statistics, self.data, truncation, silent)

    def dense_gram(self, index):
        """Σ J Jᵀ from a node layer to the output, by reverse mode, one sample at a time."""
        total = 0
        for x in self.activations[index]:
            jacobian = jacrev(lambda one: self.network.from_layer(index, one[None])[0])(x)
            # Positions of the input are samples of their own: Σ_s over its blocks.
            by_position = jacobian.permute(2, 3, 0, 1).flatten(2)
            total = total + torch.einsum("sik,sjk->ij", by_position, by_position)
        return total


# Jacobians to the output


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("positionwise",)])
def test_the_global_basis_is_made_of_jacobians_to_the_output(kind):
    case = Case((kind, "tanh", "linear"))
    found = case.make(global_lib)
    for index, layer in enumerate(case.network.node_layers[:-1]):
        statistics = case.statistics[layer.name]
        mean = case.dense_gram(index) / (statistics.count * statistics.positions)
        expected = lib_basis(layer, statistics, mean, WHOLE)
        assert_close(found[layer.name].importance, expected.importance, 1e-9)


def test_before_the_last_section_it_is_lib():
    case = Case()
    name = case.network.node_layers[-2].name
    assert_close(case.make(global_lib)[name].importance, case.make(lib)[name].importance)


def test_combinations_of_random_signs_estimate_it(monkeypatch):
    case = Case()
    exact = case.make(global_lib)
    monkeypatch.setattr(gradient_grams, "MOST_PASSES", 7)
    estimates = case.make(global_lib)
    again = case.make(global_lib)
    first = case.network.node_layers[0].name
    assert torch.equal(estimates[first].encoder, again[first].encoder)
    assert not torch.equal(estimates[first].importance, exact[first].importance)


def test_the_mean_over_orthogonal_signs_is_exact(monkeypatch):
    """Nine outputs, one combination of them a time: nine columns of sixteen orthogonal signs."""
    case = Case()
    encoder = torch.eye(3).double()
    exact = output_grams(case.network, case.inputs, encoder, 0)
    monkeypatch.setattr(gradient_grams, "MOST_PASSES", 1)
    estimates = []
    for signs in torch.from_numpy(hadamard(16))[:, :9]:
        monkeypatch.setattr(
            "torch.randint", lambda high, shape, s=signs, **_: (s.expand(shape) + 1) // 2
        )
        estimates.append(output_grams(case.network, case.inputs, encoder, 0))
    for gram, *some in zip(exact, *estimates, strict=True):
        assert_close(torch.stack(some).mean(0), gram)
        assert float((some[1] - some[0]).abs().max()) > 1e-2 * float(gram.abs().max())


# Random rotations


def test_a_random_basis_spans_what_pca_does():
    case = Case()
    principal, found = case.make(pca), case.make(random)
    for layer, x in zip(case.network.node_layers[:-1], case.activations, strict=False):
        basis, before = found[layer.name], principal[layer.name]
        assert_close(basis.encoder @ basis.decoder, before.encoder @ before.decoder)
        features = (x @ basis.encoder).flatten(0, 1)
        isolated = basis.isolated
        assert_close(features[:, isolated:].var(0, correction=0), basis.importance[isolated:])
        assert (basis.importance[isolated:].diff() <= 1e-12).all()
        directions = basis.decoder[isolated:, :-1]
        assert_close(directions @ directions.T, torch.eye(len(directions)).double())
        assert not torch.allclose(basis.encoder.abs(), before.encoder.abs(), atol=1e-3)
    again = case.make(random)
    assert all(torch.equal(again[n].encoder, found[n].encoder) for n in found)


def test_rotations_are_rotations():
    q = random_rotation(5, np.random.default_rng(0))
    np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-12)


# Directions of a file


def with_file(case, path, tensors):
    save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    return case.make(directions(path))


def test_directions_come_from_the_file(tmp_path):
    case = Case()
    name = case.network.node_layers[0].name
    x, mean = case.activations[0][..., :-1], case.statistics[name].mean[:-1]
    decoder = normal(seeded(1), 3, 4)
    basis = with_file(case, tmp_path / "mine.safetensors", {f"{name}/decoder": decoder})[name]
    assert len(basis) == 4
    features = case.activations[0] @ basis.encoder
    assert_close(features[..., 0], torch.ones_like(features[..., 0]))
    # Least squares on the directions, by decreasing variance.
    expected = (x - mean) @ torch.linalg.pinv(decoder)
    order = expected.flatten(0, 1).var(0).argsort(descending=True)
    assert_close(features[..., 1:], expected[..., order])
    assert_close(basis.decoder[1:, :-1], decoder[order])
    assert_close(basis.importance[1:], expected.flatten(0, 1).var(0, correction=0)[order])
    back = features @ basis.decoder
    assert_close(back[..., :-1], mean + expected @ decoder)
    assert_close(back[..., -1], torch.ones_like(back[..., -1]))


def test_an_over_complete_dictionary_has_its_encoder(tmp_path):
    case = Case()
    name = case.network.node_layers[1].name
    encoder = normal(seeded(2), 3, 7)
    decoder = torch.linalg.pinv(encoder)
    tensors = {f"{name}/decoder": decoder, f"{name}/encoder": encoder}
    basis = with_file(case, tmp_path / "sae.safetensors", tensors)[name]
    assert len(basis) == 8
    x = case.activations[1]
    assert_close(x @ basis.encoder @ basis.decoder, x)


def test_node_layers_without_directions_keep_lib(tmp_path):
    case = Case()
    name = case.network.node_layers[0].name
    found = with_file(case, tmp_path / "a.safetensors", {f"{name}/decoder": torch.eye(4)})
    expected = case.make(lib)
    for layer in case.network.node_layers[1:]:
        assert torch.equal(found[layer.name].encoder, expected[layer.name].encoder)


def test_directions_without_variance_are_dropped(tmp_path):
    case = Case(("linear", "linear"), (4, 4, 3))
    name = case.network.node_layers[0].name
    encoder = torch.cat([torch.eye(4), torch.zeros(4, 2)], dim=1)
    tensors = {f"{name}/decoder": encoder.T.contiguous(), f"{name}/encoder": encoder}
    assert len(with_file(case, tmp_path / "a.safetensors", tensors)[name]) == 5


WRONG = {
    "of no node layer": ({"l9/decoder": torch.eye(4)}, "'l9/decoder'"),
    "of the output": ({"l3/decoder": torch.eye(3)}, "'l3/decoder'"),
    "an encoder alone": ({"l0/encoder": torch.eye(4)}, "without 'l0/decoder'"),
    "of another width": ({"l0/decoder": torch.eye(5)}, "features × 4"),
    "of one dimension": ({"l0/decoder": torch.ones(4)}, "features × 4"),
    "too many": ({"l0/decoder": torch.ones(5, 4)}, "needs 'l0/encoder'"),
    "an encoder of another shape": (
        {"l0/decoder": torch.eye(4), "l0/encoder": torch.ones(4, 5)},
        "should be 4 × 4",
    ),
    "not finite": ({"l0/decoder": torch.eye(4) / 0}, "NaN or infinite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_directions_that_do_not_fit(case, tmp_path):
    tensors, part = WRONG[case]
    with pytest.raises(UsageError) as error:
        with_file(Case(), tmp_path / "wrong.safetensors", tensors)
    assert part in str(error.value)
    assert "wrong.safetensors" in str(error.value)


# Names


def test_names_of_bases():
    assert basis_name("lib") == "lib"
    assert basis_name("some/where/sae.safetensors") == "sae"
    for wrong in ("nonesuch", "sae.pt", "lib.safetensors"):
        with pytest.raises(UsageError, match="Unknown basis"):
            basis_name(wrong)
    assert basis_method("pca").make is pca


def test_a_file_of_directions_on_the_command_line(analyze, tmp_path):
    save_file({"ln1.0/decoder": torch.eye(8)}, tmp_path / "mine.safetensors")
    code, out, err = analyze("--basis", "mine.safetensors")
    assert code == 0, err
    assert "MINE / PCA" in out
    fails(analyze("--basis", "none.safetensors", out=tmp_path / "b"), 3, "none.safetensors")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "holds no directions"),
        ({"a/decoder": torch.ones(2, 2, dtype=torch.complex64)}, "'a/decoder' is of complex64"),
        ({"a/decoder": torch.ones(2, 2, dtype=torch.int64)}, "'a/decoder' is of int64"),
    ],
)
def test_directions_are_floating_point_numbers(tmp_path, tensors, said):
    torch.save(tensors, tmp_path / "directions.safetensors")
    with pytest.raises(UsageError, match=said):
        directions(tmp_path / "directions.safetensors")
