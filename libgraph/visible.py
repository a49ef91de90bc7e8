"""Text of users made visible: what a screen, an XML file or an encoding cannot hold, in escapes.

Names of layers, tokens, labels and paths hold whatever people have put there. What can be seen
stays as it is; orders to a terminal, half characters and signs that turn the rest of a line around
are written as Python writes them, so that nothing vanishes and two texts never look the same.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but for tabs and line ends, turns of direction, halves of pairs."""

BREAKS = re.compile("[\t\n]")

SPELLINGS = {
    "→": "->", "×": "x", "–": "-", "…": "...", "±": "+-", "≤": "<=", "Δ": "Delta",
    "γ": "gamma", "ε": "eps", "⏎": "\\n", "⇥": "\\t", "¦": "|", "✓": "ok",
}  # fmt: skip
"""How signs of ours are written in an encoding that lacks them."""

FIRST_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"

RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "RLI"}
"""Classes of characters that turn the numbers beside them around."""

ERRORS = "libgraph.visible"
"""Name of the handler of `str.encode` that writes signs of ours in others, the rest escaped."""


def visible(text: str) -> str:
    """The text with escapes for what is no visible text; tabs and line ends stay."""
    return UNSEEN.sub(_escape, text)


def in_line(text: str) -> str:
    """The text as `visible` has it, in one line: tabs and line ends are escaped as well."""
    return BREAKS.sub(_escape, visible(text))


def encodable(text: str, encoding: str) -> str:
    """The text with other signs, or escapes, for those that an encoding lacks."""
    try:
        return text.encode(encoding, ERRORS).decode(encoding)
    except (LookupError, UnicodeError):
        return text


def isolated(text: str) -> str:
    """The text, isolated where it runs from right to left: numbers after it stay where they are."""
    if text.isascii() or not any(unicodedata.bidirectional(c) in RIGHT_TO_LEFT for c in text):
        return text
    return f"{FIRST_ISOLATE}{text}{POP_ISOLATE}"


def _escape(match: re.Match[str]) -> str:
    return escape(match.group())


def escape(text: str) -> str:
    """The text as Python writes it in ASCII, without quotes: `\\x1b`, `\\u6f22`."""
    return text.encode("unicode-escape", "surrogatepass").decode("ascii")


def _in_other_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(SPELLINGS.get(sign) or escape(sign) for sign in missing), error.end


codecs.register_error(ERRORS, _in_other_signs)
