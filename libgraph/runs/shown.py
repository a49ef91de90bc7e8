"""A feature, a module or a node layer of a run in words, for `libgraph show`, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from libgraph.backend.contract import Json
from libgraph.errors import UsageError
from libgraph.interventions.survey import LesionSurvey
from libgraph.runs.examples import Example, shown_text
from libgraph.runs.feature import TOP, Feature, Link, Module, graph_once
from libgraph.runs.run import Run
from libgraph.runs.tables import print_table, text_of
from libgraph.screen import PlainTable, tell
from libgraph.visible import in_line

MOST_MEMBERS = 40
"""Features of a module, or of a node layer, in the table; JSON has all."""

SIGNS = {"up": "+", "down": "−", "ordinary": "·"}


def feature_text(feature: Feature) -> str:
    """What is printed of a feature."""
    return text_of(lambda console: print_feature(console, feature))


def print_feature(console: Console, feature: Feature, top: int = TOP) -> None:
    """Print what a feature is, what feeds it, where it leads, and examples."""
    label = "" if feature.label is None else f": {in_line(feature.label.text)}"
    tell(console, (feature.id, "bold"), label)
    tell(console, "; ".join(_facts(feature)) + ".")
    moved = [f"{effect.output} {effect.change:+.3g}" for effect in feature.effects()]
    if moved:
        tell(console, f"One deviation more moves {', '.join(map(in_line, moved))}.")
    console.print()
    for title, links in (
        ("Fed by", feature.inputs(top)),
        ("Feeds", feature.outputs(top)),
    ):
        if links:
            print_table(console, title, _links(links))
        else:
            tell(console, f"{title}: nothing.", style="bold")
            console.print()
    if feature.basis != feature.run.basis or feature.isolated:
        return
    try:
        examples = feature.examples()
    except UsageError as error:
        tell(console, str(error))
        return
    if examples:
        print_table(console, "Examples", _examples(examples))


def _facts(feature: Feature) -> list[str]:
    facts = []
    if feature.isolated:
        facts.append("Interacts with everything and is left out of modules")
    if feature.share is not None:
        facts.append(f"{feature.share:.2%} of the importance of {feature.layer.name}")
    if feature.position_share is not None:
        facts.append(f"{feature.position_share:.0%} of its variance is its position")
    facts.append(f"module {feature.module}" if feature.module >= 0 else "in no module")
    scores = feature.ablated()
    name = feature.run.metrics.score.name
    if scores is not None:
        facts.append(
            f"{name} {scores.score_with:.4g} with the first {scores.features_with} features of "
            f"its layer, {scores.score_without:.4g} with {scores.features_without}"
        )
    facts += _lesion(feature)
    return facts


def _lesion(feature: Feature) -> list[str]:
    """What the score is without the feature alone, where that was measured."""
    survey = feature.run.lesions() if feature.basis == feature.run.basis else None
    score = None if survey is None else _without(survey, feature)
    if survey is None or score is None:
        return []
    name = feature.run.metrics.score.name
    return [f"{name} {score:.4g} without it alone, {survey.score:.4g} with all"]


def _without(survey: LesionSurvey, feature: Feature) -> float | None:
    scores = survey.features.get(feature.layer.name)
    return None if scores is None else scores[feature.index]


def _links(links: Sequence[Link]) -> PlainTable:
    table = PlainTable(["feature", "share", "E", "module", "label"], words=[4], left=[4])
    for link in links:
        table.add_row(
            link.feature + ("" if link.kept else " *"),
            f"{link.share:.1%}",
            f"{link.interaction:.3g}",
            str(link.module) if link.module >= 0 else "-",
            link.label.split(" | ")[0],
        )
    if not all(link.kept for link in links):
        table.caption = "* below ε: not in the graph"
    return table


def _examples(examples: Sequence[Example]) -> PlainTable:
    table = PlainTable(["sample", "value", ""], words=[2], left=[2])
    for example in examples:
        value = f"{SIGNS[example.kind]} {example.value:.3g}"
        table.add_row(str(example.sample), value, in_line(shown_text(example)))
    table.caption = "+ strongest, − weakest, · not chosen"
    return table


def print_module(console: Console, run: Run, module: Module) -> None:
    """Print what a module is made of and what flows in and out."""
    concept = "" if module.concept is None else f": {run.concept} {module.concept}"
    share = "" if module.concept is None else f", {module.concept_share:.0%} of its variance"
    tell(
        console, (f"Module {module.number}", "bold"), f" of {module.basis.upper()}{concept}{share}"
    )
    survey = run.lesions() if module.basis == run.basis else None
    if survey is not None and module.number < len(survey.modules):
        lesion, name = survey.modules[module.number], run.metrics.score.name
        tell(
            console,
            f"{name} {lesion.score:.4g} without it, {survey.score:.4g} with all; random sets of "
            f"its size lose as much with p = {lesion.p:.2f}.",
        )
    console.print()
    table = PlainTable(["node layer", "features"])
    for layer, count in module.layers.items():
        table.add_row(layer, str(count))
    print_table(console, "Node layers", table)
    flows = PlainTable(["module", "weight in", "weight out"])
    weights = [
        {flow.module: flow.weight for flow in flows} for flows in (module.inputs, module.outputs)
    ]
    flows.add_row("itself", f"{module.weight:.3g}", "")
    for other in sorted(set(weights[0]) | set(weights[1])):
        cells = (f"{side[other]:.3g}" if other in side else "-" for side in weights)
        flows.add_row("none" if other < 0 else str(other), *cells)
    print_table(console, "Flow", flows)
    _print_features(console, [run.feature(name, module.basis) for name in module.members])


def print_layer(console: Console, run: Run, name: str, basis: str) -> None:
    """Print the features of a node layer."""
    layer = graph_once(run, basis).layer(name)
    figures = run.metrics.bases[basis]
    needed = figures.features_required.get(name, {})
    counts = [f"{number} needed at Δ {delta:g}" for delta, number in needed.items()]
    tell(console, (name, "bold"), f": {', '.join([f'{layer.size} features', *counts])}")
    console.print()
    _print_features(console, [Feature(run, basis, layer, place) for place in range(layer.size)])


def _print_features(console: Console, features: Sequence[Feature]) -> None:
    table = PlainTable(["feature", "share", "module", "label"], words=[3], left=[3])
    for feature in features[:MOST_MEMBERS]:
        table.add_row(
            feature.id,
            "-" if feature.share is None else f"{feature.share:.1%}",
            str(feature.module) if feature.module >= 0 else "-",
            "" if feature.label is None else feature.label.text.split(" | ")[0],
        )
    if len(features) > MOST_MEMBERS:
        table.caption = f"and {len(features) - MOST_MEMBERS} more"
    print_table(console, "Features", table)


def feature_values(feature: Feature, top: int = TOP) -> dict[str, Json]:
    """A feature for JSON."""
    label = feature.label
    scores = feature.ablated()
    examples = feature.run.all_examples()
    found = feature.examples() if examples is not None else None
    return {
        "feature": feature.id,
        "basis": feature.basis,
        "layer": feature.layer.name,
        "index": feature.index,
        "label": None if label is None else label.text,
        "concepts": {} if label is None else dict(label.concepts),
        "importance": feature.importance,
        "share": feature.share,
        "isolated": feature.isolated,
        "module": feature.module if feature.module >= 0 else None,
        "position_share": feature.position_share,
        "ablation": None if scores is None else scores._asdict(),
        "lesion": _lesion_values(feature),
        "effects": [effect._asdict() for effect in feature.effects()],
        "inputs": [link._asdict() for link in feature.inputs(top)],
        "outputs": [link._asdict() for link in feature.outputs(top)],
        "examples": None if found is None else [_example_values(each) for each in found],
    }


def _lesion_values(feature: Feature) -> dict[str, Json] | None:
    survey = feature.run.lesions() if feature.basis == feature.run.basis else None
    if survey is None or feature.layer.name not in survey.features:
        return None
    score = survey.features[feature.layer.name][feature.index]
    return {"score": survey.score, "without": score, "samples": survey.samples}


def _example_values(example: Example) -> dict[str, Json]:
    return {
        "kind": example.kind,
        "sample": example.sample,
        "position": example.position,
        "value": example.value,
        "texts": list(example.texts),
        "values": list(example.values),
        "at": example.at,
        "place": None if example.place is None else list(example.place),
    }


def module_values(module: Module) -> dict[str, Json]:
    """A module for JSON."""
    return {
        "module": module.number,
        "basis": module.basis,
        "concept": module.concept,
        "concept_share": module.concept_share,
        "layers": dict(module.layers),
        "members": list(module.members),
        "weight": module.weight,
        "inputs": [{"module": f.module, "weight": f.weight} for f in module.inputs],
        "outputs": [{"module": f.module, "weight": f.weight} for f in module.outputs],
    }


def layer_values(run: Run, name: str, basis: str) -> dict[str, Json]:
    """A node layer for JSON."""
    layer = graph_once(run, basis).layer(name)
    features = [Feature(run, basis, layer, place) for place in range(layer.size)]
    return {
        "layer": name,
        "basis": basis,
        "features": [
            {
                "feature": feature.id,
                "label": None if feature.label is None else feature.label.text,
                "importance": feature.importance,
                "share": feature.share,
                "isolated": feature.isolated,
                "module": feature.module if feature.module >= 0 else None,
            }
            for feature in features
        ],
    }
