"""All that `degeneracy` finds in networks whose free directions were planted."""

import errno
import json
import re
from copy import deepcopy
from types import SimpleNamespace

import networkx
import numpy as np
import pytest
import torch
from helpers.mlps import SHARP, mlp, random_mlp
from helpers.networks import Toy, random_network, toy_data
from helpers.numbers import assert_close, normal, seeded
from helpers.sections import AppendOne, random_section
from torch import nn

import libgraph.degeneracy.measure as measured
from libgraph.backend.data import Data
from libgraph.degeneracy.figures import DegeneracyFigures, SkippedModules
from libgraph.degeneracy.measure import measure_degeneracy
from libgraph.degeneracy.pictures import draw_figures
from libgraph.degeneracy.synchrony.synchrony import Synchrony
from libgraph.degeneracy.unit_graph import unit_graph, with_hidden_layers
from libgraph.degeneracy.weights.jacobians import output_jacobians
from libgraph.degeneracy.weights.ranks import weight_ranks
from libgraph.degeneracy.weights.weights import weights_of
from libgraph.edges.score import Scoring
from libgraph.errors import DataError, TooLarge, UsageError
from libgraph.network.network import Network, NodeLayer
from libgraph.progress import silent
from libgraph.report.graphml import write_graphml
from libgraph.sections import Attention, AttentionMask, Linear, SkipMLP

FEW = {"samples": 300, "draws": 2}
LIVE, DEAD = 7, 2


class Fresh(Toy):
    """Makes its network anew each time, as backends do."""

    def network(self):
        return deepcopy(self._network)


def planted_units():
    """Gates by the sign of one input: three units, and two. Two more units live, two are dead."""
    generator = seeded(3)
    inputs = 0.3 * normal(generator, 300, 1, 7)
    signs = 2 * torch.randint(2, (300, 1, 2), generator=generator).double() - 1
    inputs[..., :2] = signs * (1 + inputs[..., :2].abs())
    # The last input says nothing new.
    inputs[..., -1] = inputs[..., :-1].sum(-1)
    inner = 0.3 * normal(generator, 8, LIVE + DEAD)
    inner[0, :3] += 5
    inner[1, 3:5] += 5
    inner[:, 5:7] *= 10
    inner[-1, LIVE:] = -100.0
    return mlp([inner, normal(generator, LIVE + DEAD + 1, 4)]), inputs


FULL = AttentionMask(causal=False)


def planted_heads():
    """Three heads of width 2, of which the first two have the same queries and keys."""
    generator = seeded(5)
    query, key, value = (normal(generator, 5, 6) for _ in range(3))
    query[:, 2:4], key[:, 2:4] = query[:, :2], key[:, :2]
    skip = torch.eye(5, 7).double()
    section = Attention(skip, query, key, value, normal(generator, 6, 7), heads=3, mask=FULL)
    layers = [NodeLayer("in", 5), NodeLayer("out", 7, constant=False, rotated=False)]
    return Network(AppendOne(), [section], layers), normal(generator, 60, 4, 4)


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    path = tmp_path_factory.mktemp("degeneracy") / "run"
    network, inputs = planted_units()
    return measure_degeneracy(Fresh(network, inputs), out=path, **FEW), path


def watch(interrupt=None):
    """Progress that remembers the stages, and is interrupted at one."""
    stages = []

    def progress(stage, done, total, note=""):
        stages.append(stage)
        if stage == interrupt:
            raise KeyboardInterrupt

    return progress, stages


def without_times(figures):
    return {name: part for name, part in figures.as_dict().items() if name != "seconds"}


# Counts


def test_every_count(units):
    found, _ = units
    counts = {
        name: (w.rows, w.columns, w.input_rank, w.gradient_rank, w.free)
        for name, w in found.weights.items()
    }
    # The constant is an input direction of its own.
    assert counts == {
        "l0->l1 inner": (8, 9, 6 + 1, LIVE, 72 - 7 * LIVE),
        "l1->l2 matrix": (10, 4, LIVE + 1, 4, 40 - (LIVE + 1) * 4),
    }
    for w in found.weights.values():
        assert w.parameters == w.rows * w.columns
        assert w.moved_free < 1e-10 < 1e-6 < w.moved_used
        assert len(w.input_spectrum) == w.rows
        assert len(w.gradient_spectrum) == w.columns
    (section,) = found.units.values()
    assert section.units == LIVE + DEAD
    assert section.dead == (7, 8)
    assert section.constant == ()
    assert section.exact_groups == section.groups == ((0, 1, 2), (3, 4))
    assert section.extra == section.new == 6 + 2
    assert section.swap_share < 1e-20
    assert section.swap_score == 1
    assert found.heads == {}
    assert found.totals.as_dict() == {"parameters": 112, "free": 23 + 8, "extra": 8}


