"""The page in a real browser: what people do on it, and that it asks for nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers.browser import browser
from helpers.graphs import planted

import libgraph as lg
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.report.page.page import write_page
from libgraph.runs.saved_run import open_run


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def digits(made_once):
    """The bundled model of digits, analysed: the only bundled one that takes a second."""
    pytest.importorskip("sklearn")

    def make(path):
        lg.analyze(lg.load_backend("mlp", task="digits"), out=path, seeds=2)

    return made_once("page-digits", make)


def test_what_is_asked_of_the_page_is_what_the_run_says(page, digits):
    run = open_run(digits)
    page.open(digits / "report.html")
    assert page.requests() == []
    assert page.complaints() == []
    assert f"{run.metrics.score.test:.4f}" in page.text(".facts")
    kept = sum(len(run.graph().kept_edges(pair).weight) for pair in run.pairs)
    assert page.text("#shown") == f"{kept} of {kept}"
    # A figure of every table.
    figures = run.metrics.bases["lib"]
    below = page.text("#below")
    for layer, features in figures.features.items():
        assert layer in below
        assert str(features) in below
    assert f"{figures.modules.modularity:.3f}" in below
    assert str(next(iter(figures.edges_required.values())).popitem()[1]) in below

    # Curves are where they belong.
    inside = page(
        "const frame = document.getElementById('curve-frame').getBoundingClientRect();"
        "const plot = document.querySelector('#curve-frame .bk-Figure').getBoundingClientRect();"
        "return [plot.top - frame.top, frame.bottom - plot.bottom, plot.height]"
    )
    assert inside[0] >= -1
    assert inside[1] >= -1
    assert inside[2] > 100

    # The slider, in powers of the number of edges.
    page("const r = document.getElementById('count'); r.value = 500;"
         "r.dispatchEvent(new Event('input'));")  # fmt: skip
    assert page.text("#shown").split(" of ")[0] == str(round(kept**0.5))
    drawn = page(
        "const doc = Bokeh.documents.find((d) => d.roots()[0].name === 'lib-graph');"
        "let n = 0; for (const r of doc.roots()[0].renderers)"
        "if (/-edges-/.test(r.name)) n += r.data_source.data.x.length / 3; return n;"
    )
    assert drawn == round(kept**0.5)


def test_a_feature_is_clicked_on_and_followed(page, digits):
    run = open_run(digits)
    page.open(digits / "report.html")
    feature = next(f for f in run.search("hidden1/") if f.module >= 0 and f.inputs())
    page.click_at(*page("return window.libgraph.pixel(arguments[0])", feature.id))
    assert page.text("#panel h2").startswith(feature.id)
    assert page("return decodeURIComponent(location.hash)") == f"#{feature.id}"
    assert page.text("#panel .label") == feature.label.text
    listed = page(
        "return [...document.querySelectorAll('#panel [data-side=into] button')]"
        ".map((button) => button.dataset.feature)"
    )
    assert listed == [link.feature for link in feature.inputs(10)]
    shares = page(
        "return [...document.querySelectorAll('#panel [data-side=into] .part')]"
        ".map((part) => part.textContent)"
    )
    assert float(shares[0].split()[0]) == pytest.approx(100 * feature.inputs()[0].share, abs=0.5)
    assert page("return document.querySelectorAll('#panel .thumb').length") == len(
        feature.examples()
    )
    # Its strongest input, by a click and by a key; and back.
    strongest = feature.inputs()[0].feature
    page.click(f'#panel [data-feature="{strongest}"]')
    assert page.text("#panel h2").startswith(strongest)
    page("history.back()")
    page.settle()
    assert page.text("#panel h2").startswith(feature.id)
    page.press("\ue012")
    assert page.text("#panel h2").startswith(strongest)
    page.press("\ue00c")
    assert page.text("#panel h2") == "Nothing selected"
    assert page.complaints() == []


def test_a_module_a_search_a_link_and_the_other_basis(page, digits):
    run = open_run(digits)
    page.open(digits / "report.html", "#module:0")
    module = run.module(0)
    assert f"{len(module.members)} features" in page.text("#panel")
    assert page("return document.querySelectorAll('#panel .members button').length") >= min(
        12, len(module.members)
    )
    page.press("/")
    page.press(*"hidden2/1")
    found = page(
        "return [...document.querySelectorAll('#found button')].map((b) => b.dataset.feature)"
    )
    assert found == [feature.id for feature in run.search("hidden2/1")]
    page.press("\ue007")
    assert page.text("#panel h2").startswith("hidden2/1")
    page.click("#bases [value=pca]")
    assert (
        page("return [...document.querySelectorAll('.plot')].filter((p) => !p.hidden).length") == 2
    )
    page.click("#views [value=map]")
    assert page("return document.querySelector('#views [value=map]').ariaPressed") == "true"
    page.click_at(*page("return window.libgraph.cell('lib', 0)"))
    assert page.text("#panel h2").startswith("Module 0")
    assert page.complaints() == []
    assert page.requests() == []


def test_frequencies_of_modular_addition(page, made_once):
    """Labels are Fourier terms, samples are equations; what feeds a feature is two clicks away."""

    def make(path):
        backend = lg.load_backend("modular-addition")
        lg.analyze(backend, out=path, seeds=2, limit=600, ablate=False, beside=())

    path = made_once("page-modular-addition", make)
    run = open_run(path)
    page.open(path / "report.html")
    kept = sum(len(run.graph().kept_edges(pair).weight) for pair in run.pairs)
    assert page.text("#shown").split(" of ")[1].replace("\u202f", "") == str(kept)
    feature = next(f for f in run.search("ln2.0/") if "cos(" in f.label.text and f.inputs())
    page.press("/")
    page.press(*feature.id)
    page.click(f'#found [data-feature="{feature.id}"]')
    assert page.text("#panel .label") == feature.label.text
    for side, links in (("into", feature.inputs(10)), ("from", feature.outputs(10))):
        listed = page(
            f"return [...document.querySelectorAll('#panel [data-side={side}] button')]"
            ".map((button) => button.dataset.feature)"
        )
        assert listed == [link.feature for link in links]
    tokens = page(
        "return [...document.querySelectorAll('#panel .tokens')].map((line) => line.textContent)"
    )
    assert len(tokens) == len(feature.examples())
    assert all(" + " in line and line.endswith(" =") for line in tokens)
    assert page.complaints() == []
    assert page.requests() == []


def test_characters_in_context(page, made_once):
    """Tokens with their activations coloured, the deep graph's map, and positions."""
    pytest.importorskip("transformer_lens")

    def make(path):
        backend = lg.load_backend("lm", sequences=8, n_ctx=24, layers="0:2")
        lg.analyze(backend, out=path, seeds=1, signs=2, ablate=False, beside=())

    path = made_once("page-characters", make)
    run = open_run(path)
    page.open(path / "report.html")
    assert page("return document.querySelector('#views [value=map]').ariaPressed") == "true"
    feature = run.feature("0.resid_mid/3")
    page.open(path / "report.html", f"#{feature.id}")
    assert page("return document.querySelector('#views [value=features]').ariaPressed") == "true"
    assert page.text("#panel .label") == feature.label.text
    lines = page(
        "return [...document.querySelectorAll('#panel .examples .tokens')]"
        ".map((line) => [line.textContent, line.querySelector('b')?.textContent ?? null])"
    )
    examples = feature.examples()
    assert len(lines) == len(examples)
    for (text, marked), example in zip(lines, examples, strict=True):
        assert text in "".join(example.texts)
        assert marked == example.texts[example.at]
    coloured = page(
        "return [...document.querySelectorAll('#panel .examples .tokens *')]"
        ".filter((token) => token.style.background.startsWith('rgba')).length"
    )
    assert coloured > len(lines)
    assert page.complaints() == []
    assert page.requests() == []


