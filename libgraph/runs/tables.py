"""The figures of a run as tables: features, edges, sparsity and modules, bases side by side.

What `libgraph analyze` prints, and what `print(run)` and a notebook show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO

from rich.console import Console

from libgraph.interventions.survey import LesionSurvey
from libgraph.runs.metrics import DictionariesFigures, Metrics, ModulesFigures
from libgraph.screen import PlainTable, Screen, show, tell
from libgraph.visible import in_line

MOST_COLUMNS = 4
"""Node layers with a column of their own in the table of modules."""


MOST_MODULES = 20
"""Modules in the table; `metrics.json` has all of them."""


WIDTH = 120
"""Characters in a line, where there is no terminal to ask."""


MEASURES = {"participation_ratio": "{:.1f}", "hoyer": "{:.3f}", "gini": "{:.4f}"}
"""Measures of sparsity in the table, and how they are printed."""


def text_of(print_on: Callable[[Console], None]) -> str:
    """What is printed on a console, as a text without colours."""
    with StringIO() as file:
        print_on(Screen(file=file, width=WIDTH, force_terminal=False))
        return file.getvalue().rstrip()


def print_metrics(console: Console, metrics: Metrics) -> None:
    """Print features, edges, sparsity and modules, the main basis beside the others.

    Args:
        console: where to.
        metrics: what `metrics.json` holds.
    """
    score = metrics.score
    tell(console, (metrics.backend, "bold"), f": test {score.name} {score.test:.4f}")
    console.print()
    for title, table in metric_tables(metrics).items():
        print_table(console, title, table)
    if metrics.signs:
        tell(console, _estimated(metrics))


def metric_tables(metrics: Metrics) -> dict[str, PlainTable]:
    """Features, edges, sparsity and modules, by the titles of the tables."""
    names = " / ".join(name.upper() for name in metrics.bases)
    tables = {f"Features, {names}": _features(metrics)}
    if any(figures.edges_required for figures in metrics.bases.values()):
        tables[f"Edges needed, {names}"] = _edges(metrics)
    for name, figures in metrics.bases.items():
        if figures.dictionaries is not None:
            score = metrics.score.name
            tables[f"Dictionaries, {name.upper()}"] = _dictionaries(figures.dictionaries, score)
            tables[f"What latents do not say, {name.upper()}"] = _unsaid(figures.dictionaries)
    tables[f"Sparsity of all interactions, {names}"] = _sparsity(metrics)
    for name, figures in metrics.bases.items():
        title = _modules_title(figures.modules, name, metrics.concept)
        tables[title] = _modules(figures.modules, metrics.node_layers, metrics.concept)
    if any(_is_checked(figures.modules) for figures in metrics.bases.values()):
        tables["Are modules more than chance?"] = _chance(metrics)
    return tables


def print_modules(
    console: Console,
    modules: ModulesFigures,
    basis: str,
    node_layers: Sequence[str],
    concept: str,
) -> None:
    """Print the modules of one basis.

    Args:
        console: where to.
        modules: of the basis.
        basis: its name.
        node_layers: from input to output.
        concept: what concepts in labels are called.
    """
    title = _modules_title(modules, basis, concept)
    print_table(console, title, _modules(modules, node_layers, concept))


def _features(metrics: Metrics) -> PlainTable:
    """Features kept, and how many of them the score needs, per node layer."""
    bases = metrics.bases.values()
    ablated = any(figures.features_required for figures in bases)
    columns = ["kept", "needed"] if ablated else ["kept"]
    table = plain_table("node layer", *columns)
    for layer in metrics.node_layers:
        kept = [str(figures.features[layer]) for figures in bases]
        required = [figures.features_required.get(layer, {}) for figures in bases]
        needed = [_count(next(iter(counts.values()))) for counts in required if counts]
        cells = (kept, needed)[: len(columns)]
        table.add_row(layer, *(_side_by_side(cell) for cell in cells))
    return table


def _edges(metrics: Metrics) -> PlainTable:
    """Edges that the score needs, per layer pair and tolerance."""
    required = [figures.edges_required for figures in metrics.bases.values()]
    deltas = list(next(iter(required[0].values())))
    table = plain_table("layer pair", *(f"Δ {delta:g}" for delta in deltas))
    for pair in required[0]:
        needed = ([_count(by_pair[pair][delta]) for by_pair in required] for delta in deltas)
        table.add_row(_pair(pair), *map(_side_by_side, needed))
    return table


def _dictionaries(figures: DictionariesFigures, score: str) -> PlainTable:
    """Latents of each node layer, and what is left of the score with these alone."""
    table = plain_table(
        "node layer", "latents", "dead", "active", "explained", f"{score} left", "recovered"
    )
    for layer, found in figures.layers.items():
        table.add_row(
            layer,
            str(found.latents),
            str(found.dead),
            f"{found.active:.1f}",
            f"{found.explained:.1%}",
            *_kept(found.score, found.recovered),
        )
    table.add_row("all at once", "", "", "", "", *_kept(figures.score, figures.recovered))
    table.caption = (
        "Recovered: share of the way from zeros in place of the activations (of transcoders: from "
        "no MLP) to the whole model."
    )
    return table


def _kept(score: float, recovered: float | None) -> tuple[str, str]:
    return f"{score:.4g}", "-" if recovered is None else f"{recovered:.1%}"


def _unsaid(figures: DictionariesFigures) -> PlainTable:
    """What of interactions runs through errors, and what integration misses."""
    table = plain_table("layer pair", "through errors", "missed by the rule")
    for pair, missed in figures.missed.items():
        through = figures.through_errors.get(pair)
        table.add_row(_pair(pair), "-" if through is None else f"{through:.1%}", f"{missed:.1e}")
    return table


def _sparsity(metrics: Metrics) -> PlainTable:
    """Measures of sparsity without ablation, per layer pair."""
    sparsity = [figures.sparsity for figures in metrics.bases.values()]
    table = plain_table("layer pair", "effective edges", "Hoyer", "Gini")
    for pair in sparsity[0]:
        measures = [by_pair[pair] for by_pair in sparsity]
        cells = (
            ["-" if each is None else form.format(getattr(each, name)) for each in measures]
            for name, form in MEASURES.items()
        )
        table.add_row(_pair(pair), *map(_side_by_side, cells))
    return table


def _estimated(metrics: Metrics) -> str:
    """How far the choice of signs moves interactions, over the layer pairs that are estimated."""
    by_basis = (figures.standard_error.values() for figures in metrics.bases.values())
    errors = sorted(error for by_pair in by_basis for error in by_pair if error)
    if not errors:
        return f"Interactions are exact: {metrics.signs} random signs would not be faster."
    return (
        f"Interactions estimated from {metrics.signs} random signs; "
        f"standard error {errors[0]:.1%} to {errors[-1]:.1%}."
    )


def _modules_title(modules: ModulesFigures, basis: str, concept: str) -> str:
    title = f"Modules, {basis.upper()}: modularity {modules.modularity:.3f}"
    title += f", seeds agree {modules.agreement:.2f}"
    if modules.within_concept is not None:
        title += f", {modules.within_concept:.0%} within one {concept}"
    if modules.homogeneity is not None:
        title += f"; homogeneity {modules.homogeneity:.2f}"
        title += f", adjusted Rand index {modules.adjusted_rand_index:.2f}"
    return title


def _modules(modules: ModulesFigures, node_layers: Sequence[str], concept: str) -> PlainTable:
    """Modules with their size, layers and dominant concept, where features have any."""
    layers = [
        layer for layer in node_layers if any(layer in module.features for module in modules.table)
    ]
    wide = len(layers) > MOST_COLUMNS
    columns = ["features", "from", "to"] if wide else ["features", *layers]
    shares = ["share", "within"] if wide else ["its share", "weight within"]
    headings = ["module", *map(in_line, columns), in_line(concept), *shares]
    # Names of layers, where they are cells, and of concepts.
    named = range(2 if wide else len(headings) - 3, len(headings) - 2)
    labelled = any(module.concept is not None for module in modules.table)
    if not labelled:
        headings, named = headings[:-3], named[:-1]
    table = PlainTable(headings, words=named)
    for module in modules.table[:MOST_MODULES]:
        inside = module.within_concept
        here = [layer for layer in layers if layer in module.features]
        of_concept = [
            "-" if module.concept is None else module.concept,
            "-" if module.concept is None else f"{module.concept_share:.0%}",
            "-" if inside is None else f"{inside:.0%}",
        ]
        table.add_row(
            str(module.index),
            str(module.size),
            *((here[0], here[-1]) if wide else _counts(module.features, layers)),
            *(of_concept if labelled else ()),
        )
    count_the_rest(table, len(modules.table))
    return table


def _is_checked(modules: ModulesFigures) -> bool:
    return modules.halves is not None or modules.significance is not None


def _chance(metrics: Metrics) -> PlainTable:
    """Modules of the data's halves held against each other, and all against rotated networks."""
    table = plain_table("basis", "halves agree", "Q", "Q of draws", "draws", "z", "p")
    for name, figures in metrics.bases.items():
        modules = figures.modules
        found = modules.significance
        halves = "-" if modules.halves is None else f"{modules.halves:.2f}"
        cells = ["-"] * 5
        if found is not None:
            cells = [
                f"{found.modularity:.3f}",
                f"{found.mean:.3f} ± {found.deviation:.3f}",
                str(found.draws),
                "-" if found.z is None else f"{found.z:.1f}",
                f"{found.p:.3g}",
            ]
        if _is_checked(modules):
            table.add_row(name.upper(), halves, *cells)
    return table


