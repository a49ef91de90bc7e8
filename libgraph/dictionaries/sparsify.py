"""Dictionaries of sparsify: `layers.N/cfg.json` beside `sae.safetensors`, a folder a hook.

The k largest latents of ReLU((h − c) Wᵀ + b), of ReLU(h Wᵀ + b) where it is a transcoder, from what
a module reads to what it puts out. Folders are named by modules of a model.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from libgraph.dictionaries.configuration import read_configuration
from libgraph.dictionaries.weights import (
    DictionaryWeights,
    Tensors,
    dictionary_of,
    transcoder_of,
)
from libgraph.errors import UsageError
from libgraph.files.weights import read_weights
from libgraph.network.dictionary import TopK

CONFIGURATION, WEIGHTS = "cfg.json", "sae.safetensors"

NAMES = {
    "encoder": "~encoder.weight",
    "bias": "encoder.bias",
    "decoder": "W_dec",
    "shift": "b_dec",
    "skip": "~W_skip",
}


class _Configuration(BaseModel):
    d_in: int
    k: int
    activation: str = "topk"
    transcode: bool = False
    skip_connection: bool = False
    signed: bool = False
    normalize_io: bool = False
    jumprelu: bool = False
    encoder_halut: bool = False
    encoder_pkm: bool = False


OTHERS = ("signed", "normalize_io", "jumprelu", "encoder_halut", "encoder_pkm")
"""What changes latents, and is not read here."""


def holds(folder: Path) -> bool:
    """Whether a dictionary of sparsify is in this folder."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> list[DictionaryWeights]:
    """The dictionary of a folder, whose name is its hook.

    Raises:
        UsageError: naming what is missing, of another shape, or not known.
    """
    cfg = read_configuration(folder / CONFIGURATION, _Configuration)
    if cfg.activation != "topk":
        raise UsageError(f"'{folder}' has the activation '{cfg.activation}': topk is known.")
    for name in OTHERS:
        if getattr(cfg, name):
            raise UsageError(f"'{folder}': {CONFIGURATION} has {name}, which is not read here.")
    tensors = Tensors(folder, read_weights(folder / WEIGHTS), NAMES).of_these_alone()
    if "skip" in tensors and not cfg.skip_connection:
        raise UsageError(
            f"'{folder}' holds 'W_skip', and {CONFIGURATION} does not say skip_connection: say "
            "whether it is used."
        )
    stored = tensors.matrix("encoder").shape[0]
    if stored != cfg.d_in:
        raise UsageError(
            f"'{folder}': {CONFIGURATION} says d_in = {cfg.d_in}, but the encoder reads {stored} "
            "coordinates."
        )
    if cfg.transcode:
        if cfg.skip_connection:
            # Says that it is missing, if it is.
            tensors.matrix("skip")
        return [transcoder_of(tensors, folder.name, folder.name, TopK(cfg.k))]
    if cfg.skip_connection:
        raise UsageError(
            f"'{folder}' has a skip connection and is no transcoder: its latents explain what the "
            "skip leaves of the very activation that they read, which is not read here."
        )
    return [dictionary_of(tensors, folder.name, TopK(cfg.k), subtracts_shift=True)]
