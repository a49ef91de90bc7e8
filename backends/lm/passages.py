"""Node layers with what MLPs read and write, for transcoders: `3.mlp`, with `cuts=mlps`.

After the MLP of block i, whose input is (y, r, 1), the normalised stream and the stream, stands
(y, r, o, 1), with o = r + MLP(y) the stream after the block, and a selection of (o, 1). Where
attention is beside the MLP and not before it, the stream without the MLP, a, stands before o.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from libgraph.backend import FOLDED, BackendError, NodeLayer, Passage
from libgraph.sections import Linear, Parallel, Section, SkipMLP, chain
from libgraph_backends.lm.blocks import MODULES, Step, before_norm
from libgraph_backends.lm.parts import Block, Model


def with_passage(model: Model, i: int, steps: Sequence[Step]) -> list[Step]:
    """The steps of block i with a node layer `i.mlp` before the last; the same without an MLP.

    Args:
        model: whose block it is.
        i: its number.
        steps: from the residual stream before it to that after it.

    Raises:
        BackendError: if what an MLP puts out is not what joins the stream.
    """
    block, width = model.block(i), model.shape.width
    if block.mlp is None:
        return list(steps)
    if block.folded != 1.0:
        raise BackendError(
            f"MLPs of the model '{model.shape.kind}' are multiplied by {block.folded:g} as they "
            "join the stream, which transcoders of them know nothing of: choose other cuts."
        )
    # A norm after the MLP belongs to what it writes: it takes two steps of its own.
    count = 1 if block.parallel or block.norms[3] is None else 3
    before, own = list(steps[:-count]), steps[-count:]
    section = chain([step.section for step in own])
    kept = section.d_in - 1
    whole = _beside(section, kept, width) if block.parallel else _after(section, kept)
    size = whole.d_out
    written = size - 1 - width, size - 1
    passing = (written[0] - width, written[0]) if block.parallel else (kept - width, kept)
    passage = Passage(_readers(block, i, size, kept, width), _writers(block, i), written, passing)
    select = torch.eye(size, dtype=torch.float64)[:, written[0] :]
    return [
        *before,
        Step(whole, NodeLayer(f"{i}.mlp", size, passage=passage)),
        Step(Linear(select), own[-1].layer),
    ]


def _after(section: Section, kept: int) -> Section:
    """The section from (x, 1) to (x, o, 1), o what it puts out."""
    moved = section.transform(lambda factor: factor, lambda factor: pad(factor, (kept, 0)))
    return _copying(moved, kept)


def _beside(section: Section, kept: int, width: int) -> Section:
    """Attention and an MLP from (x, 1) to (x, a, o, 1): what attention alone puts out, and both."""
    if not isinstance(section, Parallel) or len(section.branches) != 2:
        raise BackendError(
            "A block with attention and MLP side by side, but not as two branches, has no node "
            "layer for transcoders: choose other cuts."
        )
    attention, mlp = section.branches

    def twice(factor: Tensor) -> Tensor:
        stream = factor[..., :-1]
        nothing = factor.new_zeros(*factor.shape[:-1], kept)
        return torch.cat([nothing, stream, stream, factor[..., -1:]], dim=-1)

    moved = mlp.transform(lambda factor: factor, lambda factor: pad(factor, (kept + width, 0)))
    return Parallel([attention.transform(lambda factor: factor, twice), _copying(moved, kept)])


def _copying(section: Section, kept: int) -> Section:
    """A section that leaves its first outputs alone, with that many inputs copied there."""
    copied = torch.zeros(section.d_in, section.d_out, dtype=torch.float64)
    copied[:kept, :kept] = torch.eye(kept)
    if isinstance(section, SkipMLP):
        section.skip = section.skip + copied
        return section
    return Parallel([section, Linear(copied)])


def _readers(
    block: Block, i: int, size: int, kept: int, width: int
) -> dict[str, Float[Tensor, "size d"]]:
    """Places that the MLP reads at, by their names; first that which it reads itself."""
    norm = block.norms[2]
    eye = torch.eye(width, dtype=torch.float64)
    stream = torch.zeros(size, width, dtype=torch.float64)
    stream[kept - width : kept] = eye
    own, normalised = stream, f"blocks.{i}.ln2.hook_normalized"
    found = {}
    if norm is not None:
        plain, own = torch.zeros_like(stream), torch.zeros_like(stream)
        plain[:width] = eye
        scaled = before_norm(norm, pad(eye, (0, 0, 0, 1)))
        own[:width], own[-1] = scaled[:-1], scaled[-1]
        # As HookedTransformer has it, this hook comes after a LayerNorm's scale and shift, unless
        # these are folded into what follows, and before an RMSNorm's scale in any case.
        found = {normalised: own if norm.centred else plain, normalised + FOLDED: plain}
    before = f"blocks.{i}.hook_resid_{'pre' if block.parallel else 'mid'}"
    return {
        **found,
        **dict.fromkeys((f"blocks.{i}.mlp.hook_in", *_modules(i)), own),
        **dict.fromkeys((f"blocks.{i}.hook_mlp_in", before), stream),
    }


def _writers(block: Block, i: int) -> tuple[str, ...]:
    """What the MLP's output is called; of the module itself, if no norm comes after it."""
    module = (f"blocks.{i}.mlp.hook_out", *_modules(i)) if block.norms[3] is None else ()
    return f"blocks.{i}.hook_mlp_out", *module


def _modules(i: int) -> list[str]:
    return [f"{name}.{i}.mlp" for name in MODULES]
