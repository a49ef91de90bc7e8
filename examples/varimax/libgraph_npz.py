"""Dictionaries in NumPy's archives, for libgraph: `dictionary.npz`, arrays beside a name."""

from pathlib import Path

import numpy as np
import torch

from libgraph.dictionaries.weights import DictionaryWeights
from libgraph.errors import UsageError
from libgraph.network.dictionary import Threshold

FILE = "dictionary.npz"
ARRAYS = ("encoder", "bias", "decoder", "shift")


def holds(folder: Path) -> bool:
    """Whether such a dictionary is in this folder."""
    return (folder / FILE).is_file()


def read(folder: Path) -> list[DictionaryWeights]:
    """Latents relu(h W + b), with W (d, k), b (k), D (k, d) and c (d); `hook` says of what."""
    with np.load(folder / FILE, allow_pickle=False) as archive:
        missing = [name for name in (*ARRAYS, "hook") if name not in archive]
        if missing:
            raise UsageError(f"'{folder / FILE}' has no {', '.join(missing)}: save all of them.")
        parts = {name: torch.as_tensor(archive[name]).double() for name in ARRAYS}
        hook = str(archive["hook"])
    gate = Threshold(torch.zeros(len(parts["bias"]), dtype=torch.float64))
    return [DictionaryWeights(folder, hook, **parts, gate=gate)]
