"""Help and completion: made of the options' own words, and fast, because little is imported."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Annotated

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from libgraph.backend.options import Shown, TypedOptions
from libgraph.degeneracy.options import DegeneracyOptions
from libgraph.interventions.options import FaithfulnessOptions
from libgraph.pipeline.options import AnalysisOptions
from libgraph_cli.main import COMMANDS, cli
from libgraph_cli.options import FieldOption, options_of


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout


def flags(name: str) -> dict[str, click.Option]:
    return {p.name: p for p in cli.commands[name].load().params if isinstance(p, click.Option)}


def test_summaries_are_what_commands_say_of_themselves():
    assert set(cli.commands) == set(COMMANDS)
    for name, command in cli.commands.items():
        loaded = command.load()
        assert loaded.name == name
        first, _, _ = inspect.cleandoc(loaded.help).partition("\n\n")
        assert " ".join(first.split()) == command.short_help


def test_the_list_of_commands_shows_whole_summaries():
    lines = CliRunner().invoke(cli, ["--help"]).output
    assert max(map(len, lines.splitlines())) <= 80
    out = " ".join(lines.split())
    for name, summary in COMMANDS.items():
        assert f"{name} {summary}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_more_than_the_options(name):
    heavy = ["torch", "numpy", "scipy", "igraph", "matplotlib", "rich"]
    if name not in ("analyze", "benchmark", "compare", "degeneracy", "faithfulness"):
        heavy.append("pydantic")
    out = python(
        "import sys; from libgraph_cli.main import cli\n"
        f"try: cli(['{name}', '--help'], prog_name='libgraph')\n"
        "except SystemExit: pass\n"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    assert out.startswith(f"Usage: libgraph {name}")
    assert out.strip().endswith("[]")


def test_the_list_of_commands_imports_none_of_them():
    out = python(
        "import sys; from libgraph_cli.main import cli\n"
        "try: cli(['--help'], prog_name='libgraph')\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith(('libgraph.', 'libgraph_cli.commands'))])"
    )
    assert "degeneracy" in out
    assert out.strip().endswith("[]")


@pytest.mark.parametrize(
    ("words", "completed"), [("libgraph com", "compare"), ("libgraph analyze --integ", "--integ")]
)
def test_completion(words, completed):
    out = python(
        "import sys\nfrom libgraph_cli.main import main\n"
        "sys.argv = ['libgraph']\n"
        "try: main()\nfinally: print([m for m in ('torch', 'rich') if m in sys.modules])",
        _LIBGRAPH_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    assert f"plain,{completed}" in out
    assert out.strip().endswith("[]")


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("analyze", AnalysisOptions),
        ("compare", AnalysisOptions),
        ("degeneracy", DegeneracyOptions),
        ("faithfulness", FaithfulnessOptions),
    ],
)
def test_flags_are_the_options_of_the_model(command, model):
    made = {p.field: p for p in flags(command).values() if isinstance(p, FieldOption)}
    left_out = {
        "analyze": {"beside", "seeds", "curves", "halves", "draws"},
        "compare": {"beside", "seeds", "curves", "halves", "basis"},
    }.get(command, set())
    assert set(made) == set(model.model_fields) - left_out
    for name, flag in made.items():
        field = model.model_fields[name]
        assert field.description[1:] in flag.help
        if name in ("seed", "dtype", "truncate", "device"):
            assert f"[{field.default}]" in flag.help
    if command == "faithfulness":
        return
    assert "[1]" in (made["resolution"] if "resolution" in made else made["radius"]).help
    assert "[what fits, at most 1024]" in made["batch_size"].help


@pytest.mark.parametrize("model", [AnalysisOptions, DegeneracyOptions, FaithfulnessOptions])
def test_every_option_has_its_heading(model):
    assert sorted(sum(model.groups.values(), ())) == sorted(model.model_fields)


@pytest.mark.parametrize("command", ["analyze", "compare", "degeneracy", "faithfulness"])
def test_help_has_headings_and_examples_that_parse(command):
    out = CliRunner().invoke(cli, [command, "--help"]).output
    headings = [line[:-1] for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    last = "Samples" if command == "faithfulness" else "Computing"
    assert headings[-3:] == [last, "Input and output", "Examples"]
    for flag in flags(command).values():
        assert out.count(f"  {flag.opts[0]}") >= 1
    loaded = cli.commands[command].load()
    for line in loaded.epilog.splitlines():
        program, name, *words = line.split()
        assert (program, name) == ("libgraph", command)
        assert f"\n  {line}\n" in out
        loaded.make_context(command, words)


def test_names_and_defaults_of_flags():
    analyze, compare, degeneracy = map(flags, ("analyze", "compare", "degeneracy"))
    assert analyze["no_ablation"].opts == ["--no-ablation"]
    assert "Do not run ablations" in analyze["no_ablation"].help
    assert analyze["tolerance"].multiple
    assert "[" not in analyze["limit"].help
    assert "[19]" in compare["draws"].help
    assert degeneracy["volume"].opts == ["--volume"]
    assert degeneracy["volume"].secondary_opts == ["--no-volume"]
    assert "[no]" in degeneracy["volume"].help
    assert analyze["resolution"].help.startswith("γ")


def test_a_new_option_is_a_field_and_nothing_else():
    class Options(TypedOptions):
        width: Annotated[int | None, Shown("W", default="all of it")] = Field(
            None, description="how wide"
        )
        parts: Annotated[tuple[int, ...], Shown(flag="part")] = Field((1, 2), description="of it")
        sort: Annotated[bool, Shown(flag="unsorted")] = Field(True, description="sort")
        deep: bool = Field(False, description="go deep, …")

    told = []

    @click.command()
    @options_of(Options, defaults={"parts": (3,)})
    def command(options):
        told.append(options)

    def called(*arguments):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    text = " ".join(called("--help").split())
    for line in (
        "--width W How wide. [all of it]",
        "--part INTEGER Of it; can be repeated. [3]",
        "--unsorted Do not sort.",
        "--deep / --no-deep Go deep, … [no]",
    ):
        assert line in text
    called()
    called("--width", "0", "--part", "5", "--part", "6", "--unsorted", "--no-deep")
    assert told == [{}, {"width": 0, "parts": (5, 6), "sort": False, "deep": False}]