def _pair(pair: str) -> str:
    return pair.replace("->", " → ")


def _counts(features: Mapping[str, int], layers: Iterable[str]) -> Iterable[str]:
    return (str(features.get(layer, 0)) for layer in layers)


def print_table(console: Console, title: str, table: PlainTable) -> None:
    """A heading, the table, and an empty line."""
    tell(console, title, style="bold")
    show(console, table)
    console.print()


def count_the_rest(table: PlainTable, modules: int) -> None:
    """Say below a table of modules how many it leaves out."""
    if modules > MOST_MODULES:
        table.caption = f"and {modules - MOST_MODULES} more"


def plain_table(first: str, *columns: str) -> PlainTable:
    """A table of names, to the left, and numbers."""
    return PlainTable((first, *columns))


def _side_by_side(values: Iterable[str]) -> str:
    return " / ".join(values)


def _count(number: int | None) -> str:
    return "more" if number is None else str(number)


def print_survey(console: Console, survey: LesionSurvey, metrics: Metrics) -> None:
    """Print what the score is without each module, and how far edges predict."""
    for title, table in survey_tables(survey, metrics).items():
        print_table(console, title, table)


def survey_tables(survey: LesionSurvey, metrics: Metrics) -> dict[str, PlainTable]:
    """The same by their headings."""
    name, modules = metrics.score.name, metrics.bases[metrics.modules.basis].modules.table
    lesions = plain_table("without module", name, "random sets of its size", "p")
    for number, module in enumerate(survey.modules):
        concept = modules[number].concept if number < len(modules) else None
        mean = sum(module.random) / max(len(module.random), 1)
        lesions.add_row(
            str(number) if concept is None else f"{number} ({concept})",
            f"{module.score:.4g}",
            f"{mean:.4g}",
            f"{module.p:.2f}",
        )
    lesions.caption = (
        f"The whole model: {survey.score:.4g}, on {survey.samples} samples of the test split. "
        "p: share of random sets that lose as much."
    )
    predicted = plain_table("edges", "R²")
    for pair, share in survey.predicted.items():
        predicted.add_row(_pair(pair), "-" if share is None else f"{share:.3f}")
    predicted.caption = "Of what happens in the next layer where one feature goes to its mean."
    tables = {"Modules switched off": lesions} if survey.modules else {}
    return {**tables, "What edges predict": predicted}
