"""What the features of a language model respond to, and what they do to its output.

For every feature: the tokens in their context that drive it most, up and down; how much of its
variance the position alone explains, and which tokens carry the rest; and the tokens that its
direction in the residual stream makes more and less likely. Two passes over some sequences, with
sums and a few extremes kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend import POSITION, Bases, Basis, Encode, FeatureLabel
from libgraph_backends.lm.head import LARGEST_LOGITS
from libgraph_backends.lm.loading import LanguageModel
from libgraph_backends.lm.text import is_word, token_text
from libgraph_backends.shared.shares import percent

EXAMPLES = 3
"""Contexts shown for each sign, tokens for each effect, tokens named as concepts."""


LEAST = 0.005
"""A smaller share of the position is not spoken of."""


CONTEXT = 12
"""Characters of context before a token."""


LABELLED_TOKENS = 8192
"""Tokens that features are labelled from."""


ENCODED_AT_ONCE = 512
"""Tokens whose features are looked at at a time."""


class Written(NamedTuple):
    """A sequence as running text, and where in it each token's own text starts and ends.

    What lies between two tokens is a space that is in neither; one before the first is left out.
    """

    text: str
    tokens: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, spaces: Sequence[str], names: Sequence[str]) -> Written:
        """From the texts of the tokens, and what is before each."""
        pairs = zip(["", *spaces[1:]], names, strict=True)
        parts = list(chain.from_iterable(pairs))
        ends = list(accumulate(map(len, parts)))
        return cls("".join(parts), list(zip(ends[::2], ends[1::2], strict=True)))

    def at(self, position: int) -> str:
        """A token in brackets after what comes before it."""
        start, end = self.tokens[position]
        return f"{self.text[max(0, start - CONTEXT) : start]}[{self.text[start:end]}]"


def text_labels(
    rows: Int[Tensor, "n T"],
    encode: Encode,
    bases: Bases,
    model: LanguageModel,
    unembed: Float[Tensor, "d_plus_1 vocabulary"],
) -> dict[str, list[FeatureLabel]]:
    """Labels of a language model's features, from the first rows of a text.

    Args:
        rows: of tokens.
        encode: tokens to features by node layer.
        bases: of the node layers.
        model: with its tokenizer.
        unembed: normalised stream and constant to logits, in single precision.
    """
    positions = rows.shape[1]
    return token_labels(
        rows[: max(2, LABELLED_TOKENS // positions)],
        encode,
        bases,
        name=partial(token_text, model.tokenizer),
        is_word=partial(is_word, model.tokenizer),
        effect=partial(
            logit_effects,
            unembed=unembed[:-1],
            centred=model.model.shape.centred,
        ),
        batch_size=max(1, ENCODED_AT_ONCE // positions),
    )


def logit_effects(
    decoder: Float[Tensor, "k d_layer"], *, unembed: Float[Tensor, "d vocabulary"], centred: bool
) -> tuple[Int[Tensor, "k examples"], Int[Tensor, "k examples"]]:
    """The tokens that directions of the residual stream make most likely, and least.

    Args:
        decoder: directions of activations, in which the stream is last but for the constant.
        unembed: normalised stream to logits.
        centred: whether the norm before it takes out the mean.
    """
    width, vocabulary = unembed.shape
    stream = decoder[:, -width - 1 : -1].cpu().float()
    if centred:
        stream = stream - stream.mean(1, keepdim=True)
    count = min(EXAMPLES, vocabulary)
    parts = stream.split(max(1, LARGEST_LOGITS // vocabulary))
    up, down = [], []
    for part in parts:
        logits = part @ unembed
        up.append(logits.topk(count).indices)
        down.append(logits.topk(count, largest=False).indices)
    return torch.cat(up), torch.cat(down)


@dataclass
class TokenResponses:
    """Sums over tokens for the features of one node layer: k features, T positions, u tokens.

    A feature's variance is that of its means at the positions, and what is left around these,
    which is shared out among the tokens where it is.

    Args:
        means: of the feature at each position `(T, k)`.
        extremes: largest values `(2, EXAMPLES, k)` of the feature and of its negative.
        places: where they are, as `sequence · T + position`.
        by_token: Σ (f − mean of its position)² at each token that occurs `(u, k)`.
    """

    means: Float[Tensor, "T k"]
    extremes: Float[Tensor, "2 examples k"]
    places: Int[Tensor, "2 examples k"]
    by_token: Float[Tensor, "u k"]

    @classmethod
    def around(cls, means: Float[Tensor, "T k"], tokens: int) -> TokenResponses:
        """Before any token of the second pass; the first gave the means."""
        features = means.shape[1]
        return cls(
            means,
            torch.full((2, EXAMPLES, features), -torch.inf),
            torch.zeros(2, EXAMPLES, features, dtype=torch.int64),
            torch.zeros(tokens, features, dtype=torch.float64),
        )

    def add(self, f: Float[Tensor, "n T k"], tokens: Int[Tensor, "n T"], first: int) -> None:
        """Take in some sequences; `tokens` counts those that occur, `first` is the sequence's."""
        f = f.cpu().double()
        self.by_token.index_add_(0, tokens.flatten(), (f - self.means).square().flatten(0, 1))
        flat = f.flatten(0, 1).float()
        count = min(EXAMPLES, len(flat))
        for sign, signed in enumerate((flat, -flat)):
            values, places = signed.topk(count, dim=0)
            values = torch.cat([self.extremes[sign], values])
            places = torch.cat([self.places[sign], places + first * f.shape[1]])
            self.extremes[sign], order = values.topk(EXAMPLES, dim=0)
            self.places[sign] = places.gather(0, order)

    def shares(self, sequences: int) -> tuple[Float[Tensor, " k"], Float[Tensor, "u k"]]:
        """Share of the variance that the position explains, and of each token in the rest.

        The first is corrected for chance (adjusted R²); all sum to 1 for a feature that varies.
        """
        positions = len(self.means)
        count, within = sequences * positions, self.by_token.sum(0)
        mean = self.means.mean(0)
        total = within + sequences * (self.means - mean).square().sum(0)
        # A feature that does not vary is no matter of position.
        varies = total > 1e-12 * (total + count * mean.square())
        if sequences < 2:
            explained = torch.zeros_like(total)
        else:
            unexplained = within / total.clamp(min=1e-300) * (count - 1) / (count - positions)
            explained = torch.where(varies, 1 - unexplained, 0).clamp(0, 1)
        rest = torch.where(varies, 1 - explained, 0) / within.clamp(min=1e-300)
        return explained, self.by_token * rest


