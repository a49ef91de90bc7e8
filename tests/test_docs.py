"""The examples in the documentation run as they stand there."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

import libgraph as lg

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FEW = 100


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda p: p.name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # On few samples: what an example says is that it runs, not what comes out.
    monkeypatch.setattr(lg, "analyze", partial(lg.analyze, limit=FEW))
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
