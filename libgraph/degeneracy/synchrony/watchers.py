"""Looking at what sections multiply while the network runs: units, gates, heads.

A section calls its watcher after each product; here are watchers of whole units, and how many
samples may go through the network at once while they look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from libgraph.accumulate.memory import chunk_bytes
from libgraph.backend.data import Data
from libgraph.network.network import Network
from libgraph.sections import Attention, Convolution, Section, SkipMLP
from libgraph.sections.section import Watcher

Gated = SkipMLP | Convolution
"""Sections with hidden units; a `GatedMLP` is a `SkipMLP`."""


Products = Mapping[str, Tensor]
"""What came out of a section's products, by the name of the weight."""


HELD_BYTES = 128 * 2**20
"""A batch goes through the network in parts whose largest product takes about so much."""


def named_sections(network: Network) -> Iterator[tuple[str, Section]]:
    """All sections with those inside of them, each once, named as weights are."""
    seen: set[Section] = set()
    for a, b, outermost in network.pairs:
        for path, section in outermost.named_modules():
            if isinstance(section, Section) and section not in seen:
                seen.add(section)
                yield " ".join(part for part in (f"{a.name}->{b.name}", path) if part), section


@contextmanager
def watched(watchers: Mapping[Section, Watcher]) -> Iterator[None]:
    """Let these watchers see products, and put back what was there when this ends."""
    previous = {section: section.watcher for section in watchers}
    try:
        for section, watcher in watchers.items():
            section.watcher = watcher
        yield
    finally:
        for section, watcher_before in previous.items():
            section.watcher = watcher_before


@contextmanager
def watching_inputs(
    section: Section, see: Callable[[nn.Module, tuple[Tensor]], None]
) -> Iterator[None]:
    """Let `see` look at what goes into a section while this lasts."""
    handle = section.register_forward_pre_hook(see)
    try:
        yield
    finally:
        handle.remove()


def watcher_of_units(see: Callable[[Gated, Products, Tensor, Tensor], Tensor]) -> Watcher:
    """A watcher that calls `see` when the units are done: products before, units, product after."""
    products: dict[str, Tensor] = {}

    def watcher(section: Section, name: str, x: Tensor, z: Tensor) -> Tensor:
        if name != "outer":
            products[name] = z
            return z
        before = dict(products)
        products.clear()
        return see(cast(Gated, section), before, x, z)

    return watcher


def samples_at_once(network: Network, data: Data) -> int:
    """How many samples to let through the network together, from what one of them takes."""
    inputs = next(iter(data)).inputs[:1]
    most = 1

    def see(section: Section, name: str, x: Tensor, z: Tensor) -> Tensor:
        nonlocal most
        sizes = [x.numel(), z.numel()]
        if isinstance(section, Attention):
            sizes.append(section.heads * x.shape[1] * (section.before + x.shape[1]))
        most = max(most, *sizes)
        return z

    with torch.no_grad(), watched({section: see for _, section in named_sections(network)}):
        network(inputs)
    return max(1, chunk_bytes(HELD_BYTES, data.memory) // (most * data.dtype.itemsize))