def test_everything_that_is_free(units):
    """Nothing else is: free, extra and a rescaling a live unit are the nullity of the Hessian."""
    found, _ = units
    behaviour, totals = found.behaviour, found.totals
    assert behaviour.exact
    assert behaviour.samples == 300
    nullity = behaviour.parameters - behaviour.rank
    assert nullity == totals.free + totals.extra + LIVE
    assert behaviour.effective[0] == 0
    assert list(behaviour.effective) == sorted(behaviour.effective)
    assert behaviour.epsilons[0] == behaviour.largest
    assert found.modules.whole.rank == behaviour.rank


def test_heads():
    network, inputs = planted_heads()
    found = measure_degeneracy(Fresh(network, inputs), **FEW)
    (section,) = found.heads.values()
    assert section.heads == 3
    assert section.groups == section.exact_groups == ((0, 1),)
    assert section.extra == 2 * 2**2
    assert section.swap_share < 1e-20
    assert found.units == {}
    # Of each head: keys' biases, and changes of coordinates of queries with keys, and of values.
    own = 3 * (2 + 4 + 4)
    behaviour, totals = found.behaviour, found.totals
    nullity = behaviour.parameters - behaviour.rank
    assert nullity == totals.free + totals.extra + own


def test_units_whose_extra_is_not_known():
    """The skip reads the units too: what they exchange does not stay between two weights."""
    network, inputs = planted_units()
    section = network.sections[0]
    skip = torch.zeros(10, 4).double()
    skip[0, 0] = 1.0
    reader = SkipMLP(skip, network.sections[1].matrix, torch.eye(4).double() * 2)
    network = Network(AppendOne(), [section, reader], network.node_layers)
    found = measure_degeneracy(Fresh(network, inputs), **FEW)
    assert found.units["l0->l1"].extra == 8
    assert found.units["l0->l1"].new is None
    reader.skip.zero_()
    assert measure_degeneracy(Fresh(network, inputs), **FEW).units["l0->l1"].new == 8


def test_fewer_samples_than_asked_for():
    network, inputs = planted_units()
    found = measure_degeneracy(Fresh(network, inputs[:40]), draws=2, samples=500)
    assert found.behaviour.samples == found.modules.samples == 40
    found = measure_degeneracy(Fresh(network, inputs), draws=2, samples=30, limit=20)
    assert found.behaviour.samples == 20


def test_float32():
    network, inputs = planted_units()
    found = measure_degeneracy(Fresh(network, inputs), dtype="float32", **FEW)
    free = {name: w.free for name, w in found.weights.items()}
    assert free == {"l0->l1 inner": 23, "l1->l2 matrix": 8}
    assert found.units["l0->l1"].exact_groups == ((0, 1, 2), (3, 4))


def test_units_without_gates(tmp_path):
    network = random_network(["tanh", "linear"], [3, 3, 2], seed=1)
    network.sections[0].activation = torch.cos
    out = tmp_path / "run"
    found = measure_degeneracy(Fresh(network, normal(seeded(1), 30, 1, 3)), out=out, **FEW)
    assert "not zero at zero" in found.units["l0->l1"].skipped
    assert not (out / "units.png").exists()
    assert (out / "graph.graphml").is_file()


def test_no_weights():
    network = random_network(["variance"], [3, 2], seed=1)
    with pytest.raises(UsageError, match="no weights"):
        measure_degeneracy(Fresh(network, normal(seeded(1), 30, 1, 3)))


# Files


def test_json(units):
    found, path = units
    text = (path / "degeneracy.json").read_text()
    assert text == found.text() + "\n"
    assert "NaN" not in text
    assert "Infinity" not in text
    assert list(json.loads(text))[:3] == ["schema", "backend", "options"]
    assert found.options["samples"] == 300
    names = {each.name for each in path.iterdir()}
    assert names == {
        "degeneracy.json", "run.json", "graph.graphml", "spectra.png", "effective.png", "units.png"
    }  # fmt: skip
    record = json.loads((path / "run.json").read_text())
    assert record["complete"]
    assert record["backend"] == "toy"
    assert record["degeneracy"] == found.options


