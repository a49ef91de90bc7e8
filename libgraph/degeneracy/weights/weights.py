"""The weight matrices of a network: what they are, what goes in, what comes out, how to move them.

A weight is a factor of a section (`Section.readers` and `writers`), biases in the constant's row,
or an `nn.Linear` inside a `Function`. Rows and columns that are fixed are left out: input
coordinates that no weight of the section reads, the constant among the outputs, and factors that
copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from libgraph.network.network import Network
from libgraph.sections import Section

See = Callable[["Weight", Tensor, Tensor], Tensor | None]
"""Told of a weight, its input `(n, s, rows)` and its output `(n, s, columns)`; what it returns, if
anything, is added to that output."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight matrix of a network.

    Args:
        name: its layer pair and its own name, such as `ln2.0->unembed inner`.
        pair: names of the node layers on both sides.
        module: what multiplies by it.
        factor: its name there.
        path: where that stands among the network's modules.
        rows: which input coordinates it reads; the constant's row holds the bias.
        columns: which of its outputs are not fixed.
    """

    name: str
    pair: tuple[str, str]
    module: Section | nn.Linear = field(repr=False)
    factor: str
    path: str
    rows: Int[Tensor, " rows"] = field(repr=False)
    columns: Int[Tensor, " columns"] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are trained."""
        return len(self.rows), len(self.columns)

    @property
    def matrix(self) -> Float[Tensor, "rows columns"]:
        """Its trained part."""
        return _matrix(self.module, self.factor)[self.rows][:, self.columns]

    def moved(self, change: Float[Tensor, "rows columns"]) -> dict[str, Tensor]:
        """The tensors of the network with this added, for `torch.func.functional_call`."""
        matrix = _matrix(self.module, self.factor)
        places = self.rows.unsqueeze(1), self.columns
        added = matrix.new_zeros(matrix.shape).index_put(places, change.to(matrix))
        if isinstance(self.module, nn.Linear):
            width = self.module.in_features
            tensors = {f"{self.path}.weight": self.module.weight + added[:width].T}
            if self.module.bias is not None:
                tensors[f"{self.path}.bias"] = self.module.bias + added[width]
            return tensors
        stored: Tensor = getattr(self.module, self.factor)
        return {f"{self.path}.{self.factor}": stored + added.reshape(stored.shape)}


def weights_of(network: Network) -> list[Weight]:
    """All weights, each once, in the order in which the network multiplies by them."""
    weights: list[Weight] = []
    seen: set[nn.Module] = set()
    for number, (a, b, section) in enumerate(network.pairs):
        pair = (a.name, b.name)
        for path, module in section.named_modules(memo=seen):
            if isinstance(module, Section):
                constant = b.constant if module is section else None
                for factor in dict.fromkeys((*module.readers, *module.writers)):
                    weights += _of_section(module, factor, pair, path, number, constant)
            elif isinstance(module, nn.Linear):
                rows = module.in_features + (module.bias is not None)
                weights.append(
                    Weight(
                        f"{a.name}->{b.name} {path}",
                        pair,
                        module,
                        "weight",
                        f"sections.{number}.{path}",
                        torch.arange(rows, device=module.weight.device),
                        torch.arange(module.out_features, device=module.weight.device),
                    )
                )
    return weights


@contextmanager
def watching(weights: Sequence[Weight], see: See) -> Iterator[None]:
    """Let `see` look at every product with these weights, and add to it, while this lasts."""
    by_module: dict[Section | nn.Linear, list[Weight]] = {}
    for weight in weights:
        by_module.setdefault(weight.module, []).append(weight)
    before = {module: module.watcher for module in by_module if isinstance(module, Section)}
    handles = []
    try:
        for module, own in by_module.items():
            if isinstance(module, Section):
                module.watcher = partial(_watched, {weight.factor: weight for weight in own}, see)
            else:
                handles.append(module.register_forward_hook(partial(_hooked, own[0], see)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for section, watcher in before.items():
            section.watcher = watcher


def moved(changes: Mapping[Weight, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network with changes added to several weights."""
    return {
        name: tensor for w, change in changes.items() for name, tensor in w.moved(change).items()
    }


def _watched(
    by_factor: Mapping[str, Weight], see: See, section: Section, factor: str, x: Tensor, z: Tensor
) -> Tensor:
    weight = by_factor.get(factor)
    return z if weight is None else _seen(weight, see, x, z)


def _hooked(
    weight: Weight, see: See, module: nn.Module, inputs: tuple[Tensor], z: Tensor
) -> Tensor:
    (x,) = inputs
    if len(weight.rows) > x.shape[-1]:
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    return _seen(weight, see, x, z)


def _seen(weight: Weight, see: See, x: Tensor, z: Tensor) -> Tensor:
    rows, columns = weight.shape
    all_rows, all_columns = rows == x.shape[-1], columns == z.shape[-1]
    x = x if all_rows else x[..., weight.rows]
    added = see(weight, x, z if all_columns else z[..., weight.columns])
    if added is None:
        return z
    return z + added if all_columns else z.index_add(-1, weight.columns, added)


def _of_section(
    section: Section,
    factor: str,
    pair: tuple[str, str],
    path: str,
    number: int,
    constant: bool | None,
) -> Iterator[Weight]:
    # Whether a section inside of another writes the constant is seen from what it does.
    matrix = section.factor(factor)
    rows, columns = (torch.arange(size, device=matrix.device) for size in matrix.shape)
    if factor in section.readers:
        # What no weight reads is there for others, such as a residual stream beside its norm.
        read = torch.stack([section.factor(name).abs().sum(1) for name in section.readers]).sum(0)
        rows = rows[read > 0]
    if factor in section.writers:
        constant = _is_constant(matrix[:, -1]) if constant is None else constant
        columns = columns[:-1] if constant else columns
    if not len(rows) or not len(columns) or _copies(matrix[rows][:, columns]):
        return
    own = f"{path}.{factor}" if path else factor
    yield Weight(
        f"{pair[0]}->{pair[1]} {own}",
        pair,
        section,
        factor,
        ".".join(part for part in ("sections", str(number), path) if part),
        rows,
        columns,
    )


def _is_constant(column: Float[Tensor, " rows"]) -> bool:
    """Whether it writes the constant: 1 from the constant itself, or nothing."""
    return not bool(column[:-1].any()) and float(column[-1]) in (0, 1)


def _copies(matrix: Float[Tensor, "rows columns"]) -> bool:
    """Whether every output is a copy of one input."""
    return bool(((matrix == 0) | (matrix == 1)).all() and (matrix.sum(0) == 1).all())


def _matrix(module: Section | nn.Linear, factor: str) -> Tensor:
    """Inputs to outputs, biases in the last row."""
    if not isinstance(module, nn.Linear):
        return module.factor(factor)
    if module.bias is None:
        return module.weight.T
    return torch.cat([module.weight.T, module.bias.unsqueeze(0)])
