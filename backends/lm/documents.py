"""Texts as they come: what is in a file or in a pipe, lines of JSON, rows of a data set.

What is no text is found out before it is read as one: bytes of another encoding or of numbers are
often valid, and never what was meant.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from libgraph.backend import DataError, UsageError, unreadable

STANDARD_INPUT = "-"


MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What files begin with that say which encoding they have; the first that fits counts."""


def is_there(source: str) -> bool:
    """Whether a source is something to read from, such as a file or a pipe, and not a name.

    Raises:
        DataError: if it is a folder, or nobody may look at it.
        UsageError: if it is a pipe, and several processes would each read a part of it.
    """
    if source == STANDARD_INPUT:
        mode = stat.S_IFIFO
    else:
        try:
            mode = os.stat(source).st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            # Names of data sets are no paths, or impossible ones.
            return False
        except OSError as error:
            raise unreadable(source, DataError, error, "The text ") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"The text '{source}' is a folder: give a file or the name of a data set.")
    if not stat.S_ISREG(mode) and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise UsageError(
            f"The text '{source}' can be read once, and not by several processes: save it in a "
            "file."
        )
    return True


def read_content(source: str) -> bytes:
    """All that is in a file or a pipe.

    Raises:
        DataError: if it cannot be read, or is empty.
    """
    try:
        is_standard = source == STANDARD_INPUT
        content = sys.stdin.buffer.read() if is_standard else Path(source).read_bytes()
    except (OSError, ValueError, AttributeError) as error:
        # Standard input may be closed, or not be there at all.
        reason = getattr(error, "strerror", None) or "there is none"
        raise DataError(f"The text '{source}' cannot be read: {reason}.") from None
    if not content:
        raise DataError(f"The text '{source}' is empty.")
    return content


def decoded(content: bytes, source: str, encoding: str) -> str:
    """Text with line ends as in Python; a mark at its beginning says more than the default.

    Args:
        content: of a file.
        source: what to call it.
        encoding: of text without such a mark.

    Raises:
        DataError: if it is not text in this encoding.
    """
    if codecs.lookup(encoding).name == "utf-8":
        marks = (name for mark, name in MARKS.items() if content.startswith(mark))
        encoding = next(marks, encoding)
    try:
        text = content.decode(encoding)
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        name = "UTF-8" if encoding.startswith("utf-") else encoding
        raise DataError(
            f"'{source}' is not text in {name}: say which encoding it has with -o encoding=…; "
            "token ids are read from .npy files."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of_json(text: str, source: str, column: str) -> Iterator[str]:
    """The text in each line.

    Raises:
        DataError: for a line without it.
    """
    # Not `splitlines`, which also ends lines at signs that JSON allows within them.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[column]
        except (ValueError, RecursionError, TypeError, KeyError, IndexError):
            value = None
        if not isinstance(value, str):
            raise DataError(
                f"Line {number} of '{source}' is not a JSON object with text in a field "
                f"'{column}': choose another with -o column=…"
            )
        yield value


def data_set(name: str, column: str) -> Iterator[str]:
    """Texts of a data set, as they come over the network or from the cache.

    Raises:
        DataError: if there is none of that name, or no text in it.
    """
    from datasets import load_dataset

    try:
        # Data sets that are Python code are known to this library no more.
        rows = load_dataset(name, split="train", streaming=True)
        for row in rows:
            if column not in row:
                raise DataError(
                    f"The data set '{name}' has no column '{column}': choose one of "
                    f"{', '.join(row)} with -o column=…"
                )
            if not isinstance(row[column], str):
                raise DataError(f"The column '{column}' of the data set '{name}' holds no text.")
            yield row[column]
    except DataError:
        raise
    except Exception as error:
        # Whatever a name without data, or a network that fails, leads this library to.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"'{name}' is neither a file nor a data set that can be reached ({reason}): give a "
            "text file, or a name on huggingface.co."
        ) from None