def test_figures_are_drawn_from_the_json(units, tmp_path):
    _, path = units
    draw_figures(DegeneracyFigures.read(path / "degeneracy.json"), tmp_path)
    drawn = sorted(tmp_path.glob("*.png"))
    assert len(drawn) == 3
    for each in drawn:
        assert each.read_bytes() == (path / each.name).read_bytes()


def test_a_full_disk_while_figures_are_saved_ends_the_run(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    network, inputs = planted_units()
    with pytest.raises(UsageError, match=r"Cannot write .*spectra\.png.*free some space"):
        measure_degeneracy(Fresh(network, inputs), out=tmp_path / "run", **FEW)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [TooLarge, UsageError])
def test_modules_are_left_out_where_derivatives_do_not_fit(monkeypatch, kind):
    """And only there: any other mistake is told."""
    network, inputs = planted_units()

    def refuse(*arguments, **options):
        raise kind("No room for this.")

    monkeypatch.setattr(measured, "module_additivity", refuse)
    if kind is UsageError:
        with pytest.raises(UsageError, match="No room"):
            measure_degeneracy(Fresh(network, inputs), **FEW)
        return
    found = measure_degeneracy(Fresh(network, inputs), **FEW)
    assert found.modules == SkippedModules(basis="lib", skipped="No room for this.")


def test_volume(monkeypatch, tmp_path):
    """What sampling leaves open is None; and what another run sampled does not stay."""
    network, inputs = planted_units()
    backend, out = Fresh(network, inputs), tmp_path / "run"

    def volume(network, data, epsilons, sampling, **options):
        assert sampling.radius == 0.5
        curve = np.arange(len(epsilons), dtype=float)
        curve[-1] = np.nan
        return SimpleNamespace(effective=curve, errors=curve, drift=curve)

    monkeypatch.setattr(measured, "network_volume", volume)
    found = measure_degeneracy(backend, out=out, volume=True, radius=0.5, **FEW)
    assert found.volume.effective[-2:] == (7, None)
    assert set(found.volume.epsilons) <= set(found.behaviour.epsilons)
    json.dumps(found.as_dict(), allow_nan=False)
    progress, stages = watch()
    found = measure_degeneracy(backend, out=out, force=True, progress=progress, **FEW)
    assert found.volume is None
    assert "volume" not in json.loads((out / "degeneracy.json").read_text())
    assert not {"behavioural loss", "ranks of weights", "gates"} & set(stages)
    monkeypatch.setattr("libgraph.degeneracy.behaviour.volume.MOST_PARAMETERS", 111)
    progress, stages = watch()
    with pytest.raises(TooLarge, match="112 parameters are too many"):
        measure_degeneracy(backend, volume=True, progress=progress, **FEW)
    assert not stages


def test_interrupted(units, tmp_path):
    expected, _ = units
    network, inputs = planted_units()
    backend, out = Fresh(network, inputs), tmp_path / "run"
    interrupted, _ = watch("behavioural loss")
    with pytest.raises(KeyboardInterrupt):
        measure_degeneracy(backend, out=out, progress=interrupted, **FEW)
    assert not out.exists()
    kept = json.loads((tmp_path / "run.partial" / "degeneracy.json").read_text())
    assert {"weights", "units", "heads"} < set(kept)
    assert "behaviour" not in kept
    progress, stages = watch()
    found = measure_degeneracy(backend, out=out, progress=progress, **FEW)
    assert without_times(found) == without_times(expected)
    assert not {"ranks of weights", "moving weights", "gates", "swaps"} & set(stages)
    assert "behavioural loss" in stages
    assert not (tmp_path / "run.partial").exists()


def test_interrupted_at_once(tmp_path):
    network, inputs = planted_units()
    interrupted, _ = watch("ranks of weights")
    with pytest.raises(KeyboardInterrupt):
        measure_degeneracy(Fresh(network, inputs), out=tmp_path / "run", progress=interrupted)
    assert not any(tmp_path.iterdir())


