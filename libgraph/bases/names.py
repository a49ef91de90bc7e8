"""What bases are called: those that need no file, and files of directions.

`methods.METHODS` says how each of them is made; their names alone need no torch.
"""

from __future__ import annotations

from pathlib import Path

from libgraph.errors import UsageError

NAMES = ("neuron", "pca", "random", "global", "lib", "sparse")
"""Every basis that needs no file."""


FILE = ".safetensors"


def basis_name(chosen: str) -> str:
    """What a basis is called: one of `NAMES`, or the name of a dictionary's file.

    Raises:
        UsageError: if it is neither.
    """
    path = Path(chosen)
    if path.suffix == FILE and path.stem not in NAMES:
        return path.stem
    if chosen not in NAMES:
        raise UsageError(
            f"Unknown basis '{chosen}': use {', '.join(NAMES)}, or a file of directions, "
            f"NAME{FILE}."
        )
    return chosen
