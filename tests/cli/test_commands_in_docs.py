"""Commands in the documentation: all are understood, and those that can run, run."""

from __future__ import annotations

import re
import shutil
import webbrowser
from pathlib import Path

import click
import pytest
import torch
from helpers.documents import ROOT, Line, lines
from helpers.graphs import planted
from safetensors.torch import save_file

import libgraph as lg
from libgraph.backend.registry import backend_class
from libgraph.report.attribution import Titles, write_attribution
from libgraph_cli.main import cli

LINES = list(dict.fromkeys(lines()))
OURS = [line for line in LINES if line.words[0] == "libgraph"]

ELSEWHERE = {
    "make": "builds an environment, or is the tests",
    "source": "a word of the shell",
    "pip": "installs: tests/test_release.py",
    "python": "a benchmark, minutes or more",
    "JAX_PLATFORMS=cpu": "a benchmark, with an extra that no test has",
    "libgraph": "here",
}
"""What lines begin with, and why it is not run here."""

LEFT_OUT = {
    r"download=true": "asks the network for data",
    r"model=(gpt2|roneneldan/|EleutherAI/|MODEL)": "asks the network for a model",
    r"mine\.pt|run-7/|saes|sae\.safetensors|book\.txt|ids\.npy": "reads own files",
    r"data=(cifar10|mnist)": "reads a data set that is not here",
    r" adder": "needs the plug-in: tests/test_release.py",
    r"seeds 10 --bases": "an hour",
    r"gram_sequences=240": "twenty minutes",
}
"""What is in lines that are not run, and why."""

STEPS = ("--sparse-steps", "5", "--dictionary-steps", "5")

SHORTER = {
    "analyze": ("--limit", "30", *STEPS),
    "compare": ("--limit", "30", *STEPS, "--draws", "1"),
    "degeneracy": ("--limit", "30", "--samples", "4", "--steps", "10", "--draws", "2"),
    "faithfulness": ("--limit", "20", "--draws", "1"),
    "prompt": ("--most-nodes", "20"),
    "train": ("-o", "steps=2"),
    "benchmark": ("--seeds", "1", "--samples", "200", "--steps", "5"),
    "view": ("--no-open",),
}
"""What commands get besides: on few samples an example says that it runs, not what comes out."""


OF_LANGUAGE = {"layers": "0:1", "sequences": "8", "n_ctx": "16"}
"""Options of the bundled language model, where a line does not give them."""


def command_of(words: tuple[str, ...]) -> tuple[click.Command, click.Context]:
    """The command of a line, and what it made of the line's words."""
    root = click.Context(cli, info_name="libgraph")
    if words[1:2] == ("--version",):
        return cli, root
    name, *rest = words[1:]
    loaded = cli.commands[name].load()
    if isinstance(loaded, click.Group) and rest:
        _, loaded, rest = loaded.resolve_command(root, rest)
    return loaded, loaded.make_context(name, list(rest), parent=root)


def test_there_are_lines():
    assert len(OURS) > 80
    assert {line.words[0] for line in LINES} <= set(ELSEWHERE)


@pytest.mark.parametrize("line", OURS, ids=str)
def test_its_options_are_there(line):
    command, context = command_of(line.words)
    option = context.params.get("option")
    (first, *_) = context.params.get("backend_or_runs", ()) or (None,)
    name = context.params.get("backend", first)
    if not option or name == "adder":
        return
    cls = backend_class(name)
    options = cls.Training if command.name == "train" else cls.Options
    assert set(option) <= set(options.model_fields)


@pytest.fixture(scope="module")
def examined(made_once):
    """The run that examples in Python look at: `tests/test_docs.py`."""
    backend = lg.load_backend("modular-addition")
    return made_once("run-of-examples", lambda path: lg.analyze(backend, limit=100, out=path))


@pytest.fixture(scope="module")
def language(made_once):
    backend = lg.load_backend("lm", sequences=8, layers="0:1", n_ctx=32)
    return made_once("run-of-language", lambda path: lg.analyze(backend, ablate=False, out=path))


@pytest.fixture(scope="module")
def learned(made_once):
    """With dictionaries, and the linear basis in whose coordinates they are compared."""
    backend = lg.load_backend("mlp", task="digits")
    options = {"basis": "dictionary", "beside": ["lib"], "ablate": False, "limit": 30}
    steps = {"dictionary_steps": 5, "dictionary_gradients": 0.0}
    return made_once(
        "run-of-dictionaries", lambda path: lg.analyze(backend, out=path, **options, **steps)
    )


@pytest.fixture
def place(run, tmp_path, examined, language, learned, monkeypatch):
    """A folder with all that the lines name; what is opened is opened by nobody."""
    monkeypatch.setattr(webbrowser, "open", lambda _: True)
    names = ("modular-addition", "first", "ma", "mod", "a", "b", "c")
    for name in (*names, "step-500", "step-1000"):
        shutil.copytree(examined, tmp_path / "runs" / name)
    shutil.copytree(language, tmp_path / "runs" / "lm")
    for name in ("seed-0", "seed-1"):
        shutil.copytree(learned, tmp_path / "runs" / name)
    graph, _ = planted()
    (tmp_path / "graphs").mkdir()
    for name in ("circuit.json", "graphs/my-prompt.json"):
        write_attribution(graph, tmp_path / name, Titles("circuit", "m", "p"))
    weights = dict(lg.load_backend("modular-addition").weights)
    torch.save(weights, tmp_path / "model.pt")
    (tmp_path / "models" / "two" / "steps").mkdir(parents=True)
    save_file(weights, tmp_path / "models" / "two" / "steps" / "004000.safetensors")
    (own,) = [block for block in blocks("your-model.md") if "class ResNet" in block]
    # Images small and random: the real ones are not here.
    images = "def data():\n    return torch.randn(40, 3, 8, 8), torch.arange(40) % 10\n"
    own = "import torch\n" + own[: own.index("def data(")] + images
    (tmp_path / "my_resnet.py").write_text(own)
    names: dict[str, object] = {"__name__": "my_resnet"}
    exec(own, names)  # noqa: S102
    save_file(names["build"]().state_dict(), tmp_path / "my_resnet.safetensors")
    return tmp_path


def blocks(page: str) -> list[str]:
    """Python of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def runnable() -> list[Line]:
    """Each once, whichever page has it."""
    found = {
        line.words: line
        for line in OURS
        if not any(re.search(part, str(line)) for part in LEFT_OUT)
    }
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("line", runnable(), ids=str)
def test_it_runs(line, run, place):
    _, name, *rest = line.words
    words = [
        found
        for word in rest
        for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
    ]
    free = [] if name == "diff" else ["--force"] if "--out" in words else []
    compares_runs = name == "compare" and words[0].startswith("runs/")
    more = [] if compares_runs or "--dry-run" in words else [*SHORTER.get(name, ())]
    if words[:1] == ["lm"]:
        missing = [key for key in OF_LANGUAGE if not any(f"{key}=" in word for word in words)]
        more += [part for key in missing for part in ("-o", f"{key}={OF_LANGUAGE[key]}")]
    code, out, err = run(name, *words, *more, *free)
    assert code == 0, err
    assert "Traceback" not in err
    assert out


def test_reasons_are_needed():
    for part in LEFT_OUT:
        assert any(re.search(part, str(line)) for line in OURS), part
