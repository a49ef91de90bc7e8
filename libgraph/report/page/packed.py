"""Arrays as the page reads them: little-endian bytes in base64, a third of what text would take."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from libgraph.errors import MissingExtra, missing_extra

Packed = dict[str, str]
"""`{"f4": …}`: the kind of numbers, and their bytes in base64."""


def packed(values: ArrayLike, kind: str) -> Packed:
    """An array, flattened, as `f4`, `i4`, `u1` or `i1`.

    Numbers that single precision does not reach to are its largest ones, as infinite ones cannot be
    drawn.
    """
    values = np.asarray(values)
    if kind == "f4" and values.dtype == np.float64:
        most = np.finfo(np.float32).max
        values = np.where(np.isfinite(values), values.clip(-most, most), values)
    array = np.ascontiguousarray(values, dtype=f"<{kind}")
    return {kind: base64.b64encode(array.tobytes()).decode("ascii")}


class Strip(TypedDict):
    """Pictures beside and below each other in one PNG file.

    Attributes:
        url: of the file, with all that is in it.
        width: of one picture, in dots.
        height: likewise.
        columns: pictures in a row.
        rows: of pictures.
    """

    url: str
    width: int
    height: int
    columns: int
    rows: int


COLUMNS = 32

LARGEST = 64
"""Dots of a picture in either direction; larger ones are made smaller."""


def strip_of(pictures: NDArray[np.uint8]) -> Strip:
    """Pictures `(n, h, w, 3)` as one file.

    Raises:
        MissingExtra: if there is no Pillow, which comes with Bokeh.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra(missing_extra("The page needs Bokeh", "report")) from error
    step = max(1, -(-max(pictures.shape[1:3]) // LARGEST))
    pictures = pictures[:, ::step, ::step]
    count, height, width, _ = pictures.shape
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, 3), dtype=np.uint8)
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    file = BytesIO()
    Image.fromarray(sheet.reshape(rows * height, columns * width, 3)).save(
        file, "PNG", optimize=False, compress_level=6
    )
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Strip(
        url=f"data:image/png;base64,{text}",
        width=width,
        height=height,
        columns=columns,
        rows=rows,
    )
