"""The pairs, their split, the score, and weights and options that come in."""

import pytest
import torch
from helpers.modular_addition import small_weights
from helpers.numbers import seeded

from libgraph import load_backend
from libgraph.errors import UsageError
from libgraph_backends.modular_addition.backend import ModularAddition
from libgraph_backends.modular_addition.data import all_pairs
from libgraph_backends.modular_addition.network import PARAMETERS
from libgraph_backends.modular_addition.options import ModularAdditionOptions


def small(**options):
    return ModularAddition(ModularAdditionOptions(**options), weights=small_weights())


@pytest.mark.parametrize("frac_train", [0.3, 0.77])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_split_is_as_documented(frac_train, seed):
    backend = small(frac_train=frac_train, split_seed=seed)
    pairs = [(x, y, 7) for x in range(7) for y in range(7)]
    order = torch.randperm(49, generator=seeded(seed)).tolist()
    count = int(frac_train * 49)
    for split, chosen in (("train", order[:count]), ("test", order[count:])):
        batches = list(backend.batches(split, 10))
        inputs = torch.cat([batch.inputs for batch in batches])
        targets = torch.cat([batch.targets for batch in batches])
        assert [tuple(row) for row in inputs.tolist()] == [pairs[i] for i in chosen]
        assert targets.tolist() == [sum(pairs[i][:2]) % 7 for i in chosen]
        assert backend.samples(split) == len(chosen)
        assert all(len(batch.inputs) <= 10 for batch in batches)


def test_pairs_are_row_major():
    pairs = all_pairs(5)
    assert pairs.shape == (25, 3)
    assert pairs[7].tolist() == [1, 2, 5]


def test_the_score_is_one_where_the_largest_logit_is_the_sum():
    outputs = torch.tensor([[[0.0, 2.0, 1.0]], [[5.0, 2.0, 1.0]]])
    assert small().score(outputs, torch.tensor([1, 2])).tolist() == [1, 0]


def test_weights_are_read_from_either_format(tmp_path):
    weights, path = small_weights(), tmp_path / "model.pt"
    torch.save(weights, path)
    backend = load_backend("modular-addition", weights=str(path))
    assert backend.modulus == 7
    assert all(torch.equal(backend.weights[name], weights[name]) for name in PARAMETERS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frac_train": "0"}, "'frac_train'"),
        ({"frac_train": "1"}, "'frac_train'"),
        ({"split_seed": "-1"}, "'split_seed'"),
        ({"split_seed": "one"}, "'split_seed'.*'one'"),
        ({"fraction": "0.3"}, "no option 'fraction'.*'frac_train'"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(UsageError, match=said):
        load_backend("modular-addition", **options)


def test_options_are_read_from_strings():
    backend = load_backend("modular-addition", frac_train="0.5", split_seed="3")
    assert (backend.options.frac_train, backend.options.split_seed) == (0.5, 3)
    assert ModularAdditionOptions().frac_train == 0.3
