"""Weights of every kind of section, and what inputs and gradients leave free of them."""

from copy import deepcopy

import pytest
import torch
from helpers.chance import deviations
from helpers.mlps import SHARP, mlp, random_mlp
from helpers.networks import random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import ACTIVATIONS, ATTENTIONS, FUNCTIONS, KINDS, NORMS, AppendOne
from scipy.linalg import hadamard
from torch import nn
from torch.func import functional_call, jacrev

from libgraph.accumulate import gradient_grams as gradients
from libgraph.bases.method import Truncation
from libgraph.degeneracy.weights.ranks import try_moves, weight_ranks
from libgraph.degeneracy.weights.weights import moved, watching, weights_of
from libgraph.errors import NumericalError
from libgraph.network.network import Network, NodeLayer
from libgraph.sections import Function, Linear, Pooling
from libgraph.sections.chunks import ChunkSize

UNITS = {"inner": (4, 4), "outer": (4, 2)}
GATED = {"inner": (4, 4), "gate": (4, 4), "outer": (4, 2)}
HEADS = {"query": (4, 8), "key": (4, 8), "value": (4, 8), "output": (8, 2)}
GROUPED = HEADS | {"key": (4, 4), "value": (4, 4)}


def inside(name, factors):
    return {f"{name}.{factor}": shape for factor, shape in factors.items()}


SHAPES = {
    "linear": {"matrix": (4, 2)},
    "gated": GATED,
    **dict.fromkeys(ACTIVATIONS, UNITS),
    **dict.fromkeys(ATTENTIONS, HEADS),
    "attention-grouped": GROUPED,
    **{key: {} for key in [*NORMS, "group-square", *FUNCTIONS, "rebased"]},
    "chain": inside("parts.0", {"inner": (4, 4), "outer": (4, 3)})
    | inside("parts.2", {"inner": (6, 4), "gate": (6, 4), "outer": (4, 2)}),
    "chain-mixing": inside("parts.1", HEADS | {"output": (8, 5)})
    | inside("parts.2", {"inner": (6, 4), "outer": (4, 2)}),
    "parallel": inside("branches.0", UNITS)
    | inside("branches.1", HEADS)
    | inside("branches.2", {"matrix": (4, 2)}),
    "parallel-positionwise": inside("branches.0", UNITS) | inside("branches.1", {"matrix": (4, 2)}),
    "parallel-mixing": inside("branches.0", HEADS),
    "convolution-of-3": {"inner": (12, 4), "outer": (4, 2)},
}
"""Of sections from 3 to 2 coordinates and the constant, with 4 units, or 2 heads of 4."""

WITH_WEIGHTS = [kind for kind, shapes in SHAPES.items() if shapes]


