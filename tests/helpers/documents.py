"""Commands in the documentation, as people copy them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^ *```console\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


class Line(NamedTuple):
    """A line behind a prompt: its page, and its words without comment and redirection."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def lines() -> list[Line]:
    """Every one of all pages; variables of a block are filled in."""
    found = []
    for page in PAGES:
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            given: dict[str, str] = {}
            for line in block.replace("\\\n", " ").splitlines():
                prompt, _, command = line.strip().partition(" ")
                if prompt != "$":
                    continue
                for name, value in given.items():
                    command = command.replace(f"${name}", value)
                words = shlex.split(command, comments=True)
                if re.fullmatch(r"[A-Z]+=.* .*", words[0]):
                    name, _, value = words[0].partition("=")
                    given[name] = value
                    continue
                redirected = [place for place, word in enumerate(words) if word[:1] == ">"]
                found.append(Line(page.name, tuple(words[: (redirected or [None])[0]])))
    return found
