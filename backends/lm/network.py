"""Cutting a transformer into sections: a network of the blocks asked for, between node layers.

`blocks` makes sections of a block; here they are put together between the node layers that were
asked for. Blocks outside are never cut: `embedding` and `head` run them as they are. Sections are
compared with the block that they are made of, and the logits that come out with those of the
library that the model comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.backend import BackendError, Network, NodeLayer, UsageError
from libgraph.sections import Attention, NormedAttention, Parallel, Section, chain
from libgraph_backends.lm.blocks import Step, block_steps, norm_steps, stream_before
from libgraph_backends.lm.embedding import EarlierBlocks, Embedding, Tables, with_constant
from libgraph_backends.lm.head import Head
from libgraph_backends.lm.options import Cuts, LMOptions
from libgraph_backends.lm.parts import Model
from libgraph_backends.lm.passages import with_passage
from libgraph_backends.lm.plain import run_block

log = logging.getLogger("libgraph")


ALL = ("resid_pre", "resid_mid", "scale", "normalized", "attn_out", "mlp_out")

CUTS: dict[Cuts, tuple[str, ...]] = {
    "all": ALL,
    "mlps": (*ALL, "mlp"),
    "sublayers": ("resid_pre", "resid_mid"),
    "blocks": ("resid_pre",),
}
"""Which node layers there are: all that blocks have of themselves, these and those for transcoders,
those around each attention and MLP, or each block."""


AGREEMENT = 1e-4
"""How far logits may differ, relative to the largest: models compute in single precision."""


EXACT = 1e-6
"""How far sections may differ from their block, relative to the largest: both in double."""


PROBED = 8
"""Positions on which sections are compared with their block."""


class CutTransformer:
    """A transformer of which some blocks are sections.

    Args:
        model: the whole.
        options: which blocks, and which node layers there are.
        prefix: a token that stands before every sequence and is no position of the network: what
            attention reads there is a constant. None for none.

    Raises:
        BackendError: naming the part of the model that has no section here.
        UsageError: if the model does not have the blocks asked for.
    """

    def __init__(self, model: Model, options: LMOptions, prefix: int | None) -> None:
        self.model, self.cuts, self.prefix = model, options.cuts, prefix
        self.first, self.last = _range(options.layers, model.shape.blocks)
        model.check_supported()
        self._is_whole = self.last == model.shape.blocks
        self._before: Tensor | None = None
        self._after: Tensor | None = None
        self._checked = False
        with torch.no_grad():
            if prefix is not None:
                self._run_prefix(prefix)
            after = None if self._is_whole else self._after
            self.head = Head(model, self.last, normalised=self._is_whole, prefix=after)

    def _run_prefix(self, prefix: int) -> None:
        """The prefix's residual stream before the network and after it, with the constant."""
        stream = EarlierBlocks(Tables(self.model), self.first, None).stream(
            torch.tensor([[prefix]])
        )
        x = self._before = with_constant(stream.double())
        for i in self._blocks:
            for section, _ in self._steps_of(i):
                x = section(x)
            self.model.release()
        self._after = x[..., :-1]

    def network(self) -> Network:
        """A new network of the blocks asked for, in double precision."""
        with torch.no_grad():
            steps = self._steps()
            if self.prefix is not None:
                steps = self._with_prefix(steps)
        if self._is_whole:
            # The final norm belongs to the network if its last block does.
            norm = self.model.final_norm()
            if norm is not None:
                steps += norm_steps(norm, "ln_final", self._width, keep=False)
        tables = Tables(self.model, int(self.prefix is not None and not self.first))
        stream = stream_before(self.first, self._width + 1)
        embed = (
            EarlierBlocks(Tables(self.model), self.first, self.prefix)
            if self.first
            else Embedding(tables)
        )
        return _network(embed, stream, steps, self.cuts)

    @property
    def _width(self) -> int:
        return self.model.shape.width

    @property
    def _blocks(self) -> range:
        return range(self.first, self.last)

    def _steps(self) -> list[Step]:
        """All steps: of each block before the next one is read, checked when made first."""
        steps: list[Step] = []
        x = torch.randn(1, PROBED, self._width, generator=torch.Generator().manual_seed(0))
        for i in self._blocks:
            made = self._steps_of(i)
            if not self._checked:
                self._check_block(i, made, x.double())
            steps += made
            self.model.release()
        self._checked = True
        return steps

    def _steps_of(self, i: int) -> Sequence[Step]:
        steps = list(block_steps(self.model, i))
        return with_passage(self.model, i, steps) if self.cuts == "mlps" else steps

    def _with_prefix(self, steps: Sequence[Step]) -> list[Step]:
        """The steps, with what attention reads from the prefix as a constant."""
        x = self._before
        prefixed = []
        for section, layer in steps:
            assert x is not None  # noqa: S101
            prefixed.append(Step(_with_prefix(section, x), layer))
            x = section(x)
        return prefixed

    def _check_block(self, i: int, steps: Sequence[Step], x: Float[Tensor, "n t d"]) -> None:
        """Compare the sections of a block with the block itself, on random activations.

        Raises:
            BackendError: if they differ.
        """
        actual = with_constant(x)
        for section, _ in steps:
            actual = section(actual)
        error = _difference(actual[..., :-1], run_block(self.model.block(i), x))
        if not error < EXACT:
            raise BackendError(
                f"Cut into sections block {i} of the model '{self.model.shape.kind}' gives "
                f"something else (by {error:.1e} of the largest): it has a part for which there "
                "is no section."
            )

    def check_logits(self, inputs: Int[Tensor, "n t"]) -> None:
        """Compare the logits of sections and other blocks with the library's.

        Raises:
            BackendError: if they differ: the model has something that sections do not.
        """
        tokens = inputs
        if self.prefix is not None:
            tokens = torch.cat([torch.full_like(inputs[:, :1], self.prefix), inputs], dim=1)
        with torch.no_grad():
            expected = self.model.logits(tokens)[:, -inputs.shape[1] :].double()
            actual = self.head.logits(self.network()(inputs))
        error = _difference(actual, expected)
        if not error < AGREEMENT:
            raise BackendError(
                f"Cut into sections the model '{self.model.shape.kind}' gives other logits (by "
                f"{error:.1e} of the largest): it has a part for which there is no section."
            )
        log.info("Sections and model agree on logits to %.1e of the largest.", error)


