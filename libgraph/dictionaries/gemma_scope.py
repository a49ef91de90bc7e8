"""Dictionaries of Gemma Scope: `layer_N/width_W/average_l0_L/params.npz`, without configuration.

Latents are p = h W_enc + b_enc where p exceeds a threshold of its own (JumpReLU). Which place of
the model one reads at only names of folders say: the block, and the repository that it is from.
"""

from __future__ import annotations

import re
from pathlib import Path

from libgraph.dictionaries.weights import (
    DictionaryWeights,
    Tensors,
    dictionary_of,
    transcoder_of,
)
from libgraph.errors import UsageError
from libgraph.files.archives import read_arrays
from libgraph.network.dictionary import Threshold

WEIGHTS = "params.npz"

LAYER = re.compile(r"layer_(\d+)")

SITE = re.compile(r".*-(res|mlp|att|transcoders)")

NAMES = {"encoder": "W_enc", "bias": "b_enc", "decoder": "W_dec", "shift": "b_dec"}

CIRCUIT_NAMES = {**NAMES, "threshold": "threshold"}
"""With what latents exceed."""

HOOKS = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}

INPUT, OUTPUT = "ln2.hook_normalized", "hook_mlp_out"
"""Of transcoders."""


def holds(folder: Path) -> bool:
    """Whether a dictionary of Gemma Scope is in this folder."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> list[DictionaryWeights]:
    """The dictionary of a folder, whose names say what it is of.

    Raises:
        UsageError: if they do not, or naming what is missing or of another shape.
    """
    path = folder / WEIGHTS
    block, site = _place(path)
    tensors = Tensors(path, read_arrays(path), CIRCUIT_NAMES).of_these_alone()
    gate = Threshold(tensors.vector("threshold", tensors.matrix("encoder").shape[1]))
    if site == "transcoders":
        hook, output = (f"blocks.{block}.{end}" for end in (INPUT, OUTPUT))
        return [transcoder_of(tensors, hook, output, gate)]
    return [dictionary_of(tensors, f"blocks.{block}.{HOOKS[site]}", gate, subtracts_shift=False)]


def _place(path: Path) -> tuple[int, str]:
    """Block and site, of the innermost folders that name one."""
    # A cache's links stay: what they lead to has no such names.
    names = [folder.name for folder in path.absolute().parents]
    layers = [found for name in names if (found := LAYER.fullmatch(name))]
    sites = [found for name in names if (found := SITE.fullmatch(name))]
    if not layers or not sites:
        raise UsageError(
            f"'{path}' does not say where it reads: Gemma Scope tells by names of folders, such as "
            "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71. Known are layer_N in folders "
            "that end with -res, -mlp, -att or -transcoders."
        )
    return int(layers[0][1]), sites[0][1]
