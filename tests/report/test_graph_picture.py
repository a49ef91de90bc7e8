import errno
import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from libgraph.errors import MissingExtra, TooLarge, UsageError
from libgraph.graph.features import FeatureLabel, LayerFeatures
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities

pytest.importorskip("matplotlib")

import itertools

import matplotlib
from matplotlib.image import imread

from libgraph.report.graph_layout import (
    FEWEST_FEATURES,
    NARROWEST,
    ROW,
    TALLEST,
    WIDEST,
    arrange,
    choose_features,
    share_lanes,
)
from libgraph.report.graph_picture import draw
from libgraph.report.labels import concept_name, label_lines, short_label


def example(sizes=(20, 25, 15), logits=30, modules=3, labels=True):
    rng = np.random.default_rng(0)
    names = [f"l{k}" for k in range(len(sizes))]
    layers = [
        LayerFeatures(
            name,
            np.exp(rng.normal(0, 3, size)),
            labels=tuple(
                FeatureLabel(f"97% cos({k % modules}x) + cos({k % modules}y) | 2% $b", {"c": 1.0})
                for k in range(size)
            )
            if labels
            else None,
        )
        for name, size in zip(names, sizes, strict=True)
    ]
    layers.append(LayerFeatures("output", np.ones(logits), isolated=0, rotated=False))
    edges = {}
    for a, b in itertools.pairwise(layers):
        together = np.arange(b.size)[:, None] % modules == np.arange(a.size)[None] % modules
        edges[a.name, b.name] = rng.exponential(size=together.shape) * np.where(together, 1, 1e-3)
    graph = InteractionGraph(tuple(layers), edges, dict.fromkeys(edges, 0.3))
    return graph.with_partition(find_communities(graph, seeds=2))


def empty():
    layers = (LayerFeatures("a", np.ones(3)), LayerFeatures("b", np.ones(4)))
    return InteractionGraph(layers, {("a", "b"): np.zeros((4, 3))})


def lay_out(graph, max_features=None):
    kept = {pair: graph.kept_edges(pair) for pair in graph.edges}
    return arrange(graph, kept, choose_features(graph, kept, max_features))


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_same_picture_every_time(tmp_path, kind):
    for name in ("one", "two"):
        draw(example(), tmp_path / f"{name}.{kind}", title="A title")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one == two
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"one.{kind}", f"two.{kind}"]


def test_svg_says_what_is_shown(tmp_path):
    graph = example()
    draw(graph, tmp_path / "graph.svg", title="Streams & $\\modules$")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "graph.svg").read_text())
    assert {"l0", "l1", "l2", "output", "Streams &amp; $\\modules$"} <= set(texts)
    # The constant has no kept edge, so it is left out and counted.
    assert "19 of 20 features" in texts
    assert texts.count("cos(1x)") == 7 + 8 + 5
    assert {"module 0", "module 1", "module 2"} <= set(texts)


def test_errors_of_dictionaries_are_told_in_shares(tmp_path):
    def layer(name, *labels):
        labelled = tuple(FeatureLabel(text) for text in labels)
        return LayerFeatures(name, np.ones(len(labels)), isolated=2, labels=labelled)

    edges = np.array([[9.0, 9.0, 9.0, 9.0], [9.0, 9.0, 9.0, 9.0], [9.0, 1.0, 2.0, 5.0]])
    layers = layer("a", "constant", "error", "x", "y"), layer("b", "constant", "variance", "z")
    graph = InteractionGraph(layers, {("a", "b"): edges})
    assert graph.error_share("a") == 1 / 8
    assert graph.error_share("b") is None
    assert example().error_share("l0") is None
    draw(graph, tmp_path / "graph.svg")
    shown = (tmp_path / "graph.svg").read_text()
    assert "error 12%" in shown
    assert "its dictionary's error" in shown.replace("&#x27;", "'")


def test_png_has_the_colours_of_the_modules(tmp_path):
    draw(example(), tmp_path / "graph.png")
    image = imread(tmp_path / "graph.png")
    assert image.shape[1] == 1800
    assert (image[:20] == 1).all()
    for colour in ((46, 110, 184), (226, 111, 44), (47, 145, 92)):
        near = np.abs(image[..., :3] * 255 - colour).max(axis=-1) < 2
        assert near.sum() > 500


@pytest.mark.parametrize(
    "graph",
    [
        empty(),
        empty().with_partition(find_communities(empty())),
        InteractionGraph((), {}),
        InteractionGraph((LayerFeatures("alone", np.ones(2)),), {}),
        example(sizes=(3, 2), logits=1, modules=1, labels=False).with_partition(None),
        example(sizes=(9,) * 14, modules=4),
    ],
    ids=["no edges", "no modules", "nothing", "one layer", "no partition", "deep"],
)
def test_unusual_graphs_are_drawn(tmp_path, graph):
    draw(graph, tmp_path / "graph.png")
    assert imread(tmp_path / "graph.png").shape[1] >= 1800


