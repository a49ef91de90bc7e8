"""A network as a chain of sections between node layers.

A node layer is a cut through the network: the activations on it determine the output. All
positions of a node layer share one set of features. The network runs forward, from its raw inputs
or from any node layer on, which is all that ablation needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libgraph.errors import BackendError, NumericalError
from libgraph.network.passage import Passage
from libgraph.sections.section import Section


@dataclass(frozen=True)
class NodeLayer:
    """One cut through a network.

    Args:
        name: for transformers the TransformerLens-like name, such as `ln1.0`.
        size: number of coordinates, the constant one included.
        constant: whether the last coordinate is the constant 1 that carries the biases.
        isolated: further coordinates that stay features of their own (a LayerNorm variance).
        rotated: False leaves the layer in its neuron basis, as is the custom for logits.
        hooks: what other tools call this place, whose activations are the coordinates that are not
            isolated: a dictionary that was trained there is matched by it.
        passage: of a part such as an MLP, if activations hold both its input and its output.
    """

    name: str
    size: int
    constant: bool = True
    isolated: tuple[int, ...] = ()
    rotated: bool = True
    hooks: tuple[str, ...] = field(default=(), repr=False, compare=False)
    passage: Passage | None = field(default=None, repr=False, compare=False)

    @property
    def isolated_coordinates(self) -> tuple[int, ...]:
        """The constant coordinate, if there is one, and the other isolated ones."""
        return ((self.size - 1,) if self.constant else ()) + self.isolated

    @property
    def free_coordinates(self) -> tuple[int, ...]:
        """All that are not isolated."""
        isolated = set(self.isolated_coordinates)
        return tuple(place for place in range(self.size) if place not in isolated)


def check_shape(x: Tensor, layer: NodeLayer) -> None:
    """Raise a `BackendError` unless these are activations of the node layer."""
    if x.ndim != 3 or x.shape[-1] != layer.size:
        raise BackendError(
            f"Node layer '{layer.name}' has activations of shape {tuple(x.shape)}: they need "
            f"(samples, positions, {layer.size})."
        )


def check_finite(x: Tensor, layer: NodeLayer) -> None:
    """Raise a `NumericalError` that names the node layer if its activations are not finite."""
    if not bool(x.isfinite().all()):
        raise not_finite(layer, x.dtype)


def not_finite(layer: NodeLayer, dtype: torch.dtype) -> NumericalError:
    """The error that names a node layer whose activations, in this precision, are not finite."""
    kind = str(dtype).removeprefix("torch.")
    return NumericalError(
        f"Activations at node layer '{layer.name}' are NaN or infinite in {kind}: "
        "check the weights and the inputs."
    )


class Network(nn.Module):
    """Sections between node layers, and the map from raw inputs to the first of them.

    Args:
        embed: module from a batch's raw inputs to activations `(n, positions, size)`.
        sections: the maps from each node layer to the next.
        node_layers: one more than there are sections.

    Raises:
        BackendError: if the sizes of sections, node layers and passages do not fit together, or
            names of node layers cannot be told apart or written.
    """

    def __init__(
        self, embed: nn.Module, sections: Sequence[Section], node_layers: Sequence[NodeLayer]
    ) -> None:
        super().__init__()
        if len(node_layers) != len(sections) + 1 or not sections:
            raise BackendError(
                f"A network needs one node layer more than sections and at least one section, "
                f"not {len(node_layers)} and {len(sections)}."
            )
        names = [layer.name for layer in node_layers]
        if len(set(names)) < len(names):
            raise BackendError(f"Node layers must have different names: {', '.join(names)}.")
        arrows = ["->".join(pair) for pair in pairwise(names)]
        if len(set(arrows)) < len(arrows):
            raise BackendError(f"Node layers have arrows in their names: {', '.join(names)}.")
        for name in names:
            if any("\ud800" <= letter <= "\udfff" for letter in name):
                raise BackendError(
                    f"The name {name!r} of a node layer has half a character in it, which files "
                    "of results cannot hold: choose another."
                )
        for layer in node_layers:
            if layer.passage is not None:
                layer.passage.check(layer.name, layer.size)
        for section, source, target in zip(sections, node_layers, node_layers[1:], strict=False):
            if (section.d_in, section.d_out) != (source.size, target.size):
                raise BackendError(
                    f"The section {source.name}->{target.name} maps {section.d_in} to "
                    f"{section.d_out} coordinates, but the node layers have {source.size} "
                    f"and {target.size}."
                )
        self.embed = embed
        self.sections: Sequence[Section] = nn.ModuleList(sections)  # type: ignore[assignment]
        self.node_layers = tuple(node_layers)

    @property
    def weight_bytes(self) -> int:
        """What weights take; a state dict would convert tables of embeddings for that."""
        held = chain(self.parameters(), self.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @property
    def pairs(self) -> list[tuple[NodeLayer, NodeLayer, Section]]:
        """Neighbouring node layers with the section between them, in order."""
        return list(zip(self.node_layers, self.node_layers[1:], self.sections, strict=False))

    def forward(self, inputs: Tensor) -> Float[Tensor, "n t d_out"]:
        """Activations of the last node layer."""
        return self.from_layer(0, self.embed(inputs))

    def from_layer(self, index: int, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n t d_out"]:
        """Run on from the activations `x` of node layer `index`."""
        for section in self.sections[index:]:
            x = section(x)
        return x

    def activations(self, inputs: Tensor) -> Iterator[Float[Tensor, "n s d"]]:
        """Activations of every node layer in turn, in one forward pass.

        Args:
            inputs: raw, `(n, …)`.

        Raises:
            BackendError: naming the node layer whose activations have another shape.
        """
        x = self.embed(inputs)
        check_shape(x, self.node_layers[0])
        yield x
        for section, layer in zip(self.sections, self.node_layers[1:], strict=True):
            x = section(x)
            check_shape(x, layer)
            yield x

    def activations_at(self, index: int, inputs: Tensor) -> Float[Tensor, "n s d"]:
        """Activations of node layer `index`, from raw `inputs` `(n, …)`."""
        x: Tensor = self.embed(inputs)
        for section in self.sections[:index]:
            x = section(x)
        return x

    def shares_modules(self, other: Network) -> bool:
        """Whether modules or parameters are in both, so that a cast of one changes the other."""
        theirs = {id(part) for part in other._castable()}
        return any(id(part) in theirs for part in self._castable())

    def _castable(self) -> Iterator[object]:
        """Parameters, which are cast in place, and modules that hold other tensors."""
        yield from self.parameters()
        for module in self.modules():
            if next(module.buffers(recurse=False), None) is not None:
                yield module

    def fingerprint(self) -> str:
        """SHA-256 over structure and parameters: equal networks have equal fingerprints."""
        digest = hashlib.sha256(repr((self.node_layers, self)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(data.numpy().data)
        return digest.hexdigest()
