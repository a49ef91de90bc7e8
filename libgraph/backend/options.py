"""Options with types: checked when they are made, with an error that names the option."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from libgraph.errors import UsageError

if TYPE_CHECKING:
    pass


class TypedOptions(BaseModel):
    """Base of typed options: unknown names are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def by_commas(value: Any) -> Any:
    """The parts of a text with commas, as the command line gives several numbers."""
    return value.split(",") if isinstance(value, str) else value


Sizes = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(by_commas)]
"""Type of an option of several positive whole numbers, such as `-o hidden=32,32`."""


AnyOptions = TypeVar("AnyOptions", bound=BaseModel)


def parse_options(model: type[AnyOptions], values: Mapping[str, Any], of: str) -> AnyOptions:
    """Validate option values, which may be strings.

    Args:
        model: the options' type.
        values: by name.
        of: whose options they are, for the error message.

    Raises:
        UsageError: naming the first option that is unknown (with near names) or has a bad value.
    """
    known = list(model.model_fields)
    for name in values:
        if name not in known:
            raise UsageError(f"There is no option '{name}' of {of}{near(name, known, 'there are')}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "options"
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        given = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise UsageError(f"Option '{name}' of {of}: {message}{given}.") from None


def near(name: str, known: Iterable[str], otherwise: str) -> str:
    """The known names that look like `name`, or all of them, as the end of a sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(f"'{each}'" for each in close) + "?"
    return f"; {otherwise} {', '.join(names)}." if names else "."
