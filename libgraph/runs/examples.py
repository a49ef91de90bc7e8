"""Examples of what features respond to: once per run, in `examples.safetensors`.

Of some samples of the train split, for every feature of every rotated node layer of the main basis:
those that drive it most up and most down, and a few that are the same for all features. With them
is kept what the same pass over the data shows: means at the positions, the share of the variance
that these have, and which outputs a feature moves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from libgraph.files.tensors import read_tensors, write_tensors

Kind = Literal["up", "down", "ordinary"]

STRONGEST, ORDINARY = 4, 3
"""Samples that drive a feature most, in each direction, and samples that were not chosen."""

_COUNTS: tuple[tuple[Kind, int], ...] = (
    ("up", STRONGEST),
    ("down", STRONGEST),
    ("ordinary", ORDINARY),
)

KINDS: tuple[Kind, ...] = tuple(kind for kind, count in _COUNTS for _ in range(count))
"""What the examples of a feature are, in order."""

WINDOW, BEFORE = 24, 15
"""Positions shown around an example at most, and how many of them come before it."""

EFFECTS = 3
"""Outputs that a feature moves most, in each direction."""

TENSORS = ("samples", "positions", "values", "starts", "windows")
EXTRA = ("means", "deviations", "position_share", "deviation", "outputs", "effects")


@dataclass(frozen=True)
class LayerExamples:
    """Examples of the features of one node layer: k features, e examples, w positions shown.

    Args:
        samples: Which sample of the file each is `(k, e)`.
        positions: Where in it the feature is strongest `(k, e)`.
        values: Of the feature there `(k, e)`.
        starts: First position of the window `(k, e)`.
        windows: Values of the feature in it `(k, e, w)`.
        deviation: Standard deviation of each feature, over samples and positions `(k)`.
        position_share: Share of the variance that the means at the positions have `(k)`, corrected
            for chance; absent where there is one position.
        means: Of each feature at each position `(s, k)`; absent where there are many, or one.
        deviations: Likewise.
        outputs: Numbers of the outputs that a feature moves most up, then most down `(k, o)`;
            absent where outputs have features of their own.
        effects: Change of these by one standard deviation of the feature, to first order, in the
            mean over samples, summed over positions `(k, o)`.
    """

    samples: Int[Tensor, "k e"]
    positions: Int[Tensor, "k e"]
    values: Float[Tensor, "k e"]
    starts: Int[Tensor, "k e"]
    windows: Float[Tensor, "k e w"]
    deviation: Float[Tensor, " k"]
    position_share: Float[Tensor, " k"] | None = None
    means: Float[Tensor, "s k"] | None = None
    deviations: Float[Tensor, "s k"] | None = None
    outputs: Int[Tensor, "k o"] | None = None
    effects: Float[Tensor, "k o"] | None = None


@dataclass(frozen=True)
class Examples:
    """Examples of all features of a run.

    Args:
        pool: How many samples were looked at.
        numbers: Of the samples that are shown, in the train split.
        lengths: Positions of each node layer.
        layers: By name.
        texts: Of the samples, position by position; empty where they are no texts.
        pictures: Of the samples, red, green and blue `(n, h, w, 3)`; absent where they are none.
    """

    pool: int
    numbers: tuple[int, ...]
    lengths: Mapping[str, int]
    layers: Mapping[str, LayerExamples]
    texts: tuple[tuple[str, ...], ...] = ()
    pictures: UInt8[Tensor, "n h w 3"] | None = field(default=None)


class Example(NamedTuple):
    """A sample, and what a feature makes of it.

    Attributes:
        kind: `up` or `down` for those that drive it most, `ordinary` for others.
        sample: Number in the train split.
        position: Where the feature is strongest.
        value: Of the feature there.
        texts: Around the position, or of the whole sample where there is one position.
        values: Of the feature at each of these.
        at: Which of these it is.
        picture: Red, green and blue `(h, w, 3)`, if samples are pictures.
        place: Left, top, width and height of the position in it, as shares; None for all of it.
    """

    kind: Kind
    sample: int
    position: int
    value: float
    texts: tuple[str, ...]
    values: tuple[float, ...]
    at: int
    picture: NDArray[np.uint8] | None
    place: tuple[float, float, float, float] | None

    def __str__(self) -> str:
        """The text with its position in brackets, or the number of the sample."""
        sign = {"up": "+", "down": "−", "ordinary": "·"}[self.kind]
        return f"{sign} {self.value:.3g}  {shown_text(self)}"


def shown_text(example: Example) -> str:
    """The text of an example in one line; where there is none, its number and position."""
    if not example.texts:
        where = "" if example.place is None else f", position {example.position}"
        return f"sample {example.sample}{where}"
    if len(example.texts) == 1:
        return example.texts[0]
    parts = [
        f"[{text}]" if place == example.at else text for place, text in enumerate(example.texts)
    ]
    return "".join(parts)


def examples_of(examples: Examples, layer: str, feature: int) -> list[Example]:
    """Examples of one feature, most extreme first; none for a node layer without."""
    if layer not in examples.layers:
        return []
    stored = examples.layers[layer]
    length = examples.lengths[layer]
    found = []
    for e in range(stored.samples.shape[1]):
        sample, position = int(stored.samples[feature, e]), int(stored.positions[feature, e])
        start = int(stored.starts[feature, e])
        values = [float(v) for v in stored.windows[feature, e]]
        texts: tuple[str, ...] = ()
        if examples.texts:
            texts, values, at = _texts(examples.texts[sample], length, start, values, position)
        else:
            at = position - start
        picture = None if examples.pictures is None else examples.pictures[sample].numpy()
        found.append(
            Example(
                KINDS[e] if stored.samples.shape[1] == len(KINDS) else "up",
                examples.numbers[sample],
                position,
                float(stored.values[feature, e]),
                texts,
                tuple(values),
                at,
                picture,
                None if picture is None else _place(picture, length, position),
            )
        )
    return found


def _texts(
    texts: Sequence[str], length: int, start: int, values: list[float], position: int
) -> tuple[tuple[str, ...], list[float], int]:
    """Texts and values around a position; a node layer of fewer positions has the last ones."""
    offset = max(len(texts) - length, 0)
    if len(texts) <= WINDOW:
        padded = [0.0] * (offset + start) + values
        padded += [0.0] * (len(texts) - len(padded))
        return tuple(texts), padded[: len(texts)], min(offset + position, len(texts) - 1)
    first = offset + start
    return tuple(texts[first : first + len(values)]), values, position - start


def _place(
    picture: NDArray[np.uint8], positions: int, position: int
) -> tuple[float, float, float, float] | None:
    """Where one of so many positions lies in a picture, if they are a grid of its proportions."""
    height, width, _ = picture.shape
    rows = round((positions * height / width) ** 0.5)
    if positions == 1 or rows == 0 or positions * height != rows * rows * width:
        return None
    columns = positions // rows
    row, column = divmod(position, columns)
    return column / columns, row / rows, 1 / columns, 1 / rows


def save_examples(path: Path, examples: Examples) -> None:
    """Write examples as safetensors; texts are in it as JSON in UTF-8."""
    tensors: dict[str, Tensor] = {
        "pool": torch.tensor([examples.pool]),
        "numbers": torch.tensor(examples.numbers, dtype=torch.int64),
    }
    for name, layer in examples.layers.items():
        tensors[f"{name}/length"] = torch.tensor([examples.lengths[name]])
        for part in (*TENSORS, *EXTRA):
            tensor = getattr(layer, part)
            if tensor is not None:
                tensors[f"{name}/{part}"] = tensor
    if examples.texts:
        text = json.dumps(examples.texts, separators=(",", ":")).encode("ascii")
        tensors["texts"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    if examples.pictures is not None:
        tensors["pictures"] = examples.pictures
    write_tensors(path, tensors)


def load_examples(path: Path) -> Examples:
    """Read what `save_examples` wrote.

    Raises:
        UsageError: if the file is missing or damaged.
        KeyError: if something is missing in it.
    """
    tensors = read_tensors(path)
    names = [name.removesuffix("/length") for name in tensors if name.endswith("/length")]
    layers = {
        name: LayerExamples(
            **{part: tensors[f"{name}/{part}"] for part in TENSORS},
            **{part: tensors[f"{name}/{part}"] for part in EXTRA if f"{name}/{part}" in tensors},
        )
        for name in names
    }
    texts = json.loads(bytes(tensors["texts"].numpy())) if "texts" in tensors else []
    return Examples(
        int(tensors["pool"]),
        tuple(tensors["numbers"].tolist()),
        {name: int(tensors[f"{name}/length"]) for name in names},
        layers,
        tuple(tuple(text) for text in texts),
        tensors.get("pictures"),
    )