def test_only_the_strongest_features_are_shown():
    graph = example()
    layout = lay_out(graph, max_features=5)
    strength = graph.kept_edges(("l0", "l1"))
    total = np.bincount(strength.inputs, strength.weight, minlength=20)
    assert set(layout.shown["l0"]) == set(np.argsort(-total)[:5])
    assert len(layout.shown["l1"]) == 5
    assert len(layout.shown["output"]) > 5


def test_nodes_never_overlap_and_modules_keep_their_band():
    graph = example(sizes=(30, 20, 40, 25, 35, 10), modules=5)
    layout = lay_out(graph)
    for layer in graph.layers[:-1]:
        heights = np.sort(layout.y[layer.name])
        assert np.diff(heights).min() > 0.999 * min(ROW, layout.row)
        for module, height in zip(
            graph.membership(layer.name)[layout.shown[layer.name]],
            layout.y[layer.name],
            strict=True,
        ):
            band = layout.bands[module]
            (here,) = np.flatnonzero(np.isclose(band.left, layout.left[layer.name] - 0.09))
            assert band.bottom[here] < height < band.top[here]
            assert band.left[here] < layout.left[layer.name]
            assert layout.right[layer.name] < band.right[here]
    boxes = [
        (band.left[0], band.right[-1], band.top.max(), band.bottom.min())
        for band in layout.bands.values()
    ]
    for k, (left, right, upper, lower) in enumerate(boxes):
        assert 0 < left < right < layout.width
        for other in boxes[:k]:
            apart = lower > other[2] or other[3] > upper or right < other[0] or other[1] < left
            assert apart


def test_a_module_has_no_band_where_it_has_no_features():
    layers = tuple(LayerFeatures(name, np.ones(3), isolated=0) for name in "abc")
    edges = {("a", "b"): np.eye(3), ("b", "c"): np.eye(3)}
    membership = {name: np.zeros(3, dtype=np.int64) for name in "abc"}
    membership["b"] = np.array([1, 1, 1])
    graph = InteractionGraph(layers, edges)
    partition = replace(find_communities(graph), membership=membership)
    band = lay_out(graph.with_partition(partition)).bands[0]
    assert (band.top - band.bottom).tolist() == pytest.approx([3 * ROW, 0, 3 * ROW])


def test_a_page_shows_what_it_has_room_for():
    graph = example(sizes=(80,) * 6, modules=20)
    layout = lay_out(graph)
    count = len(layout.shown["l2"])
    assert FEWEST_FEATURES < count < 59
    assert layout.height <= TALLEST < lay_out(graph, count + 1).height
    # All of them where they fit.
    assert len(lay_out(example(sizes=(20, 20))).shown["l0"]) == 19


@pytest.mark.parametrize("layers", [2, 7, 12, 27])
def test_features_of_deep_graphs_keep_their_labels(layers):
    layout = lay_out(example(sizes=(9,) * layers, modules=3))
    assert NARROWEST <= layout.width <= WIDEST
    pills = [layout.right[f"l{k}"] - layout.left[f"l{k}"] for k in range(layers)]
    assert min(pills) > 0.74
    gaps = [layout.left[f"l{k + 1}"] - layout.right[f"l{k}"] for k in range(layers - 1)]
    assert min(gaps) > 0.44
    # Of 75 they are dots.
    deep = lay_out(example(sizes=(9,) * 75, modules=3))
    assert deep.right["l3"] == deep.left["l3"]
    assert deep.width <= WIDEST


def drawn_edges(path):
    """Curves of an SVG picture that are edges."""
    return re.findall(r'<path d="M [^"]*C [^"Zz]*"[^>]*style="fill: none', path.read_text())


def test_every_kept_edge_between_shown_features_is_drawn(tmp_path):
    graph = example(sizes=(80,) * 4, modules=20)
    # All of a pair's edges run between modules.
    membership = {**graph.partition.membership, "l3": (graph.partition.membership["l3"] + 1) % 20}
    graph = graph.with_partition(replace(graph.partition, membership=membership))
    draw(graph, tmp_path / "graph.svg")
    layout = lay_out(graph)
    pairs = {pair: graph.kept_edges(pair) for pair in graph.edges}
    shown = sum(
        int((np.isin(e.inputs, layout.shown[a]) & np.isin(e.outputs, layout.shown[b])).sum())
        for (a, b), e in pairs.items()
    )
    total = sum(len(edges.inputs) for edges in pairs.values())
    assert 0 < shown < total
    assert len(drawn_edges(tmp_path / "graph.svg")) == shown
    assert f"{total - shown:,} of {total:,} kept edges" in (tmp_path / "graph.svg").read_text()


