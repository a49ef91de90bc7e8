"""Texts that people, tokenizers and file systems come up with."""

from hypothesis import strategies as st

ODD = (
    "[/INST]", "[pad]", "[bold]", "[link=x]y[/link]", ":cat:", ":smile:", "\\[", "$x$", "%d", "{0}",
    "\x1b[2J\x1b]0;title\x07", "\r", "\x00", "\x85", "\u2028", "\u202e", "\u200d", "\ufe0f", "\xad",
    "שלום 12", "مرحبا 3%", "漢字", "한국어", "👩‍👩‍👧", "𝄞", "\U000e0041", "é", "e\u0301", "<&>'\"",
    " ", "\n", "\t", "->", "/", "|", " + ", "…",
)  # fmt: skip
"""Markup, codes of pictures, orders to terminals, scripts, joiners, signs that formats use."""

pieces = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)

texts = st.lists(pieces, min_size=1, max_size=6).map("".join) | pieces.filter(bool).map(
    lambda piece: (piece * 10_000)[:10_000]
)
"""Texts of these, or 10 000 characters of one of them; no halves of pairs."""

arguments = texts.filter(lambda text: "\0" not in text)
"""Those that a system hands over on a command line."""
