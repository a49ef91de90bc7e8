"""What the site has beside the pages that are written: commands, Python, the notebook.

mkdocs calls `on_config` and `on_files` when it builds, `on_post_build` when it has.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from libgraph.backend.options import Shown

ROOT = Path(__file__).resolve().parents[2]
LATER = {"Background": ("reliability.md",)}
"""Pages that are part of the site where they exist, by their heading."""

WORDS = {
    "libgraph": "What `import libgraph as lg` offers. Names are loaded when they are asked for.",
    "backend": "All that whoever writes a backend imports ([a backend](../backends.md)).",
    "sections": "The structures that networks are cut into ([closed forms](../closed-forms.md)).",
    "testing": "Checks for whoever writes a backend or a section.",
}

PLUGINS = (
    "libgraph.bases.method.BasisMethod",
    "libgraph.bases.method.MakeBases",
    "libgraph.bases.statistics.Statistics",
    "libgraph.bases.method.Setting",
    "libgraph.bases.method.Probe",
    "libgraph.dictionaries.registry.Reader",
    "libgraph.dictionaries.weights.DictionaryWeights",
    "libgraph.network.dictionary.Threshold",
    "libgraph.network.dictionary.TopK",
)
"""What whoever writes a basis or a reader of dictionaries has to know besides."""

TYPES = (
    "libgraph.runs.computed_run.ComputedRun",
    "libgraph.runs.saved_run.SavedRun",
    "libgraph.runs.metrics.Metrics",
    "libgraph.runs.metrics.BasisFigures",
    "libgraph.runs.metrics.ModulesFigures",
    "libgraph.runs.run.Ablation",
    "libgraph.runs.run.Sparsity",
    "libgraph.runs.feature.Feature",
    "libgraph.runs.feature.Link",
    "libgraph.runs.feature.Effect",
    "libgraph.runs.feature.Direction",
    "libgraph.runs.feature.Ablated",
    "libgraph.runs.feature.Module",
    "libgraph.runs.feature.Flow",
    "libgraph.runs.examples.Example",
    "libgraph.runs.examples.Examples",
    "libgraph.runs.prompted.Prompted",
    "libgraph.runs.prompted.Edge",
    "libgraph.interventions.prompt.PromptGraph",
    "libgraph.interventions.nodes.Nodes",
    "libgraph.runs.faithfulness.Faithfulness",
    "libgraph.interventions.options.FaithfulnessOptions",
    "libgraph.interventions.subject.Subject",
    "libgraph.interventions.intervene.Intervened",
    "libgraph.interventions.survey.LesionSurvey",
    "libgraph.graph.features.LayerFeatures",
    "libgraph.graph.interaction_graph.KeptEdges",
    "libgraph.graph.frames.Frames",
    "libgraph.modules.significance.Significance",
    "libgraph.comparison.side_by_side.Comparison",
    "libgraph.comparison.difference.Difference",
    "libgraph.comparison.layers.LayerDifference",
    "libgraph.comparison.layers.Matching",
    "libgraph.comparison.edges.PairDifference",
    "libgraph.comparison.modules.ModulesDifference",
    "libgraph.comparison.modules.ModuleFate",
    "libgraph.degeneracy.figures.DegeneracyFigures",
    "libgraph.degeneracy.options.DegeneracyOptions",
    "libgraph.analysis.plan.Plan",
    "libgraph.backend.train.TrainingRecord",
    "libgraph.cutting.network.Row",
    "libgraph.report.attribution.Titles",
)
"""What public names take and return."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that may be missing go where they belong."""
    for part in config.nav or ():
        for heading, pages in part.items() if isinstance(part, dict) else ():
            pages.extend(page for page in LATER.get(heading, ()) if (ROOT / "docs" / page).exists())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated; a notebook's page stands in its place."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        path = Path(str(notebook.abs_src_path))
        name = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, name, content=page_of_notebook(path)))
        files.append(File.generated(config, notebook.src_uri, content=path.read_text("utf-8")))
    files.append(File.generated(config, "reference/commands.md", content=page_of_commands()))
    pages: dict[str, str] = {}
    for module, words in WORDS.items():
        name = "libgraph" if module == "libgraph" else f"libgraph.{module}"
        text = page_of_names(name, words, pages)
        files.append(File.generated(config, f"reference/{module}.md", content=text))
    for page, title, words, names in (
        ("types", "What they return", "Classes that functions of `libgraph` give, or take.", TYPES),
        ("plugins", "Plug-ins", "For bases and dictionaries ([plug-ins](../plugins.md)).", PLUGINS),
    ):
        parts = [f"# {title}", words, *(part for name in names for part in _entry(name))]
        files.append(File.generated(config, f"reference/{page}.md", content="\n\n".join(parts)))
    return files


