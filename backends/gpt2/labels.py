"""What the features of a language model respond to, and what they do to its output.

For every feature: the tokens in their context that drive it most, up and down; which tokens, or
whether the position alone, carry its variance; and the tokens that its direction in the residual
stream makes more and less likely. One pass over some sequences, with sums and a few extremes kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend.contract import Encode
from libgraph.graph.features import FeatureLabel
from libgraph.network.basis import Bases, Basis

EXAMPLES = 3
"""Contexts shown for each sign, tokens for each effect, tokens named as concepts."""


POSITIONAL = 0.5
"""Share of a feature's variance above which it is called positional."""


CONTEXT = 12
"""Characters of context before a token."""


@dataclass
class Responses:
    """Sums over tokens for the features of one node layer: k features, T positions, u tokens.

    Args:
        extremes: largest values `(2, EXAMPLES, k)` of the feature and of its negative.
        places: where they are, as `sequence · T + position`.
        shift: what is taken from f before it is squared, about its mean `(k,)`.
        by_position: Σ f and Σ f² at each position `(2, T, k)`, shifted.
        by_token: Σ f² at each token that occurs `(u, k)`, shifted.
    """

    extremes: Float[Tensor, "2 examples k"]
    places: Int[Tensor, "2 examples k"]
    shift: Float[Tensor, " k"]
    by_position: Float[Tensor, "2 T k"]
    by_token: Float[Tensor, "u k"]

    @classmethod
    def beginning(cls, f: Float[Tensor, "n T k"], tokens: int) -> Responses:
        """Before any token; the mean of these features is what all are shifted by."""
        features, positions = f.shape[-1], f.shape[1]
        return cls(
            torch.full((2, EXAMPLES, features), -torch.inf),
            torch.zeros(2, EXAMPLES, features, dtype=torch.int64),
            f.cpu().double().mean((0, 1)),
            torch.zeros(2, positions, features, dtype=torch.float64),
            torch.zeros(tokens, features),
        )

    def add(self, f: Float[Tensor, "n T k"], tokens: Int[Tensor, "n T"], first: int) -> None:
        """Take in some sequences; `tokens` counts those that occur, `first` is the sequence's."""
        f = f.cpu().double()
        shifted = f - self.shift
        self.by_position += torch.stack([shifted.sum(0), shifted.square().sum(0)])
        self.by_token.index_add_(0, tokens.flatten(), shifted.flatten(0, 1).square().float())
        flat = f.flatten(0, 1).float()
        count = min(EXAMPLES, len(flat))
        for sign, signed in enumerate((flat, -flat)):
            values, places = signed.topk(count, dim=0)
            values = torch.cat([self.extremes[sign], values])
            places = torch.cat([self.places[sign], places + first * f.shape[1]])
            self.extremes[sign], order = values.topk(EXAMPLES, dim=0)
            self.places[sign] = places.gather(0, order)

    def positional(self, sequences: int) -> Float[Tensor, " k"]:
        """Share of the variance that the position explains, corrected for chance (adjusted R²)."""
        total, squares = self.by_position.sum(1)
        positions = self.by_position.shape[1]
        count = sequences * positions
        variance = squares - total.square() / count
        between = self.by_position[0].square().sum(0) / sequences - total.square() / count
        if sequences < 2:
            return torch.zeros_like(variance)
        # A feature that does not vary is no matter of position.
        variance[variance <= 1e-12 * (squares + count * self.shift.square())] = torch.inf
        within = (variance - between).clamp(min=0)
        unexplained = (
            torch.nan_to_num(within / variance, nan=1.0) * (count - 1) / (count - positions)
        )
        explained: Tensor = 1 - unexplained
        return explained.clamp(0, 1)


def token_labels(
    tokens: Int[Tensor, "n T"],
    encode: Encode,
    bases: Bases,
    *,
    name: Callable[[int], str],
    effect: Callable[[Tensor], tuple[Tensor, Tensor]],
    batch_size: int,
) -> dict[str, list[FeatureLabel]]:
    """A label for each feature of each rotated node layer.

    Args:
        tokens: sequences to look at.
        encode: tokens to features by node layer.
        bases: of the node layers; decoders say what features are in the residual stream.
        name: the text of a token.
        effect: for a decoder `(k, d)` the tokens `(k, examples)` that each of its directions makes
            most likely, and least.
        batch_size: sequences encoded at a time.
    """
    known, index = tokens.unique(return_inverse=True)
    responses: dict[str, Responses] = {}
    for first in range(0, len(tokens), batch_size):
        part = slice(first, first + batch_size)
        for layer, f in encode(tokens[part]).items():
            if layer not in responses:
                responses[layer] = Responses.beginning(f, len(known))
            responses[layer].add(f, index[part], first)
    names = [name(int(token)) for token in known]
    texts = [[names[i] for i in row] for row in index.tolist()]
    return {
        layer: _labels(found, bases[layer], texts, names, effect(bases[layer].decoder), name)
        for layer, found in responses.items()
    }


def _labels(
    found: Responses,
    basis: Basis,
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    effects: tuple[Tensor, Tensor],
    name: Callable[[int], str],
) -> list[FeatureLabel]:
    positional = found.positional(len(texts)).tolist()
    share = found.by_token / found.by_token.sum(0).clamp(min=1e-30)
    shares, strongest = share.topk(min(EXAMPLES, len(share)), dim=0)
    labels = []
    for j in range(share.shape[1]):
        if j < basis.isolated:
            labels.append(FeatureLabel("constant" if j == 0 else "variance of the norm"))
            continue
        signs = sorted((0, 1), key=lambda sign: -float(found.extremes[sign, 0, j]))
        parts = [
            ("+ " if sign == 0 else "− ")
            + ", ".join(
                _context(texts, int(place))
                for place, value in zip(
                    found.places[sign, :, j], found.extremes[sign, :, j], strict=True
                )
                if value > -torch.inf
            )
            for sign in signs
        ]
        concepts: dict[str, float] = {}
        for s, i in zip(shares[:, j], strongest[:, j], strict=True):
            # Tokens that look alike count together.
            text = _alone(names[int(i)])
            concepts[text] = concepts.get(text, 0.0) + float(s)
        if positional[j] >= POSITIONAL:
            concepts = {"position": positional[j]}
        first = max(concepts, key=concepts.__getitem__)
        parts.insert(0, f"{concepts[first]:.0%} {first}")
        up, down = (" ".join(_alone(name(int(i))) for i in tokens[j]) for tokens in effects)
        parts.append(f"logits + {up}, − {down}")
        labels.append(FeatureLabel(" | ".join(parts), concepts))
    return labels


def _alone(name: str) -> str:
    """The text of a token that stands by itself: spaces become visible."""
    return name.replace(" ", "␣")


def _context(texts: Sequence[Sequence[str]], place: int) -> str:
    """A token in brackets after what comes before it."""
    sequence, position = divmod(place, len(texts[0]))
    before = "".join(texts[sequence][:position])[-CONTEXT:]
    return f"{before}[{texts[sequence][position]}]"
