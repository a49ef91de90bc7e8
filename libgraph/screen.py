"""What commands print, and `print(run)`: text as it is, and tables that lose nothing.

Nothing that users name is markup, the code of a picture or an order to the terminal. Where there is
no terminal, lines are as long as they have to be; on a narrow one words are folded, columns that
have no room go on below, and no number is cut.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from libgraph.visible import encodable, in_line, visible

UNFOLDED = 10_000
"""Characters in a line, where nobody's terminal has to hold it."""

MOST = 200
"""Characters in a column; longer words go on in the next line, wherever they are printed."""

LEAST = 12
"""Characters to which words and headings may be folded."""

GAP = "  "
"""Between columns."""


class Screen(Console):
    """A console that prints text as it is, in any encoding.

    Args:
        file: where to; standard output by default.
        stderr: print to standard error.
        width: characters in a line; by default those of the terminal, and no end elsewhere.
        force_terminal: whether it is one; by default what is found, or the environment says.
    """

    def __init__(
        self,
        *,
        file: IO[str] | None = None,
        stderr: bool = False,
        width: int | None = None,
        force_terminal: bool | None = None,
    ) -> None:
        super().__init__(
            file=file,
            stderr=stderr,
            width=width,
            force_terminal=force_terminal,
            markup=False,
            emoji=False,
            highlight=False,
        )
        # Some that run commands for others set COLUMNS=0.
        if not self._width:
            self._width = None if self.is_terminal else UNFOLDED

    def render_str(self, text: str, **options: Any) -> Text:
        """The text, with escapes for what this screen cannot show."""
        return super().render_str(encodable(visible(text), self.encoding), **options)

    def say(self, text: str) -> None:
        """Print a sentence that only the terminal breaks: paths in it can be copied."""
        tell(self, text, whole=True)

    def on_broken_pipe(self) -> None:
        """Leave the end to the command where nobody reads on; what is told beside it just stops."""
        if not self.stderr:
            raise BrokenPipeError
        self.quiet = True
        with suppress(OSError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stderr.fileno())


def tell(
    console: Console, *parts: str | tuple[str, str], style: str = "", whole: bool = False
) -> None:
    """Print a sentence on any console, whatever is in it.

    Args:
        console: where to.
        parts: of the sentence, or pairs of one and its style.
        style: of all of it.
        whole: have nothing but the terminal break its lines.
    """
    text = Text(style=style)
    for part in parts:
        words, kind = (part, "") if isinstance(part, str) else part
        text.append(encodable(visible(words), console.encoding), kind or None)
    console.print(text, soft_wrap=whole)


class _Block(NamedTuple):
    """Columns that stand beside each other, and how wide each is."""

    places: Sequence[int]
    widths: Sequence[int]


