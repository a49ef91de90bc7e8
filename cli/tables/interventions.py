"""What `libgraph ablate` and `libgraph steer` print, and the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from libgraph.runs.feature import graph_once
from libgraph.runs.requests import read_request
from libgraph.runs.subject import changes_of
from libgraph.runs.tables import print_table
from libgraph.screen import PlainTable, tell
from libgraph.visible import in_line

if TYPE_CHECKING:
    from torch import Tensor

    from libgraph.backend.contract import Json
    from libgraph.graph.interaction_graph import InteractionGraph
    from libgraph.interventions.changes import Intervention
    from libgraph.interventions.intervene import Intervened
    from libgraph.interventions.steering import Steered
    from libgraph.interventions.subject import Subject
    from libgraph.runs.run import Run


ROUNDING = 1e-5
"""Deviations that are too few to be a change, in single precision too."""


class Follower(NamedTuple):
    """A later feature that an intervention moves, in its own deviations."""

    feature: str
    label: str
    rms: float
    mean: float


def followers(
    run: Run,
    subject: Subject,
    result: Intervened,
    number: int,
    basis: str | None,
    top: int,
) -> list[Follower]:
    """Later features that an intervention moves most, relative to their deviation.

    Those that it changes itself, alone or with their module, are left out.
    """
    graph = graph_once(run, run.chosen(basis))
    own = _changed(graph, result.names[number])
    layers = {layer.name: layer for layer in graph.layers}
    found: list[Follower] = []
    for name, moved in result.moved.items():
        layer, deviation = layers[name], result.deviation[name].clamp(min=1e-300)
        steady = result.deviation[name] <= 1e-9 * result.deviation[name].max()
        rms = (moved.rms[number] / deviation).masked_fill(steady, 0)
        rms[: layer.isolated] = 0
        rms[sorted(own.get(name, ()))] = 0
        for index in rms.argsort(descending=True, stable=True)[:top].tolist():
            label = layer.labels[index].text if layer.labels is not None else ""
            mean = float(moved.mean[number, index] / deviation[index])
            found.append(Follower(f"{name}/{index}", label, float(rms[index]), mean))
    return sorted((each for each in found if each.rms > ROUNDING), key=lambda each: -each.rms)[:top]


def _changed(graph: InteractionGraph, name: str) -> dict[str, set[int]]:
    """By node layer, the features that an intervention of this name changes."""
    changed: dict[str, set[int]] = {}
    for text in name.split(" + "):
        for change in changes_of(graph, read_request(text)[0], "mean", None, None):
            changed.setdefault(change.layer, set()).update(change.features)
    return changed


def _first_label(run: Run, name: str, basis: str | None) -> str:
    places = {
        f"{layer.name}/{index}": label.text
        for layer in graph_once(run, run.chosen(basis)).layers
        for index, label in enumerate(layer.labels or ())
    }
    return in_line(places.get(name.split("=")[0].rstrip("+"), "").split(" | ")[0])


def print_intervened(
    console: Console, run: Run, subject: Subject, result: Intervened, basis: str | None
) -> None:
    """Print scores with and without each intervention, and what each moves most."""
    backend = subject.backend
    base = result.base_score
    table = PlainTable(
        ["without", "stands for", backend.score_name, "change", "moves most, in deviations"],
        words=[0, 1, 4],
        left=[0, 1, 4],
    )
    for number, (name, score) in enumerate(zip(result.names, result.mean_scores, strict=True)):
        moved = [
            f"{follower.feature} {follower.rms:.2g}"
            for follower in followers(run, subject, result, number, basis, 3)
        ]
        change = score - base if base is not None else 0.0
        table.add_row(
            name,
            _first_label(run, name, basis),
            f"{score:.4g}",
            f"{change:+.3g}",
            ", ".join(moved),
        )
    print_table(console, f"Features of {run.title} changed, one row at a time", table)
    if base is not None and result.base_scores is not None:
        better = "higher" if backend.higher_is_better else "lower"
        tell(
            console,
            f"The whole model: {backend.score_name} {base:.4g} on {len(result.base_scores)} "
            f"samples of the {subject.data.split} split; {better} is better.",
        )


def intervened_values(
    run: Run, subject: Subject, result: Intervened, basis: str | None
) -> dict[str, Json]:
    """The same and more as JSON holds it."""
    return {
        "score_name": subject.backend.score_name,
        "samples": 0 if result.base_scores is None else len(result.base_scores),
        "score": result.base_score,
        "interventions": [
            {
                "name": name,
                "score": score,
                "moved": [
                    follower._asdict()
                    for follower in followers(run, subject, result, number, basis, 50)
                ],
            }
            for number, (name, score) in enumerate(
                zip(result.names, result.mean_scores, strict=True)
            )
        ],
    }


def print_steered(
    console: Console,
    subject: Subject,
    intervention: Intervention,
    inputs: Tensor,
    result: Steered,
    top: int,
) -> None:
    """Print what the model says without and with the changes."""
    text = "".join(_shown(subject, inputs))
    if text:
        tell(console, (in_line(text), "bold"))
    chosen = result.strongest(top)
    names = subject.class_names(chosen)
    table = PlainTable(["next", "probability", "steered", "points"], words=[0], left=[0])
    for number, name in zip(chosen, names, strict=True):
        before, after = float(result.base[number]), float(result.steered[number])
        table.add_row(
            in_line(name), _share(before), _share(after), f"{100 * (after - before):+.1f}"
        )
    print_table(console, f"What comes next with {intervention.name}", table)
    if result.chosen:
        for title, tokens in (("goes on", result.base_chosen), ("steered", result.chosen)):
            tell(console, (f"{title}: ", "bold"), in_line("".join(_continued(subject, tokens))))


def _share(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def _shown(subject: Subject, inputs: Tensor) -> list[str]:
    shown = subject.backend.show(inputs)
    return [] if not isinstance(shown, list) or not shown else [str(part) for part in shown[0]]


def _continued(subject: Subject, tokens: tuple[int, ...]) -> list[str]:
    import torch

    return _shown(subject, torch.tensor([tokens]))


def steered_values(subject: Subject, inputs: Tensor, result: Steered) -> dict[str, Json]:
    """The same of all classes as JSON holds it."""
    names = subject.class_names(range(len(result.base)))
    return {
        "input": "".join(_shown(subject, inputs)),
        "probabilities": [
            {"name": name, "base": base, "steered": steered}
            for name, base, steered in zip(
                names, result.base.tolist(), result.steered.tolist(), strict=True
            )
        ],
        "continuation": "".join(_continued(subject, result.base_chosen)) if result.chosen else "",
        "steered_continuation": "".join(_continued(subject, result.chosen))
        if result.chosen
        else "",
    }