def test_few_outputs_are_named(tmp_path):
    graph = example(logits=10)
    names = tuple(FeatureLabel(f"class {k}") for k in range(10))
    graph = graph.with_labels({"output": names})
    draw(graph, tmp_path / "graph.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "graph.svg").read_text())
    assert {"class 0", "class 9"} <= set(texts)
    assert lay_out(example(logits=50)).names == 0


@pytest.mark.parametrize(
    ("columns", "lanes"),
    [
        ([[0], [0], [1], [1]], [[0, 1]]),
        ([[0], [0, 1], [1]], [[0], [1]]),
        ([[1], [0, 1], [0]], [[0], [1]]),
        ([[1], [0], [1]], [[0], [1]]),
        ([[0, 2], [0], [1, -1], [1, 2]], [[0, 1], [2], [-1]]),
        ([[], []], []),
    ],
)
def test_lanes(columns, lanes):
    assert share_lanes([np.array(column, dtype=np.int64) for column in columns]) == lanes


def test_modules_in_different_layers_share_a_lane():
    layers = tuple(LayerFeatures(name, np.ones(4), isolated=0) for name in "abcd")
    full = np.ones((4, 4))
    graph = InteractionGraph(layers, {("a", "b"): full, ("c", "d"): full})
    graph = graph.with_partition(find_communities(graph))
    first, second = lay_out(graph).bands.values()
    assert first.top[0] == second.top[0]
    assert first.right[-1] < second.left[0]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("97% cos(15x) + cos(15y) | 2% cos(1x) + cos(1y)", "cos(15x)"),
        ("55% cos(56x + 56y)|40% cos(8x + 8y)", "cos(56x + 56y)"),
        ("2.5% cos(1x) * cos(1y)", "cos(1x) * cos(1y)"),
        ("100% const", "const"),
        ("a word that is far too long", "a word that is far…"),
        ("", ""),
    ],
)
def test_short_labels(text, short):
    assert short_label(FeatureLabel(text)) == short
    assert short_label(None) == ""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("74% cos(15x)", ["cos(15x)"]),
        ("74% cos(15x) * cos(15y)", ["cos(15x) *", "cos(15y)"]),
        ("9% airplane, automobile > bird", ["airplane,", "automobile > bird"]),
        ("9% airplane, automobile, truck > bird, cat, deer", ["airplane,", "automobile, truck…"]),
        ("9% " + "x" * 99, ["x" * 17, "x" * 17 + "…"]),
    ],
)
def test_long_labels_go_on_in_a_second_line(text, lines):
    found, scale = label_lines(FeatureLabel(text), 12)
    assert found == lines
    assert scale == 1 or len(text) > 12
    assert not any("……" in line for line in found)


def test_concepts_say_once_what_they_are():
    assert concept_name("frequency", "15") == "frequency 15"
    assert concept_name("class", "class 2") == "class 2"
    assert concept_name("token", "position") == "position"


def test_without_a_path_the_picture_is_returned():
    picture = draw(example())
    assert picture.startswith(b"\x89PNG")
    assert picture._repr_png_() == bytes(picture) == bytes(draw(example()))
    assert len(repr(picture)) < 60


def test_mistakes_are_explained(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf"):
        draw(example(), tmp_path / "graph.gif")
    with pytest.raises(UsageError, match="max_features"):
        draw(example(), tmp_path / "graph.png", max_features=0)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="choose another place"):
        draw(empty(), file / "graph.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"\[report\]"):
        draw(example(), tmp_path / "graph.png")
    with pytest.raises(MissingExtra, match=r"\[report\]"):
        draw(example())


def test_a_graph_of_more_than_a_png_file_holds(tmp_path):
    size = 3000
    layers = tuple(LayerFeatures(name, np.ones(size), isolated=0) for name in "ab")
    graph = InteractionGraph(layers, {("a", "b"): np.eye(size)}, {("a", "b"): 0.5})
    with pytest.raises(TooLarge, match="max_features"):
        draw(graph, tmp_path / "graph.png", max_features=size)
    assert not list(tmp_path.iterdir())
    draw(graph, tmp_path / "graph.png", max_features=20)


def test_a_full_disk_is_no_missing_library(tmp_path, monkeypatch):
    def full(*arguments, **how):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(UsageError, match=r"No space left on device.*free some space") as raised:
        draw(empty(), tmp_path / "graph.png")
    assert not isinstance(raised.value, MissingExtra | TooLarge)
    assert not list(tmp_path.iterdir())


def test_what_others_have_set_of_matplotlib_neither_shows_nor_changes(tmp_path):
    def settings():
        # Looking at the backend would choose one.
        return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}

    draw(example(), tmp_path / "one.png")
    before = settings()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.marker": "x"}):
        changed = settings()
        draw(example(), tmp_path / "two.png")
        assert settings() == changed != before
    assert settings() == before
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_pictures_need_no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert draw(example())
