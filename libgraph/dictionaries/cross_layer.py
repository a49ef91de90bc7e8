"""Cross-layer transcoders of circuit-tracer: `W_enc_N.safetensors` and `W_dec_N.safetensors`.

Latents of block N are those above zero, or above thresholds, of h Wᵀ + b; they write D[:, m − N]
into the MLP's output of every block m from N on, which has the shift of its own encoder's file and,
if there is one, h S of its own skip connection. Gemma Scope 2 has one file a block, with all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.dictionaries.gemma_scope_2 import NAMES as GEMMA_2_NAMES
from libgraph.dictionaries.weights import (
    CrossLayerWeights,
    Tensors,
    check_all_or_none,
    threshold_gate,
    transcoder_of,
)
from libgraph.errors import UsageError
from libgraph.files.weights import read_weights

PART = re.compile(r"W_(enc|dec)_(\d+)\.safetensors")

KIND = "cross_layer_transcoder"
"""What `config.yaml` calls it."""

OPTIONAL = {"skip": "skip connection", "threshold": "thresholds"}
"""What all blocks have, or none."""


def holds(folder: Path) -> bool:
    """Whether files of a cross-layer transcoder are in this folder."""
    return any(PART.fullmatch(path.name) for path in folder.iterdir())


def read(
    folder: Path, reads: str, writes: str, listed: Mapping[int, Path] | None = None
) -> list[CrossLayerWeights]:
    """The latents of every block; decoders are looked through, and read again when they are wanted.

    Args:
        folder: with an encoder and a decoder for each block.
        reads: the place in a block that encoders read at, such as `hook_resid_mid`.
        writes: likewise that decoders write at.
        listed: files of Gemma Scope 2 instead, each with all of a block.

    Raises:
        UsageError: if a file of a pair is missing, some blocks have what others lack, or naming
            what is of another shape or not known.
    """
    if listed:
        files = {block: _Files(path, path, GEMMA_2_NAMES) for block, path in listed.items()}
    else:
        files = {block: _pair(folder, block) for block in range(_blocks(folder))}
    found, present = [], {}
    for block, file in files.items():
        weights, tensors = _of_block(file, block, len(files), reads, writes)
        found.append(weights)
        present[block] = tensors
    check_all_or_none(present, OPTIONAL)
    return found


@dataclass(frozen=True)
class _Files:
    """Where the encoder and the decoders of a block are, and what is called how in them."""

    encoder: Path
    decoder: Path
    names: Mapping[str, str]


def _pair(folder: Path, block: int) -> _Files:
    names = {
        "encoder": f"~W_enc_{block}",
        "bias": f"b_enc_{block}",
        "shift": f"b_dec_{block}",
        "skip": f"W_skip_{block}",
        "threshold": f"threshold_{block}",
        "decoder": f"W_dec_{block}",
    }
    encoder, decoder = (folder / f"W_{kind}_{block}.safetensors" for kind in ("enc", "dec"))
    return _Files(encoder, decoder, names)


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


def _of_block(
    files: _Files, block: int, blocks: int, reads: str, writes: str
) -> tuple[CrossLayerWeights, Tensors]:
    path = files.encoder
    encoder = read_weights(path)
    latents = Tensors(path, encoder, files.names).of_these_alone().stored("encoder").shape[1]
    decoders = _decoders(files, block, blocks, latents)
    # Of all that it writes here only what its own block's MLP gets.
    own = {**encoder, files.names["decoder"]: decoders()[:, 0].clone()}
    tensors = Tensors(path, own, files.names)
    gate = threshold_gate(tensors, latents)
    hook, output = (f"blocks.{block}.{place}" for place in (reads, writes))
    found = transcoder_of(tensors, hook, output, gate)
    weights = CrossLayerWeights(**vars(found), block=block, blocks=blocks, decoders=decoders)
    return weights, Tensors(path, dict.fromkeys(encoder, torch.zeros(0)), files.names)


def _decoders(
    files: _Files, block: int, blocks: int, latents: int
) -> Callable[[], Float[Tensor, "k b m"]]:
    path, name = files.decoder, files.names["decoder"]

    def decoders() -> Tensor:
        tensors = read_weights(path)
        if path != files.encoder:
            tensors = dict(tensors)
            Tensors(path, tensors, {"decoder": name}).of_these_alone()
        if name not in tensors:
            raise UsageError(
                f"'{path}' holds no '{name}': it holds {', '.join(sorted(tensors)) or 'nothing'}."
            )
        found = tensors[name]
        if path == files.encoder and found.ndim == 3 and found.shape[1] == blocks:
            # With room for the blocks before, into which nothing is written.
            found = found[:, block:]
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
