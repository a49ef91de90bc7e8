"""MNIST in small: images of 4 × 3 pixels in idx files."""

import gzip
from pathlib import Path

import numpy as np


def idx(numbers, *, kind=8) -> bytes:
    """Numbers as unsigned bytes after the header of an idx file."""
    array = np.asarray(numbers, dtype=np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def write_mnist(folder: Path, *, images=None, labels=None, zipped=False, dot=False) -> Path:
    """Thirty images for training, ten for tests, or those given; bytes are written as they are."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 30), ("t10k", 10)):
        pixels = generator.integers(0, 256, (count, 4, 3)) if images is None else images
        classes = np.arange(count) % 10 if labels is None else labels
        for what, data in (("images-idx3", pixels), ("labels-idx1", classes)):
            name = f"{prefix}-{what}-ubyte"
            name = name.replace("-idx", ".idx") if dot else name
            raw = data if isinstance(data, bytes) else idx(data)
            path = folder / (name + (".gz" if zipped else ""))
            path.write_bytes(gzip.compress(raw) if zipped else raw)
    return folder
