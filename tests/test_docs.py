"""The examples in the documentation run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

import libgraph as lg

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

FEW = 100
BUNDLED = partial(lg.load_backend, "modular-addition")
WITH_A_RUN = ("README.md", "tutorial.md", "look.md")


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda p: p.name)
def test_examples_run(page, tmp_path, monkeypatch, made_once):
    monkeypatch.chdir(tmp_path)
    # On few samples: what an example says is that it runs, not what comes out.
    analyze = partial(lg.analyze, limit=FEW)
    monkeypatch.setattr(lg, "analyze", analyze)
    if page.name in WITH_A_RUN:
        # One analysis for all that analyse the same: its stages are used again.
        first = made_once("run-of-examples", lambda path: analyze(BUNDLED(), out=path))
        for name in ("first", "modular-addition"):
            shutil.copytree(first, tmp_path / "runs" / name)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102
    for name, test in names.items():
        if name.startswith("test_"):
            test()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_run_and_print_what_they_show(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), str(notebook), "exec"), names)  # noqa: S102
        shown = "".join("".join(output["text"]) for output in cell["outputs"])
        # The words, not the numbers, which differ between processors.
        words = [re.findall(r"[a-zA-Z]+", text) for text in (shown, capsys.readouterr().out)]
        assert words[0][:12] == words[1][:12]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_says_what_it_is(page):
    """So that none passes by what is run: commands are, by `tests/cli/test_commands_in_docs.py`."""
    fences = re.findall(r"^ *```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "console", "text", "toml"}
    assert not any(fences[1::2])
    # Nor does code, as what is printed; but for what only a library of before can run.
    texts = re.findall(
        r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    code = re.compile(r"^(\$ |import |from \S+ import |def |class |\w+\.\w+\()", re.MULTILINE)
    assert [text for text in texts if code.search(text) and "HookedTransformer" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
