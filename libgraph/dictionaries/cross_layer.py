"""Cross-layer transcoders of circuit-tracer: `W_enc_N.safetensors` and `W_dec_N.safetensors`.

Latents of block N are those above zero, or above thresholds, of h Wᵀ + b; they write D[:, m − N]
into the MLP's output of every block m from N on, which has the shift of its own encoder's file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.dictionaries.weights import CrossLayerWeights, Tensors, threshold_gate, transcoder_of
from libgraph.errors import UsageError
from libgraph.files.weights import read_weights

PART = re.compile(r"W_(enc|dec)_(\d+)\.safetensors")

KIND = "cross_layer"
"""In what `config.yaml` calls it, `cross_layer_transcoder`."""


def holds(folder: Path) -> bool:
    """Whether files of a cross-layer transcoder are in this folder."""
    return any(PART.fullmatch(path.name) for path in folder.iterdir())


def read(folder: Path, reads: str, writes: str) -> list[CrossLayerWeights]:
    """The latents of every block; decoders are looked through, and read again when they are wanted.

    Args:
        folder: with an encoder and a decoder for each block.
        reads: the place in a block that encoders read at, such as `hook_resid_mid`.
        writes: likewise that decoders write at.

    Raises:
        UsageError: if a file of a pair is missing, or naming what is of another shape or not known.
    """
    blocks = _blocks(folder)
    return [_of_block(folder, block, blocks, reads, writes) for block in range(blocks)]


def _blocks(folder: Path) -> int:
    """How many blocks there are, all of which have both files."""
    found = {path.name for path in folder.iterdir()}
    parts = [match for name in found if (match := PART.fullmatch(name))]
    blocks = 1 + max((int(match[2]) for match in parts), default=-1)
    if not blocks:
        raise UsageError(
            f"'{folder}' is a cross-layer transcoder without weights: W_enc_N.safetensors and "
            "W_dec_N.safetensors are needed for each block N."
        )
    for block in range(blocks):
        for kind in ("enc", "dec"):
            name = f"W_{kind}_{block}.safetensors"
            if name not in found:
                raise UsageError(
                    f"'{folder}' has no '{name}': a cross-layer transcoder has an encoder and a "
                    f"decoder for each block, here 0 to {blocks - 1}."
                )
    return blocks


def _of_block(folder: Path, block: int, blocks: int, reads: str, writes: str) -> CrossLayerWeights:
    path = folder / f"W_enc_{block}.safetensors"
    encoder = read_weights(path)
    names = {
        "encoder": f"~W_enc_{block}",
        "bias": f"b_enc_{block}",
        "shift": f"b_dec_{block}",
        "threshold": f"threshold_{block}",
        "decoder": f"W_dec_{block}",
    }
    latents = Tensors(path, encoder, names).matrix("encoder").shape[1]
    decoders = _decoders(folder, block, blocks, latents)
    # Of all that it writes here only what its own block's MLP gets.
    own = {**encoder, names["decoder"]: decoders()[:, 0]}
    tensors = Tensors(path, own, names)
    gate = threshold_gate(tensors, latents)
    hook, output = (f"blocks.{block}.{place}" for place in (reads, writes))
    found = transcoder_of(tensors, hook, output, gate)
    return CrossLayerWeights(**vars(found), block=block, blocks=blocks, decoders=decoders)


def _decoders(
    folder: Path, block: int, blocks: int, latents: int
) -> Callable[[], Float[Tensor, "k b m"]]:
    path, name = folder / f"W_dec_{block}.safetensors", f"W_dec_{block}"

    def decoders() -> Tensor:
        tensors = read_weights(path)
        if name not in tensors:
            raise UsageError(
                f"'{path}' holds no '{name}': it holds {', '.join(sorted(tensors)) or 'nothing'}."
            )
        found = tensors[name]
        if found.ndim != 3 or found.shape[:2] != (latents, blocks - block):
            shape = " × ".join(map(str, found.shape))
            raise UsageError(
                f"'{path}': '{name}' is {shape}, where {latents} latents of block {block} write "
                f"into {blocks - block} of {blocks} blocks: {latents} × {blocks - block} × the "
                "model's width is needed."
            )
        if not found.is_floating_point() or not bool(torch.isfinite(found).all()):
            raise UsageError(f"'{path}': '{name}' has values that are NaN, infinite or no numbers.")
        return found

    return decoders
