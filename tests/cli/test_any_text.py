"""Any text in names, labels, paths and options: no command fails over it, and none changes it."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.metadata import entry_points
from io import StringIO
from typing import NamedTuple

import pytest
import torch
from helpers.examples import examples
from helpers.networks import random_network
from helpers.numbers import normal, seeded
from helpers.texts import ODD, arguments, texts
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from libgraph.backend.contract import Backend, Batch
from libgraph.backend.registry import ENTRY_POINTS
from libgraph.graph.features import FeatureLabel
from libgraph.network.network import Network
from libgraph.report.reading import read_graph
from libgraph_cli.main import COMMANDS, main
from libgraph_cli.progress import ProgressDisplay


class Names(NamedTuple):
    """Whatever a backend calls things."""

    layers: tuple[str, str, str]
    token: str
    concept: str
    score: str


class Named(Backend):
    """A small network whose words are chosen."""

    name = "named"
    summary = "[b]small[/c] :cat:"
    given = Names(("a", "b", "c"), "t", "concept", "accuracy")

    def __init__(self, options=None) -> None:
        super().__init__(options)
        self.concept, self.score_name = self.given.concept, self.given.score

    def network(self) -> Network:
        network = random_network(["relu", "linear"], [3, 3, 2], rotated=False)
        layers = [
            replace(layer, name=name)
            for layer, name in zip(network.node_layers, self.given.layers, strict=True)
        ]
        return Network(network.embed, list(network.sections), layers)

    def samples(self, split):
        return 24

    def batches(self, split, batch_size):
        inputs = normal(seeded(1), 24, 1, 3).float()
        for part in inputs.split(batch_size):
            yield Batch(part, torch.zeros(len(part), dtype=torch.int64))

    def score(self, outputs, targets):
        return (outputs[:, -1].argmax(-1) == targets).to(outputs.dtype)

    def labels(self, encode, bases):
        token = self.given.token
        label = FeatureLabel(f"60% {token} | 40% b", {token: 0.6, "b": 0.4})
        return {name: [label] * len(basis.importance) for name, basis in bases.items()}


class Entry:
    """Where the backend is said to be installed."""

    name, value = "named", "somewhere:Named"

    def load(self):
        return Named


@pytest.fixture
def installed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "libgraph.backend.registry.entry_points",
        lambda group: [Entry(), *entry_points(group=ENTRY_POINTS)],
    )
    return tmp_path


def called(*words: object) -> tuple[int, str, str]:
    """Run the command: whatever it raises fails the test."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.setattr(sys, "argv", ["libgraph", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    told = out.getvalue(), err.getvalue()
    assert not any(sign in text for text in told for sign in ("Traceback", "\x1b[2J", "\x07"))
    return code, *told


def done(*words: object) -> str:
    code, out, err = called(*words)
    assert code == 0, err
    return out


names = st.builds(
    Names,
    st.tuples(texts, texts, texts).filter(lambda three: len(set(three)) == 3),
    texts,
    texts,
    texts,
)
OFTEN = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@given(given=names)
@example(Names(("h[in]\x1b[2J", "a[/b]\r\n", ":cat:"), "[/INST]", "[pad]\x07", "{x}\x00"))
@example(Names(("שלום", "漢字" * 5000, "👩‍👩‍👧"), "مرحبا 3%", "\u200d", "\ufe0f"))
@settings(examples(1), **OFTEN)
def test_words_of_a_backend_in_every_command(installed, tmp_path_factory, given):
    folder = tmp_path_factory.mktemp("named")
    a = folder / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Named, "given", given)
        patch.setattr("libgraph.report.style.RESOLUTION", 20)
        found = json.loads(done("analyze", "named", "--no-ablation", "--json", "--out", a))
        done("analyze", "named", "--dry-run")
        done("communities", a, "--write")
        done("compare", a, "--figure", folder / "c.png")
    assert tuple(found["node_layers"]) == given.layers
    assert (found["concept"], found["score"]["name"]) == (given.concept, given.score)
    graph = read_graph(a / "graph.json")
    assert tuple(layer.name for layer in graph.layers) == given.layers
    assert graph.layers[0].labels[0].concepts == {given.token: 0.6, "b": 0.4}
    modules = json.loads(done("communities", a, "--json", "--resolution", 2))
    assert {each["concept"] for each in modules["table"]} <= {given.token, "b", None}
    done("diff", a, a, "--basis-b", "pca")
    done("diff", a, a, a)
    assert "[b]small[/c] :cat:" in done("backends")