def position_means(
    batches: Iterable[Int[Tensor, "n T"]], encode: Encode
) -> dict[str, Float[Tensor, "T k"]]:
    """Mean of every feature at each position, by node layer."""
    sums: dict[str, Tensor] = {}
    sequences = 0
    for rows in batches:
        sequences += len(rows)
        for layer, f in encode(rows).items():
            part = f.sum(0, dtype=torch.float64).cpu()
            sums[layer] = sums[layer] + part if layer in sums else part
    return {layer: total / sequences for layer, total in sums.items()}


def token_labels(
    tokens: Int[Tensor, "n T"],
    encode: Encode,
    bases: Bases,
    *,
    name: Callable[[int], str],
    is_word: Callable[[int], bool],
    effect: Callable[[Tensor], tuple[Tensor, Tensor]],
    batch_size: int,
) -> dict[str, list[FeatureLabel]]:
    """A label for each feature of each rotated node layer.

    Args:
        tokens: sequences to look at.
        encode: tokens to features by node layer.
        bases: of the node layers; decoders say what features are in the residual stream.
        name: the text of a token.
        is_word: whether a space that is in no token stands before it.
        effect: for a decoder `(k, d)` the tokens `(k, examples)` that each of its directions makes
            most likely, and least.
        batch_size: sequences encoded at a time.
    """
    occurring, index = tokens.unique(return_inverse=True)
    by_layer = {
        layer: TokenResponses.around(means, len(occurring))
        for layer, means in position_means(tokens.split(batch_size), encode).items()
    }
    for first in range(0, len(tokens), batch_size):
        part = slice(first, first + batch_size)
        for layer, f in encode(tokens[part]).items():
            by_layer[layer].add(f, index[part], first)
    # A few tokens stand for what thousands of features do.
    name = cache(name)
    names = [name(token) for token in occurring.tolist()]
    spaces = [" " * is_word(token) for token in occurring.tolist()]
    texts = [
        Written.of([spaces[i] for i in row], [names[i] for i in row]) for row in index.tolist()
    ]
    return {
        layer: _labels(responses, bases[layer], texts, names, _effects(bases[layer], effect, name))
        for layer, responses in by_layer.items()
    }


def _effects(
    basis: Basis, effect: Callable[[Tensor], tuple[Tensor, Tensor]], name: Callable[[int], str]
) -> list[str]:
    """What each feature does to the logits, in words."""
    up, down = (
        [" ".join(alone(name(token)) for token in tokens) for tokens in side.tolist()]
        for side in effect(basis.decoder)
    )
    return [f"logits + {more}, − {less}" for more, less in zip(up, down, strict=True)]


def _labels(
    responses: TokenResponses,
    basis: Basis,
    texts: Sequence[Written],
    names: Sequence[str],
    effects: Sequence[str],
) -> list[FeatureLabel]:
    explained, share = responses.shares(len(texts))
    shares, strongest = (found.T.tolist() for found in share.topk(min(EXAMPLES, len(share)), dim=0))
    extremes = (
        tensor.permute(2, 0, 1).tolist() for tensor in (responses.extremes, responses.places)
    )
    columns = zip(explained.tolist(), strongest, shares, *extremes, effects, strict=True)
    positions = len(responses.means)
    labels = []
    for j, (position, tokens, values, largest, places, does) in enumerate(columns):
        if j < basis.isolated:
            labels.append(FeatureLabel("constant" if j == 0 else "variance of the norm"))
            continue
        concepts = {POSITION: position} if position >= LEAST else {}
        for token, value in zip(tokens, values, strict=True):
            # Tokens that look alike count together.
            text = alone(names[token])
            # The word is a token too.
            text = f"'{text}'" if text == POSITION else text
            concepts[text] = concepts.get(text, 0.0) + value
        ordered = sorted(concepts, key=concepts.__getitem__, reverse=True)
        # After the position, what is within positions.
        named = ordered[: 1 + (ordered[0] == POSITION)]
        shown = [f"{percent(concepts[name])} {name}" for name in named]
        driving = _extremes(largest, places, texts, positions)
        labels.append(FeatureLabel(" | ".join([*shown, *driving, does]), concepts))
    return labels


def _extremes(
    values: Sequence[Sequence[float]],
    places: Sequence[Sequence[int]],
    texts: Sequence[Written],
    positions: int,
) -> list[str]:
    """The tokens that drive a feature most up, and down, the stronger sign first."""
    signs = sorted((0, 1), key=lambda sign: -values[sign][0])
    return [
        f"{'+−'[sign]} "
        + ", ".join(
            texts[place // positions].at(place % positions)
            for place, value in zip(places[sign], values[sign], strict=True)
            if value > -torch.inf
        )
        for sign in signs
    ]


def alone(name: str) -> str:
    """The text of a token that stands by itself: spaces become visible."""
    return name.replace(" ", "␣")
