"""Activations of the node layers from last to first, without running the network anew for each.

LIB goes backwards through the network and passes over all data at every node layer. On the way to
a node layer as many of those before it as memory allows are kept, evenly spaced, and later passes
start from the nearest one: one forward pass in all where everything fits, and a few sections a pass
where only some do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor

from libgraph.accumulate.memory import memory_budget
from libgraph.accumulate.ranks import ranks
from libgraph.backend.contract import Batch
from libgraph.backend.data import Data
from libgraph.network.network import Network


class Checkpoints:
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
        self.kept: dict[int, dict[int, Tensor]] = {}

    def at(self, index: int) -> Pass:
        """The batches' activations at node layer `index`; higher ones are given up."""
        return Pass(self, index)

    def activations(self, number: int, batch: Batch, index: int) -> Tensor:
        """Of one batch at node layer `index`, from the nearest node layer that is kept."""
        kept = self.kept.setdefault(number, {})
        for above in [each for each in kept if each > index]:
            del kept[above]
        start = max(kept, default=0)
        x: Tensor = kept[start] if kept else self.network.embed(batch.inputs)
        room = self.room - sum(each.numel() * each.element_size() for each in kept.values())
        chosen = self._evenly(x, start + 1 if kept else start, index, room)
        if start in chosen:
            kept[start] = x
        for i in range(start, index):
            x = self.network.sections[i](x)
            if i + 1 in chosen:
                kept[i + 1] = x
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


class Pass:
    """One pass over the data: for each batch a function that computes its activations.

    The functions are called only by the rank whose turn it is.
    """

    def __init__(self, checkpoints: Checkpoints, index: int) -> None:
        self.checkpoints, self.index = checkpoints, index

    def __len__(self) -> int:
        return len(self.checkpoints.data)

    def __iter__(self) -> Iterator[Callable[[], Tensor]]:
        for number, batch in enumerate(self.checkpoints.data):
            yield partial(self.checkpoints.activations, number, batch, self.index)