class Modules(nn.Sequential):
    """What no section knows, with weights of PyTorch's own."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))


def with_modules(module, size=2):
    layers = [NodeLayer("l0", 4), NodeLayer("l1", size, constant=False)]
    return Network(AppendOne(), [Function(module, 4, size).double()], layers)


def network_of(kind):
    return with_modules(Modules()) if kind == "modules" else random_network([kind], [3, 2], seed=2)


def inputs_of(samples=5, positions=3, size=3):
    return normal(seeded(7), samples, positions, size)


def counts(found):
    return {each.weight.name: (each.inputs.rank, each.gradients.rank, each.free) for each in found}


def ranks_of(network, inputs, truncation=SHARP, **options):
    return weight_ranks(network, toy_data(network, inputs, **options), truncation)


def called(network, tensors, inputs):
    # With ties a section that is used twice would not be put back as it was.
    return functional_call(network, tensors, (inputs,), tie_weights=False)


@torch.no_grad()
def output_change(network, inputs, changes):
    return (called(network, moved(changes), inputs) - network(inputs)).abs().max()


# What the weights are


def test_every_kind_is_known():
    assert set(SHAPES) == {*KINDS, "convolution-of-3"}


@pytest.mark.parametrize("kind", SHAPES)
def test_weights(kind):
    found = weights_of(network_of(kind))
    assert {w.name: w.shape for w in found} == {
        f"l0->l1 {name}": shape for name, shape in SHAPES[kind].items()
    }
    assert all(w.matrix.shape == w.shape and w.pair == ("l0", "l1") for w in found)


def test_weights_of_modules():
    network = network_of("modules")
    first, second = weights_of(network)
    assert [first.name, second.name] == ["l0->l1 function.0", "l0->l1 function.2"]
    module = network.sections[0].function
    assert_close(first.matrix.detach(), torch.cat([module[0].weight.T, module[0].bias[None]]))
    assert_close(second.matrix.detach(), module[2].weight.T)


def test_what_is_fixed_is_no_weight():
    first, second = mlp(random_mlp(3, 4, 2)).sections
    layers = [NodeLayer("a", 4), NodeLayer("b", 5), NodeLayer("c", 2, constant=False)]
    # No weight reads the second input, and no unit has a bias.
    first.inner[1] = first.inner[3] = 0
    found = weights_of(Network(AppendOne(), [first, second], layers))
    assert [(w.name, w.shape) for w in found] == [("a->b inner", (2, 4)), ("b->c matrix", (5, 2))]
    assert found[0].rows.tolist() == [0, 2]
    assert_close(found[0].matrix, first.inner[[0, 2]])


def test_the_last_of_outputs_without_a_constant_is_a_weight():
    matrix = random_mlp(3, 2)[0]
    matrix[:, -1] = 0
    assert [w.shape for w in weights_of(mlp([matrix]))] == [(4, 2)]


def test_what_reads_pooled_positions_is_a_weight():
    pool = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    matrix = normal(seeded(0), 4, 2)
    layers = [NodeLayer("l0", 4), NodeLayer("l1", 2, constant=False, rotated=False)]
    network = Network(AppendOne(), [Pooling(pool, matrix)], layers)
    (weight,) = weights_of(network)
    assert (weight.name, weight.shape) == ("l0->l1 matrix", (4, 2))
    seen = []
    with watching([weight], lambda weight, x, z: seen.append((x, z))):
        outputs = network(normal(seeded(1), 5, 3, 3))
    ((x, z),) = seen
    assert_close(x @ weight.matrix, outputs)
    assert_close(z, outputs)


def test_copies_are_no_weights():
    # A weight of exactly 0 and 1 that copies cannot be told from what is fixed.
    layers = [NodeLayer("a", 3, constant=False), NodeLayer("b", 3, constant=False)]
    swap = torch.eye(3).double()[[2, 0, 1]]
    for matrix, count in ((swap, 0), (2 * swap, 1), (swap + 1e-9, 1)):
        assert len(weights_of(Network(nn.Identity(), [Linear(matrix)], layers))) == count


def test_a_section_that_is_used_twice_is_one_weight():
    section = random_network(["tanh"], [3, 3], seed=1).sections[0]
    network = Network(AppendOne(), [section, section], [NodeLayer(f"l{i}", 4) for i in range(3)])
    weights = weights_of(network)
    assert [w.name for w in weights] == ["l0->l1 inner", "l0->l1 outer"]
    inputs = inputs_of(9, 1)
    for found in ranks_of(network, inputs):
        change = normal(seeded(1), *found.weight.shape)
        once = deepcopy(section)
        built = Network(AppendOne(), [once, once], network.node_layers)
        change_in_place(built, found.weight, change)
        assert_close(called(network, found.weight.moved(change), inputs), built(inputs))
        rows = []
        with watching([found.weight], lambda weight, x, z, rows=rows: rows.append(x.flatten(0, 1))):
            network(inputs)
        assert len(rows) == 2
        rows = torch.cat(rows)
        values = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).flip(0)
        assert_close(found.inputs.values, values.clamp(min=0))


# Watching and moving


@pytest.mark.parametrize("kind", [*WITH_WEIGHTS, "modules"])
def test_watching(kind):
    network, inputs = network_of(kind), inputs_of()
    weights, seen = weights_of(network), []

    def see(weight, x, z):
        seen.append(weight)
        assert_close(x @ weight.matrix, z)

    outputs = network(inputs)
    with watching(weights, see):
        assert_close(network(inputs), outputs)
    assert set(seen) == set(weights)
    assert len(seen) == len(weights)
    with watching(weights[:1], see):
        network(inputs)
    assert seen[len(weights) :] == weights[:1]
    assert torch.equal(network(inputs), outputs)
    assert len(seen) == len(weights) + 1


def change_in_place(network, weight, change):
    module = network.get_submodule(weight.path)
    with torch.no_grad():
        if isinstance(module, nn.Linear):
            module.weight += change[: module.in_features].T
            if module.bias is not None:
                module.bias += change[-1]
            return
        matrix = module.factor(weight.factor).clone()
        for i, row in enumerate(weight.rows.tolist()):
            for j, column in enumerate(weight.columns.tolist()):
                matrix[row, column] += change[i, j]
        getattr(module, weight.factor).copy_(matrix.view(getattr(module, weight.factor).shape))


@pytest.mark.parametrize("kind", [*WITH_WEIGHTS, "modules"])
def test_moved_is_the_network_with_other_weights(kind):
    network, inputs = network_of(kind), inputs_of()
    weights = weights_of(network)
    changes = {w: normal(seeded(i), *w.shape) for i, w in enumerate(weights)}
    together = deepcopy(network)
    outputs = network(inputs)
    for weight, change in changes.items():
        change_in_place(together, weight, change)
        built = deepcopy(network)
        change_in_place(built, weight, change)
        expected = built(inputs)
        assert float((expected - outputs).detach().abs().max()) > 1e-3
        assert_close(called(network, weight.moved(change), inputs), expected)
        with watching([weight], lambda weight, x, z, change=change: x @ change):
            assert_close(network(inputs), expected)
    assert_close(called(network, moved(changes), inputs), together(inputs))
    assert torch.equal(network(inputs), outputs)


@pytest.mark.parametrize("kind", ["gated", "modules"])
def test_watching_ends_with_an_error(kind):
    network, inputs = network_of(kind), inputs_of()
    weights, seen = weights_of(network), []

    def fail(weight, x, z):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), watching(weights, fail):
        network(inputs)
    network(inputs)
    # What watched before goes on to.
    with watching(weights, lambda weight, x, z: seen.append(weight)):
        if kind == "gated":
            with pytest.raises(ValueError, match="no"), watching(weights, fail):
                network(inputs)
        network(inputs)
    assert seen == weights


# Ranks


def test_planted_ranks():
    """Every count of an MLP with inputs of low rank, dead units and units that nothing reads."""
    generator = seeded(3)
    matrices = random_mlp(6, 8, 5, 2)
    for matrix in matrices:
        # Lines through the middle of the data: no unit is always on.
        matrix[-1] *= 0.1
    matrices[0][-1, :3] = -100.0  # dead
    matrices[1][-1, 4] = -1000.0  # dead as well
    matrices[1][5, :4] = 0  # what only a dead unit reads
    network = mlp(matrices)
    inputs = normal(generator, 200, 1, 2) @ normal(generator, 2, 6)
    # Inputs: two directions and the constant. Units that live: five of eight, one for nothing.
    assert counts(ranks_of(network, inputs)) == {
        "l0->l1 inner": (3, 4, 7 * 8 - 3 * 4),
        "l1->l2 inner": (5 + 1, 4, 9 * 5 - 6 * 4),
        "l2->l3 matrix": (4 + 1, 2, 6 * 2 - 5 * 2),
    }


def test_gradients_of_low_rank():
    first, middle, last = (normal(seeded(i), 4, 4) for i in range(3))
    middle = middle[:, :2] @ normal(seeded(5), 2, 4)
    layers = [NodeLayer(f"l{i}", 4, constant=False) for i in range(4)]
    sections = [Linear(each) for each in (first, middle, last)]
    network = Network(nn.Identity(), sections, layers)
    inputs = inputs_of(20, 2, 4)
    expected = {"l0->l1 matrix": (4, 2, 8), "l1->l2 matrix": (4, 4, 0), "l2->l3 matrix": (2, 4, 8)}
    assert counts(ranks_of(network, inputs)) == expected
    # A rotation between two linear layers changes nothing of it.
    turn = torch.linalg.qr(normal(seeded(6), 4, 4)).Q
    turned = [Linear(first @ turn), Linear(turn.T @ middle), Linear(last)]
    found = ranks_of(Network(nn.Identity(), turned, layers), inputs)
    assert counts(found) == expected
    for one, other in zip(ranks_of(network, inputs), found, strict=True):
        assert_close(one.inputs.values, other.inputs.values)
        assert_close(one.gradients.values, other.gradients.values)


def test_ranks_stay_under_rescaling():
    matrices = random_mlp(5, 6, 3)
    matrices[0][-1, 0] = -100.0
    inputs = normal(seeded(2), 60, 1, 3) @ normal(seeded(3), 3, 5)
    before = counts(ranks_of(mlp(matrices), inputs))
    scale = torch.logspace(-2, 2, 6).double()
    scaled = [matrices[0] * scale, matrices[1].clone()]
    scaled[1][:6] /= scale[:, None]
    assert_close(mlp(scaled)(inputs), mlp(matrices)(inputs))
    assert counts(ranks_of(mlp(scaled), inputs)) == before
    assert before["l0->l1 inner"] == (4, 5, 36 - 20)


@pytest.mark.parametrize("kind", ["relu", "gelu", "gated", "modules"])
def test_grams_of_one_position(kind):
    """Against derivatives by the entries: for x the input and g the gradient they are x ⊗ g."""
    network, inputs = network_of(kind), inputs_of(6, 1)
    for found in ranks_of(network, inputs, batch_size=4):
        weight = found.weight
        zero = torch.zeros(weight.shape).double()

        def outputs(change, sample, weight=weight):
            return called(network, weight.moved(change), sample).flatten()

        squares = torch.zeros(weight.shape * 2).double()
        for sample in inputs:
            jacobian = jacrev(outputs)(zero, sample[None]).detach()
            squares += torch.einsum("oij,okl->ijkl", jacobian, jacobian)
        # Traced over one side they are that side's Gram weighted by the other: rank and range.
        by_rows = squares.diagonal(dim1=1, dim2=3).sum(-1)
        by_columns = squares.diagonal(dim1=0, dim2=2).sum(-1)
        for side, traced in ((found.inputs, by_rows), (found.gradients, by_columns)):
            projected = side.projection @ traced @ side.projection
            assert_close(projected, traced, 1e-8)
            assert int(torch.linalg.matrix_rank(traced, hermitian=True, rtol=1e-10)) == side.rank


@pytest.mark.parametrize("kind", ["tanh", "attention", "convolution-of-3", "parallel", "modules"])
def test_grams_against_autodiff(kind):
    network, inputs = network_of(kind), inputs_of(4)
    found = {each.weight: each for each in ranks_of(network, inputs, batch_size=3)}
    assert list(found) == weights_of_names(network, found)
    for weight, each in found.items():
        inside = {}

        def remember(weight, x, z, inside=inside):
            inside["x"], inside["z"] = x, z

        with watching([weight], remember):
            network(inputs)
        x, z = inside["x"].detach().flatten(0, 1), inside["z"].detach()

        def outputs(shift, weight=weight):
            with watching([weight], lambda weight, x, z: shift):
                return network(inputs)

        jacobian = torch.autograd.functional.jacobian(outputs, torch.zeros_like(z))
        gradient = jacobian.reshape(-1, z.shape[-1])
        grams = {"inputs": x.T @ x / len(x), "gradients": gradient.T @ gradient / len(x)}
        for side, gram in grams.items():
            spectrum = getattr(each, side)
            rebuilt = spectrum.vectors * spectrum.values @ spectrum.vectors.T
            assert_close(rebuilt, gram, 1e-9)


def weights_of_names(network, found):
    names = {w.name: w for w in found}
    return [names[w.name] for w in weights_of(network)]


@pytest.mark.parametrize("positions", [1, 3])
def test_effective(positions):
    network = random_network(["gated", "linear"], [3, 4, 2], seed=1)
    for found in ranks_of(network, inputs_of(9, positions)):
        grams = (
            each.vectors * each.values @ each.vectors.T for each in (found.inputs, found.gradients)
        )
        values = torch.linalg.eigvalsh(2 * positions * torch.kron(*grams))
        epsilons = values.max() * torch.logspace(-6, 0.1, 31).double()
        expected = (values > epsilons[:, None]).sum(1)
        assert torch.equal(found.effective(epsilons, positions), expected)
    # What is exactly at ε is not above it.
    exact = 2 * float(found.inputs.values[0] * found.gradients.values[0])
    assert found.effective(torch.tensor([exact], dtype=torch.float64)).tolist() == [0]


def planted():
    matrices = random_mlp(4, 5, 2)
    matrices[0][-1, 1] = -100.0
    inputs = normal(seeded(8), 40, 1, 2) @ normal(seeded(9), 2, 4)
    return mlp(matrices), inputs


def low_rank_attention():
    network = random_network(["attention", "tanh", "linear"], [4, 3, 3, 2], seed=4)
    return network, normal(seeded(8), 6, 3, 2) @ normal(seeded(9), 2, 4)


@pytest.mark.parametrize("case", [planted, low_rank_attention])
def test_what_is_free_is_free(case):
    """Along each direction u_i v_jᵀ by itself, and along all free ones at once."""
    network, inputs = case()
    step, free, least = 1e-4, 0, torch.inf
    for found in ranks_of(network, inputs):
        rows, columns = found.weight.shape
        together = torch.zeros(rows, columns).double()
        for i in range(rows):
            for j in range(columns):
                change = torch.outer(found.inputs.vectors[:, i], found.gradients.vectors[:, j])
                is_free = i >= found.inputs.rank or j >= found.gradients.rank
                free += is_free
                moves = float(output_change(network, inputs, {found.weight: step * change}))
                if is_free:
                    together += change
                    assert moves < 1e-12
                    assert_close(found.used_part(change) + 1, torch.ones_like(change))
                else:
                    least = min(least, moves)
                    assert_close(found.used_part(change), change)
        if together.any():
            assert float(output_change(network, inputs, {found.weight: step * together})) < 1e-12
    assert free == sum(each.free for each in ranks_of(network, inputs)) > 0
    assert least > 1e-9


def test_many_outputs(monkeypatch):
    network, inputs = planted()
    exact = ranks_of(network, inputs)
    monkeypatch.setattr(gradients, "MOST_PASSES", 1)
    estimated = ranks_of(network, inputs, batch_size=7)
    assert counts(estimated) == counts(exact)
    assert any(
        not torch.allclose(a.gradients.values, b.gradients.values, rtol=1e-6)
        for a, b in zip(exact, estimated, strict=True)
    )


def test_signs_keep_the_gram(monkeypatch):
    """Four outputs, two combinations of them a time: all rows of four orthogonal ones."""
    network, inputs = random_network(["tanh", "linear"], [3, 4, 3], seed=5), inputs_of(20, 1)
    exact = ranks_of(network, inputs)
    monkeypatch.setattr(gradients, "MOST_PASSES", 2)
    found = []
    for signs in torch.from_numpy(hadamard(4)).split(2):
        monkeypatch.setattr(
            "torch.randint",
            lambda high, shape, signs=signs, **_: (signs.unsqueeze(1).expand(shape) + 1) // 2,
        )
        found.append([gram_of(each.gradients) for each in ranks_of(network, inputs)])
    for one, *grams in zip(exact, *found, strict=True):
        # The root of the number of combinations is taken in single precision.
        assert_close(torch.stack(grams).mean(0), gram_of(one.gradients), 1e-6)
        assert float((grams[0] - grams[1]).abs().max()) > 0.1


def gram_of(spectrum):
    return spectrum.vectors * spectrum.values @ spectrum.vectors.T


def test_signs_are_independent(monkeypatch):
    network, drawn, draw = random_network(["tanh", "linear"], [3, 4, 3], seed=5), [], torch.randint
    monkeypatch.setattr(gradients, "MOST_PASSES", 2)
    monkeypatch.setattr(
        "torch.randint", lambda *a, **options: (drawn.append(draw(*a, **options)), drawn[-1])[1]
    )
    ranks_of(network, inputs_of(4000, 1))
    signs = torch.cat([2.0 * flips.flatten(0, 1) - 1 for flips in drawn])
    assert signs.shape == (8000, 4)
    assert signs.abs().unique().tolist() == [1]
    # Means, and means of products of two, of so many numbers of variance 1.
    products = [*signs.T, *(signs[:, i] * signs[:, j] for i in range(4) for j in range(i))]
    means = torch.stack([product.mean() for product in products])
    assert float(means.abs().max()) < deviations(len(means)) / 8000**0.5


def test_every_batch_has_signs_of_its_own(monkeypatch):
    network, inputs = random_network(["tanh", "linear"], [3, 4, 3], seed=5), inputs_of(6, 1)
    monkeypatch.setattr(gradients, "MOST_PASSES", 1)
    one = ranks_of(network, inputs)[0].gradients.values
    twice = ranks_of(network, torch.cat([inputs, inputs]), batch_size=6)[0].gradients.values
    assert float((one - twice).abs().max()) > 1e-3


def test_batches_and_chunks_do_not_matter(monkeypatch):
    network, inputs = low_rank_attention()
    whole = ranks_of(network, inputs)
    monkeypatch.setattr(gradients, "DERIVATIVES", ChunkSize(1, 1))
    for one, other in zip(whole, ranks_of(network, inputs, batch_size=2), strict=True):
        assert_close(one.inputs.values, other.inputs.values)
        assert_close(one.gradients.values, other.gradients.values)
    assert counts(whole) == counts(ranks_of(network, inputs, batch_size=4))


def test_float32_finds_the_same_ranks():
    matrices = random_mlp(6, 8, 5)
    matrices[0][-1, :2] = -100.0
    # Gradients of rank 3 at what the last layer gives to its two linear factors.
    low = [matrices[1][:, :3].clone(), normal(seeded(4), 4, 6)]
    inputs = normal(seeded(2), 50, 1, 6)
    layers = [NodeLayer("a", 7), NodeLayer("b", 9), NodeLayer("c", 4), NodeLayer("d", 6, False)]
    sections = [mlp(matrices).sections[0], Linear(torch.cat([low[0], torch.zeros(9, 1)], 1))]
    sections[1].matrix[-1, -1] = 1
    layers[3] = NodeLayer("d", 6, constant=False)
    network = Network(AppendOne(), [*sections, Linear(low[1])], layers)
    exact = counts(ranks_of(network, inputs))
    assert exact["a->b inner"] == (7, 6, 7 * 8 - 7 * 6)
    assert exact["c->d matrix"] == (4, 6, 0)
    single = ranks_of(network.float(), inputs.float(), dtype=torch.float32)
    assert counts(single) == exact
    wide = random_mlp(6, 8, 2)
    wide[1][2:5] = torch.outer(torch.ones(3).double(), wide[1][2])
    matrix = normal(seeded(5), 3, 9)
    layers = [NodeLayer("a", 3, constant=False), NodeLayer("b", 9, False), NodeLayer("c", 2, False)]
    chained = Network(nn.Identity(), [Linear(matrix), Linear(wide[1])], layers)
    single = ranks_of(chained.float(), inputs[..., :3].float(), dtype=torch.float32)
    assert counts(single) == {"a->b matrix": (3, 2, 27 - 6), "b->c matrix": (3, 2, 18 - 6)}


def test_nothing_and_what_is_not_used():
    network = random_network(["variance"], [3, 2], seed=1)
    assert ranks_of(network, inputs_of()) == []

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    found = ranks_of(with_modules(Unused()), inputs_of())
    assert [each.weight.name for each in found] == ["l0->l1 function.used"]


def test_not_finite():
    network, inputs = planted()
    inputs[3, 0, 1] = torch.inf
    with pytest.raises(NumericalError, match="inputs of l0->l1 inner"):
        ranks_of(network, inputs)


# Trying


def test_try_moves():
    network, inputs = planted()
    found = ranks_of(network, inputs)
    data = toy_data(network, inputs, batch_size=7)
    trials = try_moves(network, data, found, step=1e-3, seed=3)
    assert list(trials) == [each.weight.name for each in found]
    scale = float(network(inputs).square().mean().sqrt())
    for number, each in enumerate(found):
        trial = trials[each.weight.name]
        assert trial.free is not None
        assert trial.free < 1e-12
        change = normal(seeded(3 + number), *each.weight.shape)
        part = each.used_part(change)
        part *= 1e-3 * each.weight.matrix.norm() / part.norm()
        expected = float(output_change(network, inputs, {each.weight: part})) / scale
        assert trial.used == pytest.approx(expected, rel=1e-6)
        assert trial.used > 1e-5
    # Ranks that are too small call directions free that are not.
    wrong = try_moves(network, data, ranks_of(network, inputs, Truncation(True, 0.1)))
    assert max(trial.free for trial in wrong.values()) > 1e-6


def test_try_moves_where_nothing_is_free_or_all_is():
    network = random_network(["linear"], [3, 2], seed=1)
    inputs = inputs_of()
    data = toy_data(network, inputs)
    (trial,) = try_moves(network, data, ranks_of(network, inputs)).values()
    assert trial.free is None
    assert trial.used > 1e-5
    dead = mlp([torch.full((4, 3), -100.0).double(), torch.ones(4, 2).double()])
    dead.sections[1].matrix[-1] = 0
    inputs = inputs.abs()
    found = ranks_of(dead, inputs)
    assert not dead(inputs).any()
    trials = try_moves(dead, toy_data(dead, inputs), found)
    assert trials["l0->l1 inner"].used == 0
    assert found[0].free == found[0].parameters


def test_ranks_that_few_samples_cannot_tell(caplog):
    layers = [NodeLayer(f"l{i}", 150, constant=False) for i in range(3)]
    sections = [Linear(normal(seeded(i), 150, 150)) for i in range(2)]
    network = Network(nn.Identity(), sections, layers)
    for samples, right in ((1, False), (2, True)):
        caplog.clear()
        found = ranks_of(network, normal(seeded(5), samples, 1, 150))[0]
        assert (found.gradients.rank == 150) is right
        assert any("use more samples" in each for each in caplog.messages) is not right