def test_dark_and_narrow(digits):
    with browser(390, 844) as page:
        page.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False},
        )
        page.open(digits / "report.html", "#hidden1/2")
        assert page("return document.documentElement.scrollWidth") <= 390
        ground = "return getComputedStyle(document.body).backgroundColor"
        assert page(ground) == "rgb(255, 255, 255)"
        page.click("#theme")
        assert page(ground) == "rgb(23, 25, 29)"
        axis = (
            "const doc = Bokeh.documents.find((d) => d.roots()[0].name === 'lib-graph');"
            "return doc.roots()[0].below[0].major_label_text_color"
        )
        assert "#e6e8ec" in json.dumps(page(axis))


HOSTILE = [
    "</script><script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 2'>",
    "\"quoted\" 'twice' & &amp; `${window.hurt = 3}`",
    "first line\nsecond\ttab\r\x00\x1b[31m\x7f",
    "\u202eright to left\u2066 \u05d0\u05d1",
    "emoji 👩‍👩‍👧 and \ud800 half",
    "$$\\frac{1}{2}$$ \\(x\\) \\[y\\]",
    "long " * 2000,
]


@pytest.fixture(scope="module")
def hostile() -> InteractionGraph:
    """Names and labels with all that has ever broken a page."""
    layers = tuple(
        LayerFeatures(
            name,
            np.arange(len(HOSTILE), 0.0, -1),
            isolated=0,
            labels=tuple(FeatureLabel(text, {text: 0.5}) for text in HOSTILE),
        )
        for name in ('<b>in</b> & "x"', "$$y$$</script>")
    )
    generator = np.random.default_rng(0)
    edges = {(layers[0].name, layers[1].name): generator.random((len(HOSTILE), len(HOSTILE)))}
    graph = InteractionGraph(layers, edges, dict.fromkeys(edges, 0.2))
    return graph.with_partition(find_communities(graph, seeds=1))


