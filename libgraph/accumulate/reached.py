"""Batches on their way through a network, so that a pass over the data has short steps.

What is summed at every node layer, or pair of them, of a large model takes long for one batch. Gone
through node layer after node layer a batch is many steps: progress moves with each, ranks share
them out, and whoever goes on after an interruption begins with the first that is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor

from libgraph.accumulate.pieces import Piece, free_memory
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.errors import is_out_of_memory
from libgraph.network.network import Network


@dataclass(frozen=True)
class Reached:
    """A batch at some node layer.

    Args:
        batch: the samples.
        index: of the node layer.
        activations: there and, of pairs, at the next one; in several networks one after the other.
        asked: what is wanted there, for whoever asks for several things in turn.
    """

    batch: Batch
    index: int
    activations: tuple[Tensor, ...]
    asked: tuple[int, ...] = ()

    @property
    def samples(self) -> int:
        """How many there are to halve."""
        return len(self.batch.inputs)

    def halves(self, middle: int) -> tuple[Reached, Reached]:
        """The samples before this one, and those from it on."""
        one, other = (
            Reached(
                Batch(self.batch.inputs[part], self.batch.targets[part]),
                self.index,
                tuple(x[part] for x in self.activations),
                self.asked,
            )
            for part in (slice(middle), slice(middle, None))
        )
        return one, other


@dataclass(frozen=True)
class AtPairs:
    """Every batch at every pair of neighbouring node layers.

    Args:
        source: the data.
        networks: of the same node layers, through all of which batches go side by side.
    """

    source: Data
    networks: Sequence[Network]

    def __len__(self) -> int:
        return len(self.source) * len(self.networks[0].sections)

    def __iter__(self) -> Iterator[Piece[Reached]]:
        ways = [_Way(network) for network in self.networks]
        for number, batch in enumerate(self.source):
            paths = [pairwise(way.activations(batch.inputs)) for way in ways]
            for index, pairs in enumerate(zip(*paths, strict=True)):
                activations = tuple(x for pair in pairs for x in pair)
                yield Piece(number, 0, Reached(batch, index, activations))


@dataclass(frozen=True)
class AtLayers:
    """Every batch at node layers where something is asked, in steps.

    Args:
        source: the data.
        network: through which batches go.
        steps: of each node layer, what is asked in one step; of some there are none.
    """

    source: Data
    network: Network
    steps: Sequence[Sequence[tuple[int, ...]]]

    def __len__(self) -> int:
        return len(self.source) * sum(map(len, self.steps))

    def __iter__(self) -> Iterator[Piece[Reached]]:
        way = _Way(self.network)
        for number, batch in enumerate(self.source):
            path = zip(way.activations(batch.inputs), self.steps, strict=True)
            for index, (x, steps) in enumerate(path):
                for asked in steps:
                    yield Piece(number, 0, Reached(batch, index, (x,), asked))


class _Way:
    """Through a network, some samples at a time where all of a batch do not fit into memory."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._most: int | None = None

    def activations(self, inputs: Tensor) -> Iterator[Tensor]:
        """As those of the network: what is halved after a step is too late for what runs before."""
        reached = 0
        while True:
            size = min(len(inputs), self._most or len(inputs))
            try:
                for x in islice(self._in_parts(inputs, size), reached, None):
                    # Counted before it is handed out: what fails there is not the way.
                    reached += 1
                    yield x
                return
            except Exception as error:
                if size < 2 or not is_out_of_memory(error):
                    raise
            self._most = size // 2 + size % 2
            free_memory()

    def _in_parts(self, inputs: Tensor, size: int) -> Iterator[Tensor]:
        parts = [self._network.activations(part) for part in inputs.split(max(1, size))]
        for found in zip(*parts, strict=True):
            yield found[0] if len(found) == 1 else torch.cat(found)
