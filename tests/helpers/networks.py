"""Small random networks, and backends of tensors in memory."""

from copy import deepcopy

from torch import Tensor, nn

from helpers.numbers import normal, seeded
from helpers.sections import AppendOne, random_section
from libgraph.backend.contract import Backend, Batch
from libgraph.backend.data import Data
from libgraph.network.network import Network, NodeLayer


def random_network(
    kinds: list[str], sizes: list[int], *, seed: int = 0, rotated: bool = True
) -> Network:
    """Sections of these kinds between node layers `l0`, `l1`, … of these sizes plus a constant.

    With `rotated` off the last node layer has no constant and is not rotated, as logits are.
    """
    last = len(kinds)
    layers = [NodeLayer(f"l{i}", size + 1) for i, size in enumerate(sizes)]
    if not rotated:
        layers[last] = NodeLayer(f"l{last}", sizes[last], constant=False, rotated=False)
    sections = [
        random_section(kind, a.size, b.size, seed=100 * seed + i, width=4, constant=b.constant)
        for i, (kind, a, b) in enumerate(zip(kinds, layers, layers[1:], strict=False))
    ]
    return Network(AppendOne(), sections, layers)


class Toy(Backend):
    """Tensors in memory; by default the targets are what the network itself predicts."""

    name = "toy"

    def __init__(self, network: Network, inputs: Tensor, targets: Tensor | None = None) -> None:
        super().__init__()
        self._network, self.inputs = network, inputs
        self.targets = network(inputs)[:, -1].argmax(-1) if targets is None else targets

    def network(self) -> Network:
        return deepcopy(self._network)

    def samples(self, split):
        return len(self.inputs)

    def batches(self, split, batch_size):
        for inputs, targets in zip(
            self.inputs.split(batch_size), self.targets.split(batch_size), strict=True
        ):
            yield Batch(inputs, targets)

    def score(self, outputs, targets):
        return (outputs[:, -1].argmax(-1) == targets).to(outputs.dtype)


class ToyLoss(Toy):
    """The same, scored by cross-entropy."""

    score_name = "cross-entropy"
    higher_is_better = False

    def score(self, outputs, targets):
        return nn.functional.cross_entropy(outputs[:, -1], targets, reduction="none")


def toy_data(network: Network, inputs: Tensor, **options) -> Data:
    return Data(Toy(network, inputs), "train", **options)


def small_network(kinds=("attention", "tanh", "linear"), samples=12, positions=5):
    """A network whose last node layer is not rotated, and inputs."""
    sizes = [3, 4, 3, 4][: len(kinds) + 1]
    network = random_network(list(kinds), sizes, seed=0, rotated=False)
    return network, normal(seeded(0), samples, positions, sizes[0])