@dataclass
class PlainTable:
    """A table without lines; `show` prints it, as wide as it may be.

    Args:
        headings: of the columns.
        keys: so many first columns say what a row is about: their cells stand at the left, may be
            folded, and are repeated where columns go on below.
        words: places of further columns that may be folded; others hold numbers.
        left: places of further columns whose cells stand at the left.
        heading_style: of the headings.
        caption: a line below, if there is something to say.
    """

    headings: Sequence[str]
    keys: int = 1
    words: Collection[int] = ()
    left: Collection[int] = ()
    heading_style: str = "bold"
    caption: str = ""
    _rows: list[tuple[str, ...]] = field(default_factory=list, init=False)
    _bold: list[Collection[int]] = field(default_factory=list, init=False)

    def add_row(self, *cells: str, bold: Collection[int] = ()) -> None:
        """Add a row; the cells at the places of `bold` are printed so."""
        self._rows.append(tuple(in_line(cell) for cell in cells))
        self._bold.append(bold)

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        """Cells by row."""
        return self._rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Its lines."""
        headings = [encodable(visible(heading), console.encoding) for heading in self.headings]
        rows = [[encodable(cell, console.encoding) for cell in row] for row in self._rows]
        for number, block in enumerate(self._blocks(headings, rows, options.max_width)):
            if number:
                yield Text()
            yield from self._lines(console, block, headings, [self.heading_style] * len(headings))
            for row, bold in zip(rows, self._bold, strict=True):
                styles = ["bold" if place in bold else "" for place in range(len(row))]
                yield from self._lines(console, block, row, styles)
        if self.caption:
            yield Text(self.caption)

    def _blocks(
        self, headings: Sequence[str], rows: Sequence[Sequence[str]], width: int
    ) -> Iterator[_Block]:
        """All columns beside each other where there is room, else as many as there is room for."""
        natural, bodies, least = [], [], []
        for place, heading in enumerate(headings):
            cells = max((_width(row[place]) for row in rows), default=0)
            folds = place < self.keys or place in self.words
            natural.append(min(max(_width(heading), cells), MOST))
            # A heading is broken between its words, and within one only if that is long.
            word = min(max(map(cell_len, heading.split()), default=0), LEAST)
            bodies.append(cells)
            least.append(min(natural[-1], LEAST if folds else max(word, cells)))
        blocks = self._split(least, width)
        # Where columns go on below in any case, names stay whole if that takes no more of it.
        whole = [*natural[: self.keys], *least[self.keys :]]
        unfolded = self._split(whole, width)
        fit = all(_across(places, whole) <= width for places in unfolded)
        if len(blocks) == len(unfolded) > 1 and fit:
            blocks, least = unfolded, whole
        for places in blocks:
            yield _block(places, natural, bodies, least, width)

    def _split(self, least: Sequence[int], width: int) -> list[list[int]]:
        """Places of the columns that stand beside each other, the keys in front of each lot."""
        keys = list(range(self.keys))
        blocks = [keys]
        for place in range(self.keys, len(self.headings)):
            wanted = [*blocks[-1], place]
            if len(wanted) > self.keys + 1 and _across(wanted, least) > width:
                blocks.append([*keys, place])
            else:
                blocks[-1] = wanted
        return blocks

    def _lines(
        self, console: Console, block: _Block, cells: Sequence[str], styles: Sequence[str]
    ) -> Iterator[Text]:
        """One row, which folded cells make several lines of."""
        folded = [
            _folded(console, cells[place], width)
            for place, width in zip(block.places, block.widths, strict=True)
        ]
        for number in range(max(map(len, folded), default=0)):
            line = Text(no_wrap=True, overflow="ignore")
            for place, width, parts in zip(block.places, block.widths, folded, strict=True):
                part = parts[number] if number < len(parts) else ""
                pad = " " * (width - cell_len(part))
                at_left = place < self.keys or place in self.left
                line.append(GAP if line else "")
                line.append("" if at_left else pad)
                line.append(part, styles[place] or None)
                line.append(pad if at_left else "")
            line.rstrip()
            yield line


def show(console: Console, table: PlainTable) -> None:
    """Print a table on any console; where even one column has no room, the terminal breaks it."""
    console.print(table, crop=False)


def _across(places: Sequence[int], widths: Sequence[int]) -> int:
    """Characters in a line that these columns take."""
    return sum(widths[place] for place in places) + len(GAP) * (len(places) - 1)


def _block(
    places: Sequence[int],
    natural: Sequence[int],
    bodies: Sequence[int],
    least: Sequence[int],
    width: int,
) -> _Block:
    """Columns as wide as there is room: the widest give way first, headings before cells."""
    widths = [natural[place] for place in places]
    room = width - len(GAP) * (len(places) - 1)
    # A heading that is broken costs a line, cells that are folded one in every row.
    for floors in (bodies, least):
        while sum(widths) > room:
            floor = [max(floors[place], least[place]) for place in places]
            loose = [n for n in range(len(places)) if widths[n] > floor[n]]
            if not loose:
                break
            widths[max(loose, key=widths.__getitem__)] -= 1
    return _Block(places, widths)


def _width(text: str) -> int:
    return max(map(cell_len, text.split("\n")))


def _folded(console: Console, text: str, width: int) -> list[str]:
    """The lines of a cell, broken between words where that is possible."""
    if _width(text) <= width:
        return text.split("\n")
    lines = Text(text).wrap(console, max(width, 1), overflow="fold")
    return [line.plain.rstrip() for line in lines]
