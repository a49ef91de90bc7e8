"""Text in pictures that DejaVu Sans has no glyphs for: other fonts, or escapes, and one message.

DejaVu Sans comes with matplotlib, so that the same graph gives the same picture everywhere. Of the
fonts of the system those below are taken only for signs that it lacks, such as Chinese characters;
signs that none of them has are written as Python writes them, so that two texts stay two.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from libgraph.visible import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILY = "DejaVu Sans"
"""The font of all pictures."""

FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "IPAexGothic", "NanumGothic",
    "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Arial Unicode MS",
    "Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "MS Gothic", "Malgun Gothic",
    "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI",
    "Noto Emoji", "Segoe UI Emoji", "Noto Sans Symbols", "Noto Sans Symbols 2",
    "Segoe UI Symbol", "Symbola", "Unifont", "Unifont Upper",
)  # fmt: skip
"""Fonts of systems, in the order in which they are asked for a sign."""

UNSEEN = {"Cf", "Mn", "Me"}
"""Categories of signs that take no room of their own: joiners, isolates, accents."""

LONGEST = 120
"""Letters in a line of a picture; there is no room for more."""

log = logging.getLogger("libgraph")


def breadth(text: str) -> int:
    """Letters of room that a text takes: two for a Chinese character, more for an escape."""
    return len(text) if text.isascii() else sum(map(_breadth, text))


def cut(text: str, length: int) -> str:
    """The text, or its beginning with an ellipsis where it takes more letters of room."""
    if breadth(text) <= length:
        return text
    room, end = length - 1, 0
    for end, sign in enumerate(text):  # noqa: B007
        room -= _breadth(sign)
        if room < 0:
            break
    return text[:end] + "…"


def ends(text: str, length: int) -> str:
    """The text, or its two ends, in which long names differ."""
    if breadth(text) <= length:
        return text
    return cut(text, length // 2) + text[-(length // 2) :]


@lru_cache(maxsize=4096)
def _breadth(sign: str) -> int:
    if sign.isascii():
        return 1
    if unicodedata.category(sign) in UNSEEN:
        return 0
    if not any(ord(sign) in glyphs(family) for family in (FAMILY, *FALLBACKS)):
        return len(escape(sign))
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


@lru_cache(maxsize=2 * len(FALLBACKS) + 2)
def glyphs(family: str, weight: str = "normal") -> frozenset[int]:
    """The code points that a font draws; none where there is no such font."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    properties = FontProperties(family=[family], weight=weight)
    try:
        file = fontManager.findfont(properties, fallback_to_default=False)
        return frozenset(get_font(file).get_charmap())
    except (ValueError, OSError, RuntimeError):
        # RuntimeError: a font that matplotlib cannot draw, such as one of coloured pictures.
        return frozenset()


def draw_what_can_be(figure: Figure, name: str) -> None:
    """Choose fonts for all texts of a figure, and say once what none of them has.

    Args:
        figure: complete.
        name: of the picture, for the message.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FixedLocator

    axes = [axis for axes in figure.get_axes() for axis in (axes.xaxis, axes.yaxis)]
    # Where ticks have names, which are made again of these when the figure is drawn.
    named = {
        axis: [label.get_text() for label in axis.get_ticklabels()]
        for axis in axes
        if isinstance(axis.get_major_locator(), FixedLocator)
    }
    all_lost: set[str] = set()
    by_weight: dict[str, list[Text]] = {}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text():
            weight = "bold" if text.get_fontweight() == "bold" else "normal"
            by_weight.setdefault(weight, []).append(text)
    for weight, texts in by_weight.items():
        families, lost = _fonts({sign for text in texts for sign in text.get_text()}, weight)
        all_lost |= lost
        for text in texts:
            text.set_text(_drawable(text.get_text(), lost))
            if len(families) > 1:
                text.set_fontfamily(families)
        for axis, labels in named.items() if weight == "normal" else ():
            drawable = [_drawable(label, lost) for label in labels]
            if drawable != labels:
                axis.set_ticks(axis.get_ticklocs(), drawable)
            if len(families) > 1:
                axis.set_tick_params(labelfontfamily=families)
    # Of control characters it is no wonder.
    signs = sorted(sign for sign in all_lost if unicodedata.category(sign) != "Cc")
    if signs:
        shown = signs[:8]
        more = f" and {len(signs) - len(shown)} more" if len(signs) > len(shown) else ""
        log.warning(
            "No font here has %s%s: %s has %s and so on in their place; install a font that does, "
            "such as Noto Sans CJK or Noto Emoji.",
            ", ".join(shown),
            more,
            name,
            escape(shown[0]),
        )


def _fonts(signs: Iterable[str], weight: str) -> tuple[list[str], set[str]]:
    """Families that draw the signs, and the signs that none of them draws."""
    missing = {
        sign
        for sign in signs
        if sign != "\n"
        and not ("\x20" <= sign < "\x7f")
        and ord(sign) not in glyphs(FAMILY, weight)
    }
    families = [FAMILY]
    for family in FALLBACKS if missing else ():
        drawn = {sign for sign in missing if ord(sign) in glyphs(family, weight)}
        if drawn:
            families.append(family)
            missing -= drawn
    # What only joins, isolates or varies others is laid out, not drawn.
    return families, {sign for sign in missing if not _is_laid_out(sign)}


def _is_laid_out(sign: str) -> bool:
    return unicodedata.category(sign) == "Cf" or "\ufe00" <= sign <= "\ufe0f"


def _drawable(text: str, lost: Iterable[str]) -> str:
    for sign in lost:
        text = text.replace(sign, escape(sign))
    if len(text) <= LONGEST:
        return text
    return "\n".join(cut(line, LONGEST) for line in text.split("\n"))
