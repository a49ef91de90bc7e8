"""Text on screens: as it is, in any encoding, and in tables that lose nothing when narrow."""

from __future__ import annotations

import io
import re

import pytest
from helpers.examples import examples
from helpers.texts import texts
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from libgraph.screen import LEAST, PlainTable, Screen, show, tell
from libgraph.visible import encodable, in_line, isolated, visible

NAMES = ("[pad]", "[/INST]", ":cat:", "[bold red]x[/]", "\\[b]", "{task}", "%s")


def printed(table: PlainTable, width: int | None = None) -> str:
    screen = Screen(file=io.StringIO(), width=width)
    show(screen, table)
    return screen.file.getvalue()


@pytest.mark.parametrize("console", [Console, Screen])
def test_text_is_no_markup(console):
    screen = console(file=io.StringIO(), width=200)
    table = PlainTable(NAMES)
    table.add_row(*NAMES)
    table.caption = "[end]"
    show(screen, table)
    for name in NAMES:
        tell(screen, (name, "bold"), f": {name}")
    out = screen.file.getvalue()
    for name in NAMES:
        assert out.count(name) >= 4
    assert "[end]" in out


def test_strings_are_no_markup_on_a_screen():
    screen = Screen(file=io.StringIO())
    for name in NAMES:
        screen.print(name)
    assert screen.file.getvalue().split("\n")[:-1] == list(NAMES)


def test_orders_to_a_terminal_are_seen_and_not_obeyed():
    text = "a\x1b[2Jb\rc\x07d\x9be\u202ef\ud83d"
    expected = "a\\x1b[2Jb\\rc\\x07d\\x9be\\u202ef\\ud83d"
    assert visible(text) == expected
    assert in_line("a\tb\nc") == "a\\tb\\nc"
    assert visible("héllo 漢字 שלום 👩‍🔬 a\tb\nc") == "héllo 漢字 שלום 👩‍🔬 a\tb\nc"
    screen = Screen(file=io.StringIO())
    screen.print(text)
    screen.say(text)
    table = PlainTable([text])
    table.add_row(text)
    show(screen, table)
    assert screen.file.getvalue() == f"{expected}\n" * 4


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "a → b × 漢 é"),
        ("cp1252", "a -> b × \\u6f22 é"),
        ("latin-1", "a -> b × \\u6f22 é"),
        ("ascii", "a -> b x \\u6f22 \\xe9"),
        ("no such encoding", "a → b × 漢 é"),
    ],
)
def test_what_an_encoding_lacks_is_written_otherwise(encoding, expected):
    assert encodable("a → b × 漢 é", encoding) == expected


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "shift_jis"])
def test_tables_in_other_encodings_stay_in_columns(encoding):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    table = PlainTable(("γ", "Δ 0.1"))
    table.add_row("a → b", "1")
    table.add_row("long → 漢字", "22")
    show(Screen(file=file), table)
    file.seek(0)
    lines = file.read().splitlines()
    assert len({cell_len(line) for line in lines}) == 1
    assert [line[-2:] for line in lines[1:]] == [" 1", "22"]


def numbers_in(out: str) -> list[str]:
    return re.findall(r"#\d+#", out)


@pytest.mark.parametrize("width", [5, 12, 25, 40, 60, 80, 200])
def test_no_number_is_cut_and_no_name_lost(width):
    table = PlainTable(
        ["layer", *(f"measure {n} of many" for n in range(9)), "concept", "last"], words={10}
    )
    name = "blocks.11.hook_resid_post_of_a_long_name"
    for row in range(3):
        numbers = [f"#{row}{n}{'7' * n}#" for n in range(9)]
        table.add_row(f"{row}{name}", *numbers, "some words that say much", f"#{row}99#")
    out = printed(table, width)
    assert sorted(numbers_in(out)) == sorted(
        [f"#{row}{n}{'7' * n}#" for row in range(3) for n in range(9)]
        + [f"#{row}99#" for row in range(3)]
    )
    # Folded names are whole when their lines are put together.
    column = max(LEAST, 1)
    joined = "".join(line[:column].strip() for line in out.splitlines())
    assert width > 60 or all(f"{row}blocks.11." in joined for row in range(3))
    if width >= 40:
        assert max(map(cell_len, out.splitlines())) <= width


def test_headings_are_broken_before_names_are_folded():
    table = PlainTable(("section", "units", "groups (of)"))
    table.add_row("hidden1 → hidden2", "32", "97 (2–9)")
    assert printed(table, 34).splitlines() == [
        "section            units    groups",
        "                              (of)",
        "hidden1 → hidden2     32  97 (2–9)",
    ]


def test_names_are_folded_before_columns_go_below():
    table = PlainTable(("name", "features", "kept"))
    table.add_row("a name of several words", "1000", "10")
    assert printed(table).splitlines() == [
        "name                     features  kept",
        "a name of several words      1000    10",
    ]
    assert printed(table, 34).splitlines() == [
        "name                features  kept",
        "a name of several       1000    10",
        "words",
    ]
    lines = printed(table, 20).splitlines()
    assert lines[:4] == ["name          features", "a name of         1000", "several", "words"]
    assert lines[4:] == ["", "name            kept", "a name of         10", "several words"]


def test_names_stay_whole_where_columns_go_below_in_any_case():
    table = PlainTable(("measure", "where", *("lib", "neuron", "pca", "sparse")), keys=2)
    table.add_row("edges needed, Δ 0.001", "hidden1 → hidden2", *(["123456"] * 4))
    assert printed(table, 56).splitlines() == [
        "measure                where                 lib  neuron",
        "edges needed, Δ 0.001  hidden1 → hidden2  123456  123456",
        "",
        "measure                where                 pca  sparse",
        "edges needed, Δ 0.001  hidden1 → hidden2  123456  123456",
    ]


@given(
    cells=st.lists(st.lists(texts, min_size=3, max_size=3), max_size=3),
    width=st.integers(1, 120) | st.none(),
)
@examples(20)
def test_tables_of_any_text(cells, width):
    table = PlainTable(("a", "b", "c"), words={1})
    for row in cells:
        table.add_row(*row)
    out = printed(table, width)
    assert "\x1b" not in out
    for *_, number in cells:
        # As a number it is not folded, unless it is longer than any.
        cell = in_line(number).rstrip()
        if cell_len(cell) <= 200:
            assert cell in out or " " in cell


def test_words_from_right_to_left_are_isolated():
    assert isolated("token") == "token"
    assert isolated("漢字") == "漢字"
    assert isolated("שלום") == "\u2068שלום\u2069"
    assert isolated("a سلام") == "\u2068a سلام\u2069"
