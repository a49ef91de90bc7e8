"""Dictionaries of Gemma Scope 2: `config.json` beside `params.safetensors`, a folder a place.

Latents are p = h W_enc + b_enc where p exceeds a threshold of its own (JumpReLU); transcoders may
have an affine skip connection h S. Places are named as modules of a model, with what goes in or
comes out of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel

from libgraph.dictionaries.configuration import read_configuration
from libgraph.dictionaries.weights import (
    DictionaryWeights,
    Tensors,
    dictionary_of,
    threshold_gate,
    transcoder_of,
)
from libgraph.errors import UsageError
from libgraph.files.weights import read_weights

CONFIGURATION, WEIGHTS = "config.json", "params.safetensors"

NAMES = {
    "encoder": "w_enc",
    "bias": "b_enc",
    "decoder": "w_dec",
    "shift": "b_dec",
    "skip": "affine_skip_connection",
    "threshold": "threshold",
}

ARCHITECTURE = "jump_relu"

PLACES = {
    r"(?:model\.)?layers\.(\d+)\.output": "layers.{}",
    r"(?:model\.)?layers\.(\d+)\.pre_feedforward_layernorm\.output": "blocks.{}.mlp.hook_in",
    r"(?:model\.)?layers\.(\d+)\.post_feedforward_layernorm\.output": "blocks.{}.hook_mlp_out",
}
"""What other tools call the places that have a node layer."""


class _Configuration(BaseModel):
    architecture: str
    hf_hook_point_in: str
    hf_hook_point_out: str | None = None
    width: int | None = None
    affine_connection: bool = False
    apply_b_dec_to_input: bool = False


def holds(folder: Path) -> bool:
    """Whether a dictionary of Gemma Scope 2 is in this folder."""
    return (folder / WEIGHTS).is_file()


def is_gemma_scope_2(names: Collection[str]) -> bool:
    """Whether tensors of these names are in its layout."""
    return {"w_enc", "w_dec"} <= set(names)


def read(folder: Path) -> list[DictionaryWeights]:
    """The dictionary of a folder.

    Raises:
        UsageError: naming what is missing, of another shape, or not known.
    """
    cfg = read_configuration(folder / CONFIGURATION, _Configuration)
    if cfg.architecture != ARCHITECTURE:
        raise UsageError(
            f"'{folder}' has the architecture '{cfg.architecture}': {ARCHITECTURE} is known."
        )
    tensors = Tensors(folder, read_weights(folder / WEIGHTS), NAMES).of_these_alone()
    latents = tensors.matrix("encoder").shape[1]
    if cfg.width not in (None, latents):
        raise UsageError(
            f"'{folder}': {CONFIGURATION} says {cfg.width} latents, but w_enc has {latents}."
        )
    # Says that they are missing, if they are.
    tensors["threshold"]
    gate = threshold_gate(tensors, latents)
    reads = place_of(cfg.hf_hook_point_in)
    writes = place_of(cfg.hf_hook_point_out or cfg.hf_hook_point_in)
    if cfg.affine_connection != ("skip" in tensors):
        raise UsageError(
            f"'{folder}': {CONFIGURATION} says affine_connection={cfg.affine_connection}, and "
            f"{WEIGHTS} has {'an' if 'skip' in tensors else 'no'} '{NAMES['skip']}'."
        )
    if reads != writes:
        if cfg.apply_b_dec_to_input:
            raise UsageError(
                f"'{folder}' is a transcoder with apply_b_dec_to_input, which is not read here."
            )
        return [transcoder_of(tensors, reads, writes, gate)]
    if "skip" in tensors:
        raise UsageError(f"'{folder}' has a skip connection and is no transcoder.")
    return [dictionary_of(tensors, reads, gate, subtracts_shift=cfg.apply_b_dec_to_input)]


def place_of(hook: str) -> str:
    """A place as node layers know it; others as they are, which no node layer has."""
    for pattern, place in PLACES.items():
        if match := re.fullmatch(pattern, hook):
            return place.format(match[1])
    return hook
