"""`libgraph ablate`, `steer` and `prompt`: what they print, write and refuse."""

import json

import pytest
from helpers.commands import fails

import libgraph as lg
from libgraph.report.reading import read_graph


@pytest.fixture(scope="module")
def addition(made_once):
    """A run of modular addition on disk."""

    def make(path):
        backend = lg.load_backend("modular-addition")
        lg.analyze(backend, ablate=False, beside=(), limit=300, out=path)

    return made_once("asked-addition", make)


@pytest.fixture(scope="module")
def characters(made_once):
    """A run of the first block of the model of characters."""

    def make(path):
        backend = lg.load_backend("lm", sequences=8, layers="0:1", n_ctx=16)
        lg.analyze(backend, ablate=False, beside=(), out=path)

    return made_once("asked-characters", make)


def test_ablate_prints_a_row_for_each_feature_and_one_for_all(run, addition):
    code, out, err = run("ablate", addition, "ln2.0/1", "module:0", "--limit", "100")
    assert code == 0, err
    assert "ln2.0/1 + module:0" in out
    assert "The whole model: accuracy 1 on 100 samples" in " ".join(out.split())
    code, out, err = run("ablate", addition, "ln2.0/1", "--how", "zero", "--limit", "100", "--json")
    values = json.loads(out)
    assert values["score"] == 1
    assert values["interventions"][0]["name"] == "ln2.0/1=0"
    assert values["interventions"][0]["score"] < 1


def test_a_feature_beside_its_module_is_changed_once(run, addition):
    member = lg.open_run(addition).module(0).members[0]
    values = json.loads(run("ablate", addition, member, "module:0", "--limit", "50", "--json")[1])
    _, module, both = values["interventions"]
    assert both["score"] == module["score"]
    fails(run("ablate", addition, f"{member}=2x", "module:0"), 2, "twice")


def test_steer_says_what_comes_next(run, addition):
    code, out, err = run("steer", addition, "ln2.0/1=1x", "--text", "12 + 45", "--json")
    assert code == 0, err
    values = json.loads(out)
    best = max(values["probabilities"], key=lambda each: each["base"])
    assert best["name"] == "57"
    assert best["steered"] == pytest.approx(best["base"], abs=1e-9)
    code, out, err = run("steer", addition, "module:0=2x", "--sample", "3")
    assert code == 0, err
    assert "What comes next with module:0=2x" in out


def test_a_text_goes_on(run, characters):
    arguments = ("steer", characters, "0.resid_mid/3=1x", "--text", "To be", "--json")
    values = json.loads(run(*arguments, "--tokens", "6")[1])
    assert len(values["continuation"]) == 6
    assert values["steered_continuation"] == values["continuation"]
    arguments = ("steer", characters, "0.resid_mid/3=1x", "--text", "To be", "--tokens", "6")
    drawn = [
        json.loads(run(*arguments, "--temperature", "2", "--seed", seed, "--json")[1])
        for seed in ("1", "1", "2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompt_prints_nodes_and_edges_and_writes_files(run, characters, tmp_path, reference):
    jsonschema = pytest.importorskip("jsonschema")
    code, out, err = run("prompt", characters, "To be or", "--out", tmp_path / "graph.json")
    assert code == 0, err
    assert "What it is made of" in out
    assert "Edges that carry most" in out
    document = json.loads((tmp_path / "graph.json").read_text(encoding="utf-8"))
    schema = json.loads((reference / "attribution-graph-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)
    assert document["metadata"]["prompt_tokens"] == list("To be or")
    assert {node["ctx_idx"] for node in document["nodes"]} <= set(range(8))
    graph = read_graph(tmp_path / "graph.json")
    assert sum(layer.size for layer in graph.layers) == len(document["nodes"])
    for kind in ("html", "graphml", "png"):
        code, out, err = run("prompt", characters, "To be", "--out", tmp_path / f"graph.{kind}")
        assert code == 0, err
        assert (tmp_path / f"graph.{kind}").stat().st_size > 1000
    plan = run("prompt", characters, "To be", "--dry-run")[1]
    assert "MiB of edges at most" in plan
    values = json.loads(run("prompt", characters, "To be", "--json")[1])
    assert sum(output["probability"] for output in values["outputs"]) <= 1 + 1e-9
    ids = {node["id"] for node in values["nodes"]}
    assert all({edge["source"], edge["target"]} <= ids for edge in values["edges"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ablate", "{run}", "ln2.0/999"), "There is no feature"),
        (("ablate", "{run}", "ln2.0/1=two"), "after = stands a number"),
        (("ablate", "{run}", "ln2.0/1", "--positions", "x"), "are no positions"),
        (("steer", "{run}", "ln2.0/1=2x"), "Give a text, or the number of a sample"),
        (("steer", "{run}", "ln2.0/1=2x", "--text", "hello"), "is no sum of two numbers"),
        (("steer", "{run}", "ln2.0/1=2x", "--text", "1+200"), "is no sum of two numbers below 113"),
        (("steer", "{run}", "ln2.0/1", "--text", "1+2", "--tokens", "2"), "do not continue"),
        (("prompt", "{run}", "--sample", "99999"), "There is no sample 99999"),
        (("prompt", "{run}", "1+2", "--out", "graph.txt"), "give FILE such an ending"),
        (("ablate", "{run}", "module:-1"), "There is no module -1"),
        (
            ("prompt", "{run}", "1+2", "--class", "114"),
            "no class 114: they are numbers from 0",
        ),
        (("prompt", "{run}", "1+2", "--class", "-1", "--dry-run"), "There is no class -1"),
        (("prompt", "{run}", "1+2", "--integration", "simpson"), "Unknown integration"),
    ],
)
def test_mistakes_are_one_sentence(run, addition, arguments, message):
    fails(run(*(addition if part == "{run}" else part for part in arguments)), 2, message)
