"""Figures with types: models of the JSON files that people's scripts read.

What is read and written again is the same text: fields keep their order, fields that a file lacks
stay absent, and those that a later version has added are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from libgraph.errors import UsageError
from libgraph.files.atomic import write_json


class Figures(BaseModel):
    """Base of figures, which cannot be changed; `model_copy(update=…)` makes other ones."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def as_dict(self) -> dict[str, object]:
        """The same for `json.dumps`, without the fields that are absent."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    def text(self) -> str:
        """As JSON, in order and indented."""
        return json.dumps(self.as_dict(), indent=1)


class FiguresFile(Figures):
    """Figures that are a file of their own; the first field, `schema`, says which shape it has."""

    def write(self, path: Path) -> None:
        """Write the file, complete or not at all.

        Raises:
            UsageError: if it cannot be written.
        """
        write_json(path, self.as_dict())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            UsageError: if it is missing or damaged, or has another schema.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            problem = f"cannot be read ({error})"
        except ValidationError as error:
            problem = _first_problem(error)
        raise UsageError(f"'{path}' {problem}: analyse again with force=True.")


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if place == "schema" and first["type"] == "literal_error":
        return f"has schema {first['input']}, this version reads {first['ctx']['expected']}"
    reason = "is missing" if first["type"] == "missing" else first["msg"]
    return f"cannot be read ({f'{place} {reason}'.strip()})"