def test_force(tmp_path):
    network, inputs = planted_units()
    backend, out = Fresh(network, inputs), tmp_path / "run"
    first = measure_degeneracy(backend, out=out, **FEW)
    with pytest.raises(UsageError, match="force=True"):
        measure_degeneracy(backend, out=out, **FEW)
    progress, stages = watch()
    again = measure_degeneracy(backend, out=out, force=True, progress=progress, **FEW)
    assert without_times(again) == without_times(first)
    parts = {"ranks of weights", "moving weights", "gates", "behavioural loss"}
    assert not parts & set(stages)
    # Only what an option changes is computed again.
    progress, stages = watch()
    wide = measure_degeneracy(backend, out=out, force=True, progress=progress, synchrony=0.9, **FEW)
    assert wide.units != first.units
    assert {"gates"} < set(stages)
    assert not {"behavioural loss", "moving weights"} & set(stages)
    # Interrupted on the way, later parts of the run that is replaced still hold.
    interrupted, _ = watch("swaps")
    with pytest.raises(KeyboardInterrupt):
        measure_degeneracy(
            backend, out=out, force=True, progress=interrupted, synchrony=0.8, truncate="rel:1e-9",
            **FEW,
        )  # fmt: skip
    progress, stages = watch()
    measure_degeneracy(backend, out=out, force=True, progress=progress, synchrony=0.9, **FEW)
    assert not {"behavioural loss", "heads"} & set(stages)
    # Of another network nothing holds, nor does the name of its backend.
    backend.name = "other"
    network.sections[1].matrix[0, 0] += 1
    progress, stages = watch()
    other = measure_degeneracy(backend, out=out, force=True, progress=progress, **FEW)
    assert other.backend == "other"
    assert parts < set(stages)
    # A record without its numbers is worth nothing.
    (out / "degeneracy.json").unlink()
    progress, stages = watch()
    same = measure_degeneracy(backend, out=out, force=True, progress=progress, **FEW)
    assert parts < set(stages)
    assert without_times(same) == without_times(other)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"synchrony": -1}, "synchrony"),
        ({"synchrony": 2}, "synchrony"),
        ({"truncate": "1e-3"}, "rel:TOL"),
        ({"samples": 1}, "samples"),
        ({"probes": 1}, "probes"),
        ({"steps": 0}, "steps"),
        ({"radius": 0}, "radius"),
        ({"draws": 1}, "draws"),
        ({"basis": "nothing"}, "nothing"),
        ({"dtype": "int8"}, "dtype"),
        ({"device": "nowhere"}, "nowhere"),
        ({"batch_size": 0}, "batch_size"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_bad_options(option, message, tmp_path):
    network, inputs = planted_units()
    with pytest.raises(UsageError, match=message):
        measure_degeneracy(Fresh(network, inputs), out=tmp_path / "run", **option)
    assert not any(tmp_path.iterdir())


def test_no_samples(tmp_path):
    network, inputs = planted_units()
    backend = Fresh(network, inputs)
    backend.inputs, backend.targets = inputs[:0], backend.targets[:0]
    with pytest.raises(DataError, match="no samples"):
        measure_degeneracy(backend, out=tmp_path / "run")


# The graph of units


@pytest.mark.parametrize("kind", ["tanh", "gated", "relu", "attention", "own"])
def test_hidden_layers_change_nothing(kind):
    inputs = normal(seeded(1), 5, 2, 3)
    if kind == "own":
        network = mlp(random_mlp(3, 4, 4, 2))
    else:
        network = random_network([kind, "linear"], [3, 3, 2], seed=2)
    unfolded, units = with_hidden_layers(network)
    assert_close(unfolded(inputs), network(inputs))
    names = [layer.name for layer in unfolded.node_layers]
    if kind in ("tanh", "relu"):
        assert names == ["l0", "l1 hidden", "l1", "l2"]
        assert units == {"l1 hidden": "l0->l1"}
        section = network.sections[0]
        hidden = list(unfolded.activations(inputs))[1]
        x = network.embed(inputs)
        expected = torch.cat([section.activation(x @ section.inner), x], dim=-1)
        assert_close(hidden, expected)
    else:
        assert names == [layer.name for layer in network.node_layers]
        assert units == ({"l1": "l0->l1", "l2": "l1->l2"} if kind == "own" else {})


def test_units_beside_a_skip_are_not_the_coordinates():
    section = mlp(random_mlp(3, 4, 2)).sections[0]
    section.skip[0, 1] = 1.0
    layers = [NodeLayer("a", 4), NodeLayer("b", 5)]
    unfolded, units = with_hidden_layers(Network(AppendOne(), [section], layers))
    assert units == {"b hidden": "a->b"}
    inputs = normal(seeded(1), 5, 1, 3)
    assert_close(unfolded(inputs), section(AppendOne()(inputs)))


def test_graph_of_units(units):
    found, path = units
    read = networkx.read_graphml(path / "graph.graphml")
    nodes = dict(read.nodes(data=True))
    by_layer = {}
    for data in nodes.values():
        by_layer.setdefault(data["layer"], []).append(data)
    assert {name: len(each) for name, each in by_layer.items()} == {"l0": 8, "l1": 10, "l2": 4}
    share = {name: sum(d["rank_share"] for d in each) for name, each in by_layer.items()}
    weights = found.weights
    assert share["l0"] == pytest.approx(weights["l0->l1 inner"].input_rank)
    assert share["l1"] == pytest.approx(weights["l1->l2 matrix"].input_rank)
    assert all(type(d["dead"]) is int and type(d["rank_share"]) is float for d in nodes.values())
    hidden = by_layer["l1"]
    # The constant comes first.
    groups = [d["synchronisation_group"] for d in hidden]
    assert groups == [-1, 0, 0, 0, 1, 1, -1, -1, -1, -1]
    assert [d["dead"] for d in hidden] == [0] * (1 + LIVE) + [1] * DEAD
    assert [d["rank_share"] for d in hidden] == pytest.approx([1] * (1 + LIVE) + [0] * DEAD)
    assert all("synchronisation_group" not in d for d in by_layer["l0"] + by_layer["l2"])
    # Dead units have no edges.
    dead = [name for name, d in nodes.items() if d["dead"]]
    assert len(dead) == DEAD
    assert not any(read.degree(name) for name in dead)


def test_graph_of_units_inside_a_section():
    network = random_network(["relu", "linear"], [3, 2, 2], seed=3)
    network.sections[0].inner[-1, 1] = -100.0
    backend = Fresh(network, normal(seeded(1), 40, 1, 3))
    found = measure_degeneracy(backend, **FEW)
    data = Data(backend, "train", 40)
    graph, attributes = unit_graph(network, data, found.units, SHARP, silent)
    layer = next(each for each in graph.layers if each.name == "l1 hidden")
    assert layer.size == 4 + 4
    dead = attributes["dead"]["l1 hidden"]
    # The constant, then the units, then what the skip reads.
    assert dead.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert found.units["l0->l1"].dead == (1,)
    assert set(attributes["synchronisation_group"]) == {"l1 hidden"}


def test_attributes_only_add(units, tmp_path):
    found, _ = units
    network, inputs = planted_units()
    data = Data(Toy(network, inputs), "train", 100)
    graph, attributes = unit_graph(network, data, found.units, SHARP, silent)
    write_graphml(graph, tmp_path / "plain.graphml")
    write_graphml(graph, tmp_path / "none.graphml", {})
    write_graphml(graph, tmp_path / "all.graphml", attributes)
    plain, none, more = (
        (tmp_path / f"{name}.graphml").read_bytes() for name in ("plain", "none", "all")
    )
    assert plain == none
    for name in attributes:
        described = f'<key id="{name}"[^>]*/>\n|<data key="{name}">[^<]*</data>'
        more, count = re.subn(described.encode(), b"", more)
        assert count > 4
    assert more == plain
    types = {name: "double" if name == "rank_share" else "int" for name in attributes}
    for name, kind in types.items():
        described = f'for="node" attr.name="{name}" attr.type="{kind}"'
        assert described in (tmp_path / "all.graphml").read_text()


def test_linear_network():
    """Nothing to synchronise: two linear maps, and all that one can take from the other."""
    layers = [NodeLayer(f"l{i}", 4, constant=False) for i in range(3)]
    matrices = [normal(seeded(i), 4, 4) for i in range(2)]
    network = Network(nn.Identity(), [Linear(each) for each in matrices], layers)
    found = measure_degeneracy(Fresh(network, normal(seeded(4), 50, 1, 4)), **FEW)
    assert found.totals.as_dict() == {"parameters": 32, "free": 0, "extra": 0}
    assert found.behaviour.rank == 16


def test_scores_of_groups_that_share_a_gate():
    inner, outer = random_mlp(4, 6, 3)
    inputs = normal(seeded(1), 200, 1, 4)
    backend = Fresh(mlp([inner, outer]), inputs)
    scoring = Scoring(backend.network(), backend, Data(backend, "train", batch_size=64))
    (found,) = Synchrony(scoring, 1.0, silent).units(list).values()
    (group,) = found.groups
    assert sorted(group) == list(range(6))
    assert found.score == 1.0
    ones = torch.ones(200, 1, dtype=torch.float64)
    z = torch.cat([inputs[:, 0], ones], dim=1) @ inner
    medoid = torch.tensor(found.distances).sum(0).argmin()
    hidden = torch.cat([z * (z[:, medoid] > 0).unsqueeze(1), ones], dim=1)
    same = (hidden @ outer).argmax(1) == backend.targets
    assert found.swap_score == pytest.approx(float(same.double().mean()))
    assert found.swap_score < 1


def test_a_section_that_is_used_twice(tmp_path):
    section = random_section("relu", 5, 5, constant=True, width=6)
    layers = [NodeLayer(f"l{i}", 5) for i in range(3)]
    network = Network(AppendOne(), [section, section], layers)
    backend = Toy(network, normal(seeded(3), 40, 1, 4))
    found = measure_degeneracy(backend, samples=12, draws=2, out=tmp_path / "run")
    assert list(found.units) == ["l0->l1"]
    assert (tmp_path / "run" / "graph.graphml").is_file()
    # Between three node layers its weights belong to none.
    assert isinstance(found.modules, SkippedModules) or not sum(found.modules.sum)


@pytest.mark.parametrize(("size", "outputs"), [(2, 2), (3, 3), (2, 4), (3, 7)])
def test_groups_whose_gates_depend_on_each_other(size, outputs):
    """On for x > 0, on for x < 0, always on: what one leaves free another may, too."""
    g = seeded(3)
    steep = [sign * (normal(g, 1, size).abs() + 0.5) for sign in (1, -1)]
    inner = torch.cat([torch.cat([*steep, normal(g, 1, size)], 1), 0.1 * normal(g, 1, 3 * size)])
    inner[1, 2 * size :] += 20
    section = SkipMLP(torch.zeros(2, outputs).double(), inner, normal(g, 3 * size, outputs))
    layers = [NodeLayer("l0", 2), NodeLayer("l1", outputs, constant=False, rotated=False)]
    network = Network(AppendOne(), [section], layers)
    sign = 2 * torch.randint(2, (200, 1, 1), generator=seeded(6)) - 1
    inputs = (torch.rand(200, 1, 1, generator=seeded(5), dtype=torch.float64) * 1.5 + 0.5) * sign
    found = measure_degeneracy(Toy(network, inputs), samples=200, draws=2)
    assert found.units["l0->l1"].exact_groups == tuple(
        tuple(range(k * size, (k + 1) * size)) for k in range(3)
    )
    jacobian = output_jacobians(network, inputs, weights_of(network))
    nullity = jacobian.shape[1] - int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))
    assert found.totals.free + 3 * size + found.totals.extra == nullity


