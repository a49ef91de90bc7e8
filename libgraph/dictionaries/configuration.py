"""Configurations of other tools' dictionaries, read into what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from libgraph.backend.options import mistake_in_words
from libgraph.errors import UsageError

MOST_BYTES = 2**20
"""What a configuration has at most; it names a dozen values."""

Known = TypeVar("Known", bound=BaseModel)


def read_configuration(path: Path, kind: type[Known]) -> Known:
    """What a JSON file says, as far as it is known.

    Raises:
        UsageError: if the file is missing or too large, or a value is missing or of another kind.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"'{path}' is too large for a configuration of a dictionary.")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read ({error.strerror}).") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"'{path}': {where}: {mistake_in_words(first)}.") from None
