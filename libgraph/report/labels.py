"""Labels of features and names of concepts, as short as pictures have room for."""

from __future__ import annotations

import re

from libgraph.graph.features import POSITION, FeatureLabel
from libgraph.report.fonts import breadth, cut
from libgraph.visible import in_line

SMALLER = 0.64
"""Size of letters that go on in a second line, relative to those of one line."""


def short_label(label: FeatureLabel | None, length: int = 19) -> str:
    """First part of the first term of a label, without its share: ``"cos(15x)"``."""
    return cut(_first_term(label), length)


def _first_term(label: FeatureLabel | None) -> str:
    if label is None:
        return ""
    first = re.sub(r"^\s*[\d.]+\s*%\s*", "", in_line(label.text.split("|")[0]))
    # A plus inside parentheses, as in cos(15x + 15y), is part of the term.
    return re.split(r" \+ (?![^(]*\))", first)[0].strip()


def label_lines(label: FeatureLabel | None, length: int) -> tuple[list[str], float]:
    """The short label in one line of so many letters or, in smaller ones, in one or two lines.

    A second line ends with an ellipsis where that is not enough either.

    Returns:
        The lines, and how large their letters are relative to those of a line that fits.
    """
    text = _first_term(label)
    if breadth(text) <= length:
        return [text], 1.0
    smaller = int(length / SMALLER)
    first = cut(text, smaller)
    if first == text:
        return [text], SMALLER
    # At a space, if there is one in the second half of the line.
    end = text.rfind(" ", smaller // 2, len(first))
    end = end + 1 if end > 0 else len(first) - 1
    return [text[:end].rstrip(), cut(text[end:].strip(), smaller)], SMALLER


def concept_name(concept: str, name: str) -> str:
    """A concept with its kind before it, unless it says that itself: ``"frequency 15"``."""
    if name == POSITION or name.lower().startswith(concept.lower()):
        return name
    return f"{concept} {name}"
