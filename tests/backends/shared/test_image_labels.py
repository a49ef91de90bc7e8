"""Labels of image features: shares against materialised indicators, extremes against sorting."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from helpers.numbers import normal, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

import libgraph as lg
from libgraph.backend import Basis, Batch
from libgraph.testing import check_backend
from libgraph_backends.mlp.backend import MLP
from libgraph_backends.mlp.options import MLPOptions
from libgraph_backends.shared.image_labels import (
    EXAMPLES,
    LEAST,
    ImageResponses,
    Separation,
    image_labels,
)

NAMES = ["cat", "dog", "car", "ship", "frog", "plane", "deer"]


def cut(f, targets, size):
    return [Batch(x, y) for x, y in zip(f.split(size), targets.split(size), strict=True)]


def labels_of(f, targets, *, size=100, isolated=0, classes=NAMES, **options):
    """The labels of features that are themselves the inputs."""
    eye = torch.eye(f.shape[-1])
    bases = {"layer": Basis(eye, eye, torch.ones(len(eye)), isolated)}
    batches = cut(f, targets, size)
    return image_labels(batches, lambda x: {"layer": x}, bases, classes=classes, **options)["layer"]


def respond(f, targets, size=7):
    responses, first = ImageResponses.beginning(f[:size], len(NAMES)), 0
    for x, y in cut(f, targets, size):
        responses.add(x, y, first)
        first += len(y)
    return responses


def squared_correlation(f, inside):
    """r² of each feature with an indicator, written out for every image and pixel."""
    indicator = inside[:, None].expand(f.shape[:2]).flatten().numpy()
    return np.array([np.corrcoef(row, indicator)[0, 1] ** 2 for row in f.flatten(0, 1).T.numpy()])


def drawn(generator, images, positions, features, classes, offset=0.0):
    """Features with their own means in every class; every class occurs, unequally often."""
    targets = torch.randint(classes, (images,), generator=generator)
    targets[:classes] = torch.arange(classes)
    means = normal(generator, classes, features)
    f = means[targets][:, None] + normal(generator, images, positions, features)
    return offset + f, targets


# Classes


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    images=st.integers(8, 40),
    positions=st.integers(1, 6),
    features=st.integers(1, 4),
    classes=st.integers(2, 6),
    size=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_shares_are_squared_correlations(images, positions, features, classes, size, seed):
    f, targets = drawn(seeded(seed), images, positions, features, classes)
    separation = Separation(respond(f, targets, size))
    assert separation.present == list(range(classes))
    divisions = [set(side) for n in range(1, classes) for side in combinations(range(classes), n)]
    inside = torch.tensor([[c in side for c in range(classes)] for side in divisions])
    naive = np.array([squared_correlation(f, row[targets]) for row in inside])
    np.testing.assert_allclose(separation.divided(inside).numpy(), naive, atol=1e-12)
    # The best cut is the best of all divisions, not of the cuts alone.
    order, sizes, shares = separation.split()
    np.testing.assert_allclose(shares.numpy(), naive.max(0), atol=1e-12)
    for j in range(features):
        high = set(order[: sizes[j], j].tolist())
        np.testing.assert_allclose(naive[divisions.index(high), j], shares[j], atol=1e-12)
        means = [float(f[targets == c, :, j].mean()) for c in range(classes)]
        assert order[:, j].tolist() == sorted(range(classes), key=lambda c: -means[c])


def test_an_indicator_is_all_explained():
    targets = torch.arange(7).repeat(6)
    f = torch.stack([targets == 3, targets != 4], dim=-1)[:, None].double()
    f = f.expand(-1, 4, -1) * torch.tensor([1.0, 5.0])
    ship, frog = labels_of(f, targets)
    assert ship.concepts["ship"] == pytest.approx(1)
    assert ship.concept == "ship"
    (split, up, down) = ship.text.split(" | ")
    assert split.startswith("100% ship > ")
    assert split.endswith(", …")
    assert (up, down) == ("+ ship 3, ship 10, ship 17", "− cat 0, dog 1, car 2")
    assert frog.concept == "frog"
    assert ", … > frog | − frog 4, frog 11, frog 18 | + cat 0, dog 1, car 2" in frog.text
    assert len(ship.concepts) == EXAMPLES
    # 1/7 of the images, each share of the others is that of a 7 × 7 table.
    assert list(ship.concepts.values())[1] == pytest.approx(1 / 36)


def test_a_mixture_has_the_share_of_its_parts():
    generator = seeded(0)
    targets = torch.arange(7).repeat(300)
    noise = normal(generator, len(targets), 2)
    noise -= noise.reshape(300, 7, 2).mean(0).repeat(300, 1)
    noise /= noise.std(0, correction=0)
    indicator = (targets == 2).double()
    indicator = (indicator - indicator.mean()) / indicator.std(correction=0)
    f = torch.stack([0.6 * indicator + 0.8 * noise[:, 0], noise[:, 1]], dim=-1)[:, None]
    mixed, none = labels_of(f, targets)
    assert mixed.concepts["car"] == pytest.approx(0.36)
    assert mixed.text.startswith("36% car > ")
    # Nothing is said of what explains nothing.
    assert none.concepts == {}
    assert none.text[0] in "+−"


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_share_is_spoken_of_from_the_least_on(share):
    targets = torch.arange(2).repeat(200)
    indicator = 2.0 * targets - 1
    noise = torch.tensor([1.0, 1, -1, -1]).repeat(100)
    r = (share * LEAST) ** 0.5
    (label,) = labels_of((r * indicator + (1 - r**2) ** 0.5 * noise)[:, None, None], targets)
    assert (label.concepts == {}) == (share < 1)
    assert ("%" in label.text) == (share > 1)


def test_pixels_that_vary_inside_images_take_their_share():
    targets = torch.tensor([0, 0, 1, 1, 2, 2])
    pixels = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    f = (targets == 0).double()[:, None] * 1.5 + pixels
    (label,) = labels_of(f[..., None], targets, grids={"layer": (2, 2)})
    expected = squared_correlation(f[..., None], targets == 0)[0]
    assert expected == pytest.approx(1 / 3)
    assert label.concepts["cat"] == pytest.approx(expected)
    assert label.text.startswith(
        "62% position | 33% cat > car, dog | + cat 0 (0,1), cat 1 (0,1), dog 2 (0,1) | −"
    )
    # Two thirds of the variance are between pixels, less what chance would explain.
    assert label.concepts["position"] == pytest.approx(1 - (1 / 3) * 23 / 20)
    assert label.concept == "position"


def test_groups_are_divisions():
    generator = seeded(1)
    f, targets = drawn(generator, 80, 3, 4, 7)
    animals, vehicles = {0, 1, 4, 6}, {2, 3, 5}
    inside = torch.tensor([c in animals for c in range(7)])[targets]
    f[..., 0] += 4 * inside[:, None]
    f[..., 1] -= 4 * inside[:, None]
    expected = squared_correlation(f, inside)
    both = {"animals": animals, "vehicles": vehicles}
    up, down = labels_of(f, targets, groups=both)[:2]
    assert up.concept == down.concept == "animals/vehicles"
    assert up.concepts["animals/vehicles"] == pytest.approx(expected[0])
    assert down.concepts["animals/vehicles"] == pytest.approx(expected[1])
    assert "vehicles/animals" not in up.concepts
    assert up.text.startswith(f"{expected[0]:.0%} animals > vehicles | ")
    assert down.text.startswith(f"{expected[1]:.0%} vehicles > animals | ")
    # One group is divided from the rest, which has no name.
    (alone, *_) = labels_of(f, targets, groups={"animals": animals})
    assert alone.concepts["animals"] == pytest.approx(expected[0])
    assert alone.text.startswith(f"{expected[0]:.0%} animals > ")
    # A class that is a group as well keeps its name.
    labels = labels_of(f, targets, groups={"bird": {5}})
    assert not any("bird" in str(label) for label in labels)
    # A group of which there is nothing else, or nothing at all, divides nothing.
    seen = inside.nonzero()[:, 0]
    (partial, *_) = labels_of(f[seen], targets[seen], groups=both)
    assert not {"animals", "vehicles", "animals/vehicles"} & set(partial.concepts)


def test_two_classes_are_one_division():
    f, targets = drawn(seeded(2), 30, 1, 1, 2)
    (label,) = labels_of(f, targets)
    expected = squared_correlation(f, targets == 0)[0]
    assert label.concepts == {"cat/dog": pytest.approx(expected)}


def test_classes_without_images_take_no_part():
    generator = seeded(3)
    f, targets = drawn(generator, 60, 2, 3, 3)
    targets = torch.tensor([1, 4, 6])[targets]
    separation = Separation(respond(f, targets))
    assert separation.present == [1, 4, 6]
    naive = [squared_correlation(f, targets == c) for c in (1, 4, 6)]
    np.testing.assert_allclose(separation.divided(torch.eye(3).bool()), naive, atol=1e-12)
    for label in labels_of(f, targets):
        assert set(label.concepts) <= {"dog", "frog", "deer"}
        _, split = label.text.split(" | ")[0].split(" ", 1)
        assert sorted(split.replace(" > ", ", ").split(", ")) == ["deer", "dog", "frog"]
    # What a group has in common with them counts.
    groups = {"animals": {0, 1, 4}, "vehicles": {2, 3}}
    for label, share in zip(labels_of(f, targets, groups=groups), naive[2], strict=True):
        assert "vehicles" not in str(label)
        assert label.concepts.get("deer/animals", 0.0) == pytest.approx(share, abs=LEAST)
    assert max(naive[2]) > 2 * LEAST
    # One class alone: there is nothing to tell apart.
    (label, *_) = labels_of(f, torch.full_like(targets, 4))
    assert label.concepts == {}
    assert label.text.startswith(("+ frog", "− frog"))


@pytest.mark.parametrize("offset", [1e6, -1e6])
def test_an_offset_takes_no_accuracy(offset):
    f, targets = drawn(seeded(4), 500, 4, 3, 5)
    f *= 0.1
    plain, moved = (Separation(respond(x, targets, 50)) for x in (f, f + offset))
    inside = torch.eye(5).bool()
    np.testing.assert_allclose(moved.divided(inside), plain.divided(inside), atol=1e-8)
    np.testing.assert_allclose(moved.split()[2], plain.split()[2], atol=1e-8)
    assert not moved.constant.any()
    texts = [label.text for label in labels_of(f, targets)]
    assert [label.text for label in labels_of(f + offset, targets)] == texts


# Images


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    images=st.integers(1, 30),
    positions=st.integers(1, 6),
    features=st.integers(1, 4),
    levels=st.sampled_from([3, 10_000]),
    size=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_extremes_are_those_of_sorting(images, positions, features, levels, size, seed):
    """With few levels there are ties: the first image, and in it the first position, has them."""
    generator = seeded(seed)
    f = torch.randint(levels, (images, positions, features), generator=generator).double()
    targets = torch.randint(7, (images,), generator=generator)
    responses = respond(f, targets, size)
    for sign, signed in enumerate((f, -f)):
        for j in range(features):
            values, where = signed[..., j].max(1)
            order = sorted(range(images), key=lambda i: -float(values[i]))[:EXAMPLES]
            assert responses.extremes[sign, :, j].tolist() == values[order].tolist()
            assert responses.places[0, sign, :, j].tolist() == order
            assert responses.places[1, sign, :, j].tolist() == targets[order].tolist()
            assert responses.places[2, sign, :, j].tolist() == where[order].tolist()


def test_pixels_have_rows_and_columns():
    f = torch.zeros(5, 12, 1)
    f[1, 7], f[3, 4], f[3, 11], f[2, 9] = 3.0, 2.0, 1.0, -5.0
    targets = torch.tensor([0, 1, 2, 3, 4])
    (label,) = labels_of(f, targets, grids={"layer": (3, 4)})
    # Two pixels of one image are one entry; the stronger sign comes first.
    assert label.text.split(" | ")[-2:] == [
        "− car 2 (2,1), cat 0 (0,0), dog 1 (0,0)",
        "+ dog 1 (1,3), ship 3 (1,0), cat 0 (0,0)",
    ]
    (flat,) = labels_of(f[:, 7:8], targets)
    assert flat.text.split(" | ")[1] == "+ dog 1, cat 0, car 2"
    assert labels_of(f[:, 7:8], targets, grids={"layer": (1, 1)}) == [flat]
    # Positions that are no pixels have no name.
    (unnamed,) = labels_of(f, targets)
    assert unnamed.text.split(" | ")[-2:] == ["− car 2, cat 0, dog 1", "+ dog 1, ship 3, cat 0"]


def test_the_stronger_sign_is_strong_about_the_mean():
    f = torch.tensor([10.0, 10.0, 10.0, 9.0, 12.0])[:, None, None]
    targets = torch.zeros(5, dtype=torch.int64)
    assert labels_of(f, targets)[0].text.startswith("+ cat 4")
    assert labels_of(-f, targets)[0].text.startswith("− cat 4")
    assert labels_of(f - 2 * f.mean(), targets)[0].text.startswith("+ cat 4")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_do_not_matter(dtype):
    f, targets = drawn(seeded(5), 90, 6, 5, 7, offset=3.0)
    f, grids = f.to(dtype), {"layer": (2, 3)}
    at_once = labels_of(f, targets, size=90, grids=grids)
    for size in (1, 7, 64):
        for a, b in zip(labels_of(f, targets, size=size, grids=grids), at_once, strict=True):
            assert a.text == b.text
            assert a.concepts == pytest.approx(b.concepts, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_that_do_not_vary(dtype):
    f, targets = drawn(seeded(6), 50, 2, 5, 4)
    f[..., 0], f[..., 1], f[..., 2], f[..., 3] = 1.0, 2.0, 0.1, 0.0
    f = f.to(dtype)
    # Rounding is not variance.
    f[::2, :, 2] *= 1 + torch.finfo(dtype).eps
    labels = labels_of(f, targets, size=13, isolated=2)
    assert [label.text for label in labels[:2]] == ["constant", "variance of the norm"]
    assert [label.text for label in labels[2:4]] == ["no variance"] * 2
    assert all(label.concepts == {} for label in labels[:4])
    assert labels[4].concepts
    # Single precision tells as little as this from a constant.
    small = 1 + 1e-4 * f[..., 4:]
    assert labels_of(small, targets)[0].concepts == pytest.approx(labels[4].concepts, rel=0.01)


def test_a_grid_that_does_not_fit_is_named():
    f, targets = drawn(seeded(7), 10, 6, 1, 2)
    with pytest.raises(ValueError, match="'layer' has 6 positions, not 2×2"):
        labels_of(f, targets, grids={"layer": (2, 2)})


# A network


class Digits(MLP):
    def labels(self, encode, bases):
        classes = [str(digit) for digit in range(10)]
        return image_labels(self.batches("train", 200), encode, bases, classes=classes)


def test_digits_are_labelled():
    model = Digits(MLPOptions(task="digits"))
    check_backend(model)
    run = lg.analyze(model, ablate=False)
    layers = {layer.name: layer for layer in run.graph().layers}
    inputs, targets = model._splits["train"]
    network, basis = model.network(), run.bases("lib")["hidden2"]
    index = [layer.name for layer in network.node_layers].index("hidden2")
    f = network.double().activations_at(index, inputs.double()) @ basis.encoder
    labels = layers["hidden2"].labels
    assert labels[0].text == "constant"
    for j in range(1, 5):
        image = int(f[:, 0, j].argmax())
        assert f"+ {int(targets[image])} {image}, " in labels[j].text
        for name, share in labels[j].concepts.items():
            expected = squared_correlation(f[..., j : j + 1], targets == int(name))[0]
            assert share == pytest.approx(expected)
