"""What notebooks and `print` show of results."""

import sys
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

import libgraph as lg
from libgraph.modules.summary import ModuleSummary
from libgraph.runs.metrics import ModulesFigures
from libgraph.runs.run import Run
from libgraph.runs.saved_run import open_run
from libgraph.runs.tables import MOST_MODULES, print_modules
from libgraph_backends.modular_addition.backend import ModularAddition


class Printer:
    """As much of IPython's as is used."""

    def text(self, text):
        self.shown = text


@pytest.fixture(scope="module")
def result(weights, tmp_path_factory):
    return lg.analyze(ModularAddition(weights=weights), out=tmp_path_factory.mktemp("n") / "run")


def shown(result):
    printer = Printer()
    result._repr_pretty_(printer, False)
    return printer.shown


def test_runs_show_the_tables_of_the_command(result, model, run):
    code, out, err = run("analyze", "modular-addition", "-o", f"weights={model}")
    assert code == 0, err
    printed = [line.split() for line in out.splitlines() if "Written to" not in line]
    assert [line.split() for line in str(result).splitlines()] == printed[:-1]
    assert shown(result) == str(result)
    assert len(repr(result)) < 100


def test_saved_runs_show_the_same(result):
    saved = open_run(result.directory)
    assert isinstance(result, Run)
    assert isinstance(saved, Run)
    assert str(saved) == shown(saved) == str(result)
    assert repr(saved) == f"SavedRun('{result.directory}')"


def test_no_colours_in_texts(result, monkeypatch):
    plain = str(result)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert str(result) == plain


def test_graphs_show_their_picture(result, monkeypatch):
    graph = result.graph()
    assert graph._repr_png_().startswith(b"\x89PNG")
    assert repr(graph) == (
        f"<InteractionGraph: 4 node layers, {sum(layer.size for layer in graph.layers)} "
        f"features, {graph.partition.size} modules>"
    )
    assert "no modules" in repr(graph.with_partition(None))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert graph._repr_png_() is None


def test_backends_show_their_options():
    assert repr(lg.load_backend("mlp", seed=3)) == "MLP(seed=3)"
    assert repr(lg.load_backend("mlp")) == "MLP()"


def test_modules_that_a_table_leaves_out_are_counted():
    table = [
        ModuleSummary(index, 2, {"a": 2}, 1.0, None, 0.0, None) for index in range(MOST_MODULES + 5)
    ]
    modules = ModulesFigures(
        count=len(table), modularity=0.5, agreement=1.0, within_concept=None, table=table
    )
    console = Console(file=StringIO(), width=80)
    print_modules(console, modules, "lib", ["a"], "class")
    lines = console.file.getvalue().split("\n")
    assert lines[MOST_MODULES + 2].strip() == "and 5 more"
    fewer = modules.model_copy(update={"table": tuple(table[:MOST_MODULES])})
    print_modules(console, fewer, "lib", ["a"], "class")
    assert console.file.getvalue().count("more") == 1


@pytest.mark.parametrize("layers", [["a"], [*"abcde"]])
def test_modules_of_features_without_labels_have_no_columns_for_them(layers):
    plain = ModuleSummary(0, len(layers), dict.fromkeys(layers, 1), 1.0, None, 0.0, None)
    named = replace(plain, index=1, concept="cat", concept_share=0.5)
    for summaries, told in (([plain], False), ([plain, named], True)):
        modules = ModulesFigures(
            count=len(summaries), modularity=0.1, agreement=1.0, within_concept=None,
            table=tuple(summaries),
        )  # fmt: skip
        console = Console(file=StringIO(), width=120)
        print_modules(console, modules, "lib", layers, "class")
        _, headings, first, *_ = console.file.getvalue().splitlines()
        assert ("class" in headings) is ("within" in headings) is ("-" in first) is told