def test_a_name_that_no_file_can_hold_is_refused(installed, monkeypatch):
    for names, part in (
        (("a\ud800", "b", "c"), "half a character"),
        (("a", "a", "c"), "different names"),
    ):
        monkeypatch.setattr(Named, "given", Names(names, "t", "c", "s"))
        code, _, err = called("analyze", "named")
        assert code == 3
        assert part in err


VALUES = {
    "ablate": (("{}", "a/1"), (".", "{}"), (".", "a/1={}"), (".", "a/1", "--how", "{}")),
    "analyze": (
        ("{}",), ("named", "--basis", "{}"), ("named", "--truncate", "{}"), ("named", "-o", "{}"),
        ("named", "-o", "{}=1"), ("named", "--device", "{}"), ("named", "--seed", "{}"),
        ("named", "--config", "{}"), ("mlp", "-o", "task={}"), ("mlp", "-o", "model={}"),
        ("mlp", "-o", "task=own", "-o", "data={}"), ("cifar", "-o", "data={}"), ("named", "{}"),
        ("modular-addition", "-o", "weights={}"), ("named", "--out", "/dev/null/{}"),
        ("named", "--{}"),
    ),
    "backends": (("{}",),),
    "benchmark": (("{}",), ("--bases", "{}"), ("--seeds", "{}"), ("--config", "{}")),
    "communities": (("{}",), (".", "--basis", "{}"), ("{}", "--resolution", "{}")),
    "completion": (("{}",),),
    "compare": (("{}",), ("{}", "{}"), ("named", "--bases", "{}"), ("named", "--figure", "{}")),
    "degeneracy": (("{}",), ("named", "--{}"), ("mlp", "-o", "{}")),
    "diff": (("{}", "{}"), (".", ".", "--basis", "{}"), (".", ".", "--figure", "{}")),
    "doctor": (("{}",), ("{}", "--json")),
    "export": (("{}",), (".", "--format", "{}"), ("{}", "--layers", "{}")),
    "faithfulness": (("{}",), (".", "--basis", "{}"), (".", "--baseline", "{}")),
    "prompt": (("{}", "1"), (".", "{}"), (".", "1", "--integration", "{}")),
    "show": (("{}", "{}"), (".", "{}"), ("{}", ".", "--basis", "{}")),
    "steer": (("{}", "a/1", "--text", "1"), (".", "{}"), (".", "a/1", "--text", "{}")),
    "view": (("{}",), (".", "--feature", "{}"), ("{}", "--no-open")),
    "train": (("{}",), ("mlp", "-o", "{}"), ("mlp", "-o", "steps={}"), ("mlp", "--seed", "{}")),
}  # fmt: skip
"""What is put on the command line, with a text in it that is no good there."""


@given(text=arguments, data=st.data())
@settings(examples(6), **OFTEN)
def test_any_text_on_the_command_line(installed, text, data):
    assert VALUES.keys() == COMMANDS.keys()
    # Numbers and names of ours would be taken, and a word of odd signs is none.
    text = data.draw(st.sampled_from([piece for piece in ODD if "\0" not in piece])) + text
    for command, all_words in VALUES.items():
        words = data.draw(st.sampled_from(all_words))
        code, _, err = called(command, *(word.replace("{}", text) for word in words))
        assert code in (2, 3, 4), (command, words, err[:500])
        assert err.strip()


def test_bars_show_text_as_it_is(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with ProgressDisplay() as display:
        for name in ("modules, a[/b]", ":cat: [red]x", "\x1b[2J"):
            display(name, 1, 1, f"note {name}")
    err = capsys.readouterr().err
    assert "note modules, a[/b]" in err
    assert ":cat: [red]x" in err
    assert "\x1b[2J" not in err