def test_text_stays_text(page, hostile, tmp_path):
    path = write_page(hostile, tmp_path / "page.html", title=HOSTILE[0])
    page.open(path)
    for place, text in enumerate(HOSTILE):
        page("window.libgraph.select(arguments[0])", f"{hostile.layers[0].name}/{place}")
        page.settle()
        assert page.text("#panel .label") == text
        page.click_at(*page("return window.libgraph.pixel(window.libgraph.selected())"))
    page.press("/")
    page.press(*"<img src")
    assert page.text("#found").count("<img") >= 2
    assert page("return window.hurt") is None
    assert page("return document.querySelectorAll('img').length") == 0
    assert page.complaints() == []
    assert page.requests() == []


def test_a_deep_graph_opens_on_the_map(page, tmp_path):
    graph, _ = planted(sizes=(12,) * 11)
    graph = graph.with_partition(find_communities(graph, seeds=1))
    page.open(write_page(graph, tmp_path / "deep.html"))
    assert page("return document.querySelector('#views [value=map]').ariaPressed") == "true"
    page.click_at(*page("return window.libgraph.cell('graph', 0)"))
    page.click("#panel p button")
    assert page("return document.querySelector('#views [value=features]').ariaPressed") == "true"
    assert page.text("#panel h2").startswith("Module")
    assert page.complaints() == []


def test_more_than_the_page_shows_is_said(page, tmp_path, monkeypatch):
    monkeypatch.setattr("libgraph.report.page.contents.MOST_EDGES", 50)
    monkeypatch.setattr("libgraph.report.page.contents.MOST_FEATURES", 40)
    graph, _ = planted()
    page.open(write_page(graph, tmp_path / "large.html"))
    assert "41 features" in page.text("#panel")
    assert int(page.text("#shown").split(" of ")[1]) <= 50
    assert not math.isnan(page("return document.getElementById('count').valueAsNumber"))


def test_features_of_a_large_graph_are_ends_of_lines(page, tmp_path, monkeypatch):
    monkeypatch.setattr("libgraph.report.page.page.DOTTED", 10)
    graph, _ = planted()
    graph = graph.with_partition(find_communities(graph, seeds=1))
    page.open(write_page(graph, tmp_path / "dotted.html"))
    drawn = page(
        "return Bokeh.documents.flatMap((d) => d.roots()).flatMap((r) => r.renderers)"
        ".filter((r) => /-dots-/.test(r.name)).map((r) => [r.name, r.data_source.data.x.length])"
    )
    # A dot is a line of two points and a gap.
    dots = {name: length / 3 for name, length in drawn if length}
    joined = {
        (layer, int(feature))
        for pair in graph.edges
        for edges in [graph.kept_edges(pair)]
        for layer, ends in zip(pair, (edges.inputs, edges.outputs), strict=True)
        for feature in ends
    }
    assert sum(dots.values()) == len(joined)
    modules = {max(-1, graph.membership(layer)[feature]) for layer, feature in joined}
    assert {int(name.split("-")[2]) for name in dots} == {m if m >= 0 else 12 for m in modules}
    assert page.complaints() == []
