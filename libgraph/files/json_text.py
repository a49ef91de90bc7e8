"""JSON that comes in: of bounded size and depth, and without numbers that JSON does not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from pydantic import JsonValue

MOST_BYTES = 2**31
"""A file of JSON may have so many; the largest graphs have some hundred million."""

DEEPEST = 200
"""Brackets within brackets: files of this project have fewer than ten."""


def read_json_text(path: Path) -> JsonValue:
    """What a file of JSON holds.

    Raises:
        ValueError: saying what is wrong with it.
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size} bytes, more than {MOST_BYTES}")
    return parse_json(path.read_bytes())


def parse_json(content: bytes) -> JsonValue:
    """What JSON in UTF-8 says.

    Raises:
        ValueError: saying what is wrong with it.
    """
    text = content.decode("utf-8")
    if _depth(content) > DEEPEST:
        raise ValueError("brackets in it go too deep")
    value: JsonValue = json.loads(text, parse_constant=_no_number)
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _depth(content: bytes) -> int:
    """How deep brackets go; none deeper than all that are opened, which most files stay below."""
    opened = content.count(b"[") + content.count(b"{")
    if opened <= DEEPEST:
        return opened
    deepest = depth = 0
    # Brackets within texts count too: where those alone go too deep, they are left out.
    for byte in content.translate(None, _NO_BRACKETS):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest if deepest <= DEEPEST else _depth_without_texts(content)


def _depth_without_texts(content: bytes) -> int:
    deepest = depth = 0
    inside = escaped = False
    for byte in content:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEEPEST:
                return deepest
        elif byte in b"]}":
            depth -= 1
    return deepest


_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
