"""Damage to files: what bits, lengths, texts and numbers in them become, as Hypothesis draws it."""

from __future__ import annotations

import re

from hypothesis import strategies as st

WORDS = (
    b"null", b"true", b"NaN", b"-1", b"0", b"1e999", b"99999999999999999999", b"[]", b"{}", b'""',
    b"[" * 300, b'{"a":' * 300, b"9" * 5000, b"\xff\xfe", b"\0", b"inf", b"0.5", b'"\\ud800"',
    b"2020-01-01", b"'x'", b"1e-320", b"\n", b"I", b"\x80\x04", b"PK\x05\x06", b"bytearray",
)  # fmt: skip
NUMBERS = (0, 1, -1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
           2**62, 2**63 - 1)  # fmt: skip
NUMBER = re.compile(rb"-?\d+")
WORD = re.compile(rb"[A-Za-z_]+|-?\d[\d.e+-]*|[\[\]{}(),:<>=\"']")

place = st.floats(0, 1, exclude_max=True)


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of the contents, with a few changes; now and then bytes that are nothing."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    content = draw(st.sampled_from(contents))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 4)))):
        content = draw(st.sampled_from(CHANGES))(draw, content)
    return content


def _flip(draw: st.DrawFn, content: bytes) -> bytes:
    at = _at(draw, content)
    return content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]


def _cut(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: _at(draw, content)]


def _leave_out(draw: st.DrawFn, content: bytes) -> bytes:
    at = _at(draw, content)
    return content[:at] + content[at + draw(st.integers(1, 40)) :]


def _put_in(draw: st.DrawFn, content: bytes) -> bytes:
    at = _at(draw, content)
    return content[:at] + draw(st.sampled_from(WORDS)) + content[at:]


def _repeat(draw: st.DrawFn, content: bytes) -> bytes:
    at, length = _at(draw, content), draw(st.integers(1, 60))
    return content[: at + length] + content[at:]


def _write_number(draw: st.DrawFn, content: bytes) -> bytes:
    at, width = _at(draw, content), draw(st.sampled_from((1, 2, 4, 8)))
    number = draw(st.sampled_from(NUMBERS)) % 256**width
    order = draw(st.sampled_from(("little", "big")))
    return content[:at] + number.to_bytes(width, order) + content[at + width :]


def _other_number(draw: st.DrawFn, content: bytes) -> bytes:
    found = list(NUMBER.finditer(content))
    if not found:
        return content
    chosen = found[int(draw(place) * len(found))]
    number = draw(st.sampled_from(NUMBERS) | st.integers(-(10**6), 10**12))
    return content[: chosen.start()] + str(number).encode() + content[chosen.end() :]


def _other_word(draw: st.DrawFn, content: bytes) -> bytes:
    found = list(WORD.finditer(content[:20_000]))
    if not found:
        return content
    one, other = (found[int(draw(place) * len(found))] for _ in range(2))
    word = draw(st.sampled_from(WORDS) | st.just(other[0]))
    return content[: one.start()] + word + content[one.end() :]


def _at(draw: st.DrawFn, content: bytes) -> int:
    # Most is decided by what comes first, and in archives by what comes last.
    length = len(content)
    span = draw(
        st.sampled_from(((0, length), (0, min(length, 200)), (max(0, length - 200), length)))
    )
    return span[0] + int(draw(place) * (span[1] - span[0]))


CHANGES = (_flip, _cut, _leave_out, _put_in, _repeat, _write_number, _other_number, _other_word)
