"""What pyproject.toml cannot say: on the index, links of the README lead to the repository."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\])*\])\((?!https?:|#)([^)]+)\)")


def readme(text: str, repository: str, version: str) -> str:
    """The README with absolute links, to the files as they were in this version."""

    def absolute(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}{words}({repository}/{kind}/v{version}/{target})"

    return LINK.sub(absolute, text)


def version() -> str:
    """As the package has it, without importing it."""
    text = (ROOT / "libgraph" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        long_description=readme(
            (ROOT / "README.md").read_text(encoding="utf-8"),
            project["urls"]["Repository"],
            version(),
        ),
        long_description_content_type="text/markdown",
    )