@pytest.mark.parametrize(
    ("heads", "width", "positions", "unread"),
    [(2, 3, 4, False), (2, 4, 4, False), (3, 3, 4, True), (2, 3, 1, False), (4, 2, 5, False)],
)
def test_mixing_heads_beyond_what_low_rank_leaves_free(heads, width, positions, unread):
    """Heads 0 and 1 attend alike; all changes are made and their dimensions counted."""
    g, d = seeded(1), 6
    query, key, value = (normal(g, d, heads * width) for _ in range(3))
    output = normal(g, heads * width, d)
    output[:, -1] = 0
    for each in (query, key):
        each[:, width : 2 * width] = each[:, :width]
    if unread:
        output[: 2 * width] = 0
    skip = torch.zeros(d, d).double()
    skip[-1, -1] = 1
    section = Attention(skip, query, key, value, output, heads=heads)
    network = Network(AppendOne(), [section], [NodeLayer("l0", d), NodeLayer("l1", d)])
    inputs = normal(seeded(2), 200, positions, d - 1)
    found = measure_degeneracy(Toy(network, inputs), samples=200, draws=2).heads["l0->l1"]
    by_name = {w.weight.factor: w for w in weight_ranks(network, toy_data(network, inputs), SHARP)}

    def span(same_head: bool) -> list[torch.Tensor]:
        changes = []
        for i in range(heads * width):
            for j in range(heads * width):
                a, b = i // width, j // width
                if not (a == b if same_head else {a, b} == {0, 1}):
                    continue
                of_value, of_output = torch.zeros_like(value), torch.zeros_like(output)
                of_value[:, j], of_output[i] = value[:, i], -output[j]
                kept = (
                    by_name["value"].used_part(of_value),
                    by_name["output"].used_part(of_output[:, by_name["output"].weight.columns]),
                )
                changes.append(torch.cat([each.flatten() for each in kept]))
        return changes

    within, between = span(True), span(False)
    dimensions = [
        int(torch.linalg.matrix_rank(torch.stack(each), rtol=1e-9))
        for each in (within, within + between)
    ]
    assert found.new == dimensions[1] - dimensions[0]
    assert found.extra == 2 * width**2