def on_page_markdown(markdown: str, page: object, **_: object) -> str:
    """Links to notebooks lead to their pages, and the front page leads to those made here."""
    made = "[commands](reference/commands.md), [Python](reference/libgraph.md), "
    return markdown.replace(".ipynb)", ".md)").replace("| commands, Python, ", f"| {made}")


def on_post_build(config: MkDocsConfig) -> None:
    """The index once more as a script: from the disk nothing else can be read."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")


# Commands


def page_of_commands() -> str:
    """Every command as its help has it."""
    from libgraph_cli.main import COMMANDS, cli

    parts = [
        "# Commands",
        "Made from the program: `libgraph COMMAND --help` says the same. Flags win over the "
        "environment (`LIBGRAPH_ANALYZE_SEED=1`), that over a file (`--config`).",
    ]
    parts += [f"- [`libgraph {name}`](#libgraph-{name}): {text}" for name, text in COMMANDS.items()]
    context = click.Context(cli, info_name="libgraph")
    for name in COMMANDS:
        command = cli.commands[name].load()
        parts += _command(command, context, name, 2)
    return (
        "\n\n".join(parts)
        .replace("\n\n- ", "\n- ")
        .replace("(`--config`).\n- ", "(`--config`).\n\n- ")
    )


def _command(command: click.Command, parent: click.Context, name: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f"{'#' * level} libgraph {context.command_path.removeprefix('libgraph ')}"
    yield inspect.cleandoc(command.help or "").replace("*", r"\*")
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    sections = getattr(command, "sections", None)
    for heading, options in (sections(context) if sections else {}).items():
        records = [record for option in options if (record := option.get_help_record(context))]
        if records:
            rows = "\n".join(f"| `{_cell(flag)}` | {_cell(text)} |" for flag, text in records)
            yield f"| {heading} | |\n| --- | --- |\n{rows}"
    if command.epilog:
        yield (
            "```console\n"
            + "\n".join(f"$ {line}" for line in command.epilog.splitlines())
            + "\n```"
        )
    for sub in getattr(command, "commands", {}):
        yield from _command(command.commands[sub], context, sub, level + 1)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


# Python


def page_of_names(name: str, words: str, pages: dict[str, str]) -> str:
    """All public names of a module, each from where it is defined.

    Args:
        name: of the module.
        words: on it.
        pages: on which page a name is already; those of this one are added.
    """
    module = importlib.import_module(name)
    parts, others = [f"# {name}", words], []
    for public in sorted(module.__all__, key=str.lower):
        value = getattr(module, public)
        if inspect.ismodule(value):
            continue
        home = getattr(value, "__module__", None)
        if home is None or not hasattr(sys.modules.get(home), public):
            # A constant or an alias: where the module says that it is from.
            home = dict(_homes(name)).get(public, name)
        whole = f"{home}.{public}"
        if whole in pages:
            others.append(f"[`{public}`][{whole}]")
            continue
        pages[whole] = name
        parts += _entry(whole)
    if others:
        parts.insert(2, f"Of `libgraph` itself: {', '.join(others)}.")
    return "\n\n".join(parts)


def _entry(whole: str) -> Iterator[str]:
    """A name with its docstring; of options also what each is."""
    yield f"::: {whole}"
    home, _, name = whole.rpartition(".")
    fields = getattr(getattr(importlib.import_module(home), name, None), "model_fields", {})
    rows = [
        f"| `{field}` | {_cell(_default(info))} | {_cell(info.description)} |"
        for field, info in fields.items()
        if info.description
    ]
    if rows:
        yield "\n".join(["| option | default | |", "| --- | --- | --- |", *rows])


def _default(info: FieldInfo) -> str:
    """What holds where an option is not given, in words where it says so."""
    for part in info.metadata:
        if isinstance(part, Shown) and part.default:
            return part.default
    return "" if info.default is None else f"`{info.default!r}`"


def _homes(name: str) -> Iterator[tuple[str, str]]:
    """Names and the modules that define them, as the module's own table has them."""
    for home, names in getattr(importlib.import_module(name), "_MODULES", {}).items():
        for public in names:
            yield public, home


# Notebooks


def page_of_notebook(path: Path) -> str:
    """A notebook with its outputs as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [
            f"```text\n{''.join(output['text']).rstrip()}\n```"
            for output in cell["outputs"]
            if output["output_type"] == "stream"
        ]
    parts.append(f"*[The notebook itself]({path.name}) runs in a minute.*")
    return "\n\n".join(parts)