def _difference(actual: Float[Tensor, "*n d"], expected: Float[Tensor, "*n d"]) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def _range(layers: str | None, count: int) -> tuple[int, int]:
    """The first block asked for, and the one before which the network ends."""
    start, _, stop = (layers or ":").partition(":")
    first, last = int(start or 0), int(stop or count)
    if not 0 <= first < last <= count:
        raise UsageError(
            f"The model has blocks 0 to {count - 1}: layers={layers} is no "
            f"range of them, 0:{count} is all."
        )
    return first, last


def _network(
    embed: torch.nn.Module, first: NodeLayer, steps: Sequence[Step], cuts: Cuts
) -> Network:
    """Chains of steps between the node layers that are asked for, the first and the last one."""
    layers = [first, *(step.layer for step in steps)]
    chosen = {i for i, layer in enumerate(layers) if _is_cut(layer.name, cuts)}
    places = sorted(chosen | {0, len(layers) - 1})
    sections = [chain([step.section for step in steps[a:b]]) for a, b in pairwise(places)]
    return Network(embed, sections, [layers[i] for i in places])


def _is_cut(name: str, cuts: Cuts) -> bool:
    kind = name.rpartition(".")[2]
    return kind in CUTS[cuts] or kind == "resid_post" or name == "ln_final.normalized"


def _with_prefix(section: Section, x: Float[Tensor, "1 1 d"]) -> Section:
    """A section whose attention reads the activations `x` before all others."""
    if isinstance(section, Parallel):
        first, *others = section.branches
        return Parallel([_with_prefix(first, x), *others])
    if isinstance(section, Attention | NormedAttention):
        return section.with_prefix(x[0])
    return section
