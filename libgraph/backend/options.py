"""Options with types, each stated once: name, type, bounds, default and what it does.

A model of them is checked when it is made, with an error that names the option; the command line
makes its flags from the same fields. Nothing here needs torch, so that help is fast.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from libgraph.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class TypedOptions(BaseModel):
    """Base of typed options: unknown names are refused, values cannot be changed afterwards.

    Attributes:
        whose: options they are, for the error message.
        groups: headings for people who choose, in order, and the options under each.

    Raises:
        UsageError: naming the first option that has a bad value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    whose: ClassVar[str] = ""
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @model_validator(mode="wrap")
    @classmethod
    def _explained(
        cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            raise UsageError(_what_is_wrong(error, info.context or cls.whose)) from None


@dataclass(frozen=True)
class Shown:
    """How an option is shown where people choose it, if its field does not say all.

    Args:
        form: what a value looks like, such as `rel:TOL`.
        default: what holds where nothing is said, if the default itself does not tell.
        flag: name on the command line, without dashes, if it is not the option's own; one that is
            on by default has a flag that switches it off.
    """

    form: str | None = None
    default: str | None = None
    flag: str | None = None


def by_commas(value: Any) -> Any:
    """The parts of a text with commas, as the command line gives several numbers."""
    return value.split(",") if isinstance(value, str) else value


Sizes = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(by_commas)]
"""Type of an option of several positive whole numbers, such as `hidden=(32, 32)`."""


AnyOptions = TypeVar("AnyOptions", bound=BaseModel)


def option_of(model: type[BaseModel], name: str) -> Any:
    """The field of another model, for one that hands an option on under a name of its own."""
    return copy(model.model_fields[name])


def parse_options(model: type[AnyOptions], values: Mapping[str, Any], of: str) -> AnyOptions:
    """Validate option values, which may be strings.

    Args:
        model: the options' type.
        values: by name.
        of: whose options they are, for the error message.

    Raises:
        UsageError: naming the first option that is unknown (with near names) or has a bad value.
    """
    names = list(model.model_fields)
    for name in values:
        if name not in names:
            raise UsageError(f"There is no option '{name}' of {of}{near(name, names, 'there are')}")
    try:
        return model.model_validate(dict(values), context=of)
    except ValidationError as error:
        raise UsageError(_what_is_wrong(error, of)) from None


def near(name: str, names: Iterable[str], otherwise: str) -> str:
    """The names that look like `name`, or all of them, as the end of a sentence."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return f"; {otherwise} {', '.join(names)}." if names else "."


WANTED = {
    "int_parsing": "a whole number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "int_parsing_size": "a whole number of fewer digits is needed",
    "float_parsing": "a number is needed",
    "float_type": "a number is needed",
    "finite_number": "a finite number is needed",
    "bool_parsing": "true or false is needed",
    "bool_type": "true or false is needed",
    "string_type": "a text is needed",
    "path_type": "a path is needed",
    "tuple_type": "several values are needed",
    "missing": "it has to be given",
    "greater_than": "it has to be above {gt}",
    "greater_than_equal": "it has to be at least {ge}",
    "less_than": "it has to be below {lt}",
    "less_than_equal": "it has to be at most {le}",
    "literal_error": "{expected} is needed",
}
"""What is said of a wrong value, by pydantic's name of the mistake."""


def mistake_in_words(mistake: ErrorDetails) -> str:
    """What a value should have been, as a part of a sentence without a full stop.

    Args:
        mistake: one of `ValidationError.errors()`.
    """
    message = WANTED.get(mistake["type"])
    if message is None:
        return mistake["msg"].removeprefix("Value error, ").rstrip(".")
    bounds = mistake.get("ctx", {})
    return message.format(**{k: f"{v:g}" if type(v) is float else v for k, v in bounds.items()})


def _what_is_wrong(error: ValidationError, of: str) -> str:
    """One sentence on the first mistake."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "options"
    given = "" if first["type"] == "missing" else f", not {first['input']!r}"
    whose = f" of {of}" if of else ""
    return f"Option '{name}'{whose}: {mistake_in_words(first)}{given}."
