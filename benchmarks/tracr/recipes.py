"""The programs that `compile.py` compiles, and the inputs that it keeps of them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from tracr.compiler import lib
from tracr.rasp import rasp

SEQUENCES = 16
"""Inputs kept of every length; fewer where there are not so many."""
TRIED = 400
"""Sequences of a length from which they are chosen."""


@dataclass(frozen=True)
class Recipe:
    """A program, the tokens that it takes and how long its inputs may be.

    Args:
        make: makes the program.
        tokens: the vocabulary.
        longest: positions, that of the beginning of the sequence not counted.
        says: what it computes.
        distinct: whether tokens of an input must differ.
    """

    make: Callable[[], Any]
    tokens: tuple[Any, ...]
    longest: int
    says: str
    distinct: bool = False


LETTERS = ("a", "b", "c")
RECIPES = {
    "length": Recipe(lib.make_length, LETTERS, 5, "how long the input is"),
    "reverse": Recipe(
        lambda: lib.make_reverse(rasp.tokens), LETTERS, 5, "the input from its end to its beginning"
    ),
    "hist": Recipe(lib.make_hist, LETTERS, 5, "how often each token stands in the input"),
    "sort_unique": Recipe(
        lambda: lib.make_sort_unique(rasp.tokens, rasp.tokens),
        (1, 2, 3, 4, 5),
        5,
        "different tokens in ascending order",
        distinct=True,
    ),
    "sort": Recipe(
        lambda: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1),
        (1, 2, 3, 4),
        4,
        "tokens in ascending order",
    ),
    "sort_freq": Recipe(
        lambda: lib.make_sort_freq(4), LETTERS, 4, "tokens by how often they stand in the input"
    ),
    "frac_prevs": Recipe(
        lambda: lib.make_frac_prevs((rasp.tokens == "x").named("is_x")),
        ("w", "x", "y"),
        6,
        "which share of the tokens so far is x",
    ),
    "pair_balance": Recipe(
        lambda: lib.make_pair_balance(rasp.tokens, "(", ")"),
        ("(", ")", "a"),
        5,
        "share of ( minus share of ) so far",
    ),
    "shuffle_dyck": Recipe(
        lambda: lib.make_shuffle_dyck(["()"]), ("(", ")"), 6, "whether parentheses are balanced"
    ),
    "shuffle_dyck2": Recipe(
        lib.make_shuffle_dyck2, ("(", ")", "{", "}"), 4, "whether two kinds of them are balanced"
    ),
    "detect_pattern": Recipe(
        lambda: lib.detect_pattern(rasp.tokens, "ab"), LETTERS, 5, "whether ab ends here"
    ),
    "count_less_freq": Recipe(
        lambda: lib.make_count_less_freq(2), LETTERS, 5, "how many tokens stand there twice at most"
    ),
    "count": Recipe(
        lambda: lib.make_count(rasp.tokens, "a"), LETTERS, 5, "how often a stands in the input"
    ),
    "shift": Recipe(
        lambda: lib.shift_by(2, rasp.tokens).named("shift"), LETTERS, 5, "the token two back"
    ),
}


def plain(value: Any) -> Any:
    """A value of a program as JSON holds it."""
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def sequences(recipe: Recipe, length: int, chance: random.Random) -> list[tuple[Any, ...]]:
    """Up to `TRIED` different inputs of a length, in random order."""
    if recipe.distinct:
        every = list(itertools.permutations(recipe.tokens, length))
    elif len(recipe.tokens) ** length <= TRIED:
        every = list(itertools.product(recipe.tokens, repeat=length))
    else:
        drawn = {tuple(chance.choices(recipe.tokens, k=length)) for _ in range(TRIED)}
        every = sorted(drawn)
    chance.shuffle(every)
    return every[:TRIED]


def examples(recipe: Recipe, program: Any, chance: random.Random) -> Iterator[tuple[Any, Any]]:
    """Inputs and outputs of all lengths from 2 on, outputs as unlike each other as can be."""
    for length in range(2, recipe.longest + 1):
        by_output: dict[str, list[tuple[Any, Any]]] = {}
        for tokens in sequences(recipe, length, chance):
            outputs = [plain(value) for value in program(list(tokens))]
            by_output.setdefault(json.dumps(outputs), []).append((list(tokens), outputs))
        turns = itertools.zip_longest(*by_output.values())
        chosen = [pair for turn in turns for pair in turn if pair is not None]
        yield from sorted(chosen[:SEQUENCES], key=lambda pair: str(pair[0]))
