"""Activations of the node layers from last to first, without running the network anew for each.

LIB goes backwards through the network and passes over all data at every node layer. On the way to
a node layer as many of those before it as memory allows are kept, evenly spaced, and later passes
start from the nearest one: one forward pass in all where everything fits, and a few sections a pass
where only some do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from libgraph.accumulate.memory import memory_budget
from libgraph.accumulate.ranks import ranks
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.network.network import Network


class KeptActivations:
    """Activations over all batches of some data, at falling node layers.

    Args:
        network: what is run.
        data: on which inputs; half of its memory budget is for what is kept.
    """

    def __init__(self, network: Network, data: Data) -> None:
        self.network = network
        self.data = data
        memory = data.memory if data.memory is not None else memory_budget(data.device)
        mine = -(-len(data) // ranks()[1])
        self.room = memory // 2 // max(mine, 1)
        self.by_batch: dict[int, dict[int, Tensor]] = {}

    def at(self, index: int) -> LayerPass:
        """The batches' activations at node layer `index`; higher ones are given up."""
        return LayerPass(self, index)

    def give_up(self) -> None:
        """Forget all that is kept, and keep nothing more: memory has run out."""
        self.by_batch.clear()
        self.room = 0

    def of_rows(self, batch: Batch, rows: slice, index: int) -> Tensor:
        """Of some samples of a batch at node layer `index`, from the inputs on."""
        x: Tensor = self.network.embed(batch.inputs[rows])
        for section in self.network.sections[:index]:
            x = section(x)
        return x

    def of_batch(self, number: int, batch: Batch, index: int) -> Tensor:
        """Of one batch at node layer `index`, from the nearest node layer that is kept."""
        by_layer = self.by_batch.setdefault(number, {})
        for above in [layer for layer in by_layer if layer > index]:
            del by_layer[above]
        start = max(by_layer, default=0)
        x: Tensor = by_layer[start] if by_layer else self.network.embed(batch.inputs)
        held = sum(tensor.numel() * tensor.element_size() for tensor in by_layer.values())
        first = start + 1 if by_layer else start
        chosen = self._evenly(x, first, index, self.room - held)
        if start in chosen:
            by_layer[start] = x
        for i in range(start, index):
            x = self.network.sections[i](x)
            if i + 1 in chosen:
                by_layer[i + 1] = x
        return x

    def _evenly(self, x: Tensor, first: int, index: int, room: int) -> set[int]:
        """As many node layers from `first` up to `index` as fit, at equal steps from the end."""
        sizes = [layer.size for layer in self.network.node_layers]
        # Later node layers have as many positions as this one, or fewer.
        bytes_of = x.shape[0] * x.shape[1] * x.element_size()
        for step in range(1, index - first + 2):
            chosen = range(index, first - 1, -step)
            if bytes_of * sum(sizes[i] for i in chosen) <= room:
                return set(chosen)
        return set()


@dataclass(frozen=True)
class AtLayer:
    """Computes the activations of a batch at a node layer when it is called.

    Args:
        activations: that are kept.
        index: of the node layer.
        number: of the batch.
        batch: its inputs and targets.
        rows: those of its samples that are meant; None for all.
    """

    activations: KeptActivations
    index: int
    number: int
    batch: Batch
    rows: range | None = None

    def __call__(self) -> Tensor:
        """Them."""
        if self.rows is None:
            return self.activations.of_batch(self.number, self.batch, self.index)
        rows = slice(self.rows.start, self.rows.stop)
        return self.activations.of_rows(self.batch, rows, self.index)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.batch.inputs) if self.rows is None else len(self.rows)

    def halves(self, middle: int) -> tuple[AtLayer, AtLayer]:
        """Those up to the middle, and those behind it, for which nothing is kept any longer."""
        self.activations.give_up()
        rows = range(self.samples) if self.rows is None else self.rows
        return replace(self, rows=rows[:middle]), replace(self, rows=rows[middle:])


class LayerPass:
    """One pass over the data: for each batch a function that computes activations of a node layer.

    The functions are called only by the rank whose turn it is.
    """

    def __init__(self, activations: KeptActivations, index: int) -> None:
        self.activations, self.index = activations, index

    def __len__(self) -> int:
        return len(self.activations.data)

    def __iter__(self) -> Iterator[AtLayer]:
        for number, batch in enumerate(self.activations.data):
            yield AtLayer(self.activations, self.index, number, batch)

    @property
    def source(self) -> object:
        """What the batches are of."""
        return self.activations.data
