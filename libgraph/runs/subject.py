"""A run's network made again, for questions that a graph of averages cannot answer.

A run in memory has its backend. One from a directory makes it again by the options in `run.json`;
that it is the same network is checked by its fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import JsonValue

from libgraph.backend.contract import Backend, Split
from libgraph.backend.options import parse_options
from libgraph.backend.registry import load_backend
from libgraph.errors import UsageError
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.selection import find_feature
from libgraph.interventions.changes import Change, How, Intervention
from libgraph.interventions.subject import Subject
from libgraph.pipeline.options import ComputingOptions
from libgraph.pipeline.workload import Workload
from libgraph.runs.feature import graph_once

if TYPE_CHECKING:
    from libgraph.runs.run import Run

Target = str | Sequence[str]
"""A feature, `ln2.0/5`, or `module:3`, which is all its features; or several."""

Values = Mapping[str, float | None]
"""What becomes of each feature or module; None where no value is needed."""

MODULE = re.compile(r"module[ :]?(-?\d+)")


def subject_of(
    run: Run,
    basis: str | None = None,
    *,
    backend: Backend | None = None,
    split: Split = "test",
    limit: int | None = None,
) -> Subject:
    """The network, data and features of a run.

    Args:
        run: in memory, or of a directory.
        basis: of its bases; the main one if None.
        backend: where the run's own cannot be made again by its name.
        split: what questions are asked about.
        limit: its first samples only.

    Raises:
        UsageError: if the backend gives another network than that which was analysed.
        BackendError: if it cannot be made again.
    """
    return made_subject(run, basis, backend=backend, split=split, limit=limit)[0]


def made_subject(
    run: Run,
    basis: str | None,
    *,
    backend: Backend | None = None,
    split: Split = "test",
    limit: int | None = None,
) -> tuple[Subject, Workload]:
    """The same as `subject_of`, and what knows all that answers depend on."""
    name = run.chosen(basis)
    record: Mapping[str, JsonValue] = getattr(run, "record", {})
    if backend is None:
        backend = getattr(run, "backend", None) or _made_again(run, record)
    given = record.get("options") if record else getattr(run, "options", None)
    options = _computing(given, limit)
    workload = Workload(backend, options)
    known = record.get("network")
    if known is not None and known != workload.fingerprint:
        raise UsageError(
            f"The backend '{backend.name}' gives another network than '{run.title}' was made of: "
            "its weights or its cutting have changed. Analyse again, or give the backend as it was."
        )
    data = workload.data(split)
    few = max(1, data.batch_size // len(workload.network.node_layers))
    subject = Subject(
        workload.network,
        backend,
        run.bases(name),
        replace(data, batch_size=few),
        replace(workload.data("train"), batch_size=few, limit=_limit(given)),
    )
    return subject, workload


def _limit(given: object) -> int | None:
    limit = given.get("limit") if isinstance(given, Mapping) else getattr(given, "limit", None)
    return limit if isinstance(limit, int) else None


def _computing(given: object, limit: int | None) -> ComputingOptions:
    """Precision, device and memory as in the analysis."""
    values = (
        dict(given)
        if isinstance(given, Mapping)
        else given.model_dump()
        if isinstance(given, ComputingOptions)
        else {}
    )
    chosen = {name: values[name] for name in ComputingOptions.model_fields if name in values}
    if limit is not None:
        chosen["limit"] = limit if chosen.get("limit") is None else min(limit, chosen["limit"])
    return parse_options(ComputingOptions, chosen, "the run")


def _made_again(run: Run, record: Mapping[str, JsonValue]) -> Backend:
    options = record.get("backend_options")
    given = (
        {key: value for key, value in dict(options).items() if value is not None}
        if (isinstance(options, dict))
        else {}
    )
    return load_backend(str(record.get("backend", run.metrics.backend)), **given)


def interventions_of(
    run: Run,
    what: Target | Values | Sequence[Values],
    how: How,
    positions: Sequence[int] | None,
    basis: str | None = None,
) -> list[Intervention]:
    """Interventions from ids of features and modules.

    Args:
        run: whose graph says which features there are.
        what: an id or several, each of which is one intervention; or values by id, which are one
            intervention together; or several of these.
        how: what is done with each.
        positions: where.
        basis: of the run.

    Raises:
        UsageError: if there is no such feature or module, or a value is missing.
    """
    graph = graph_once(run, run.chosen(basis))
    if isinstance(what, str):
        what = [what]
    groups: list[Values] = (
        [what]
        if isinstance(what, Mapping)
        else [{part: None} if isinstance(part, str) else part for part in what]
    )
    where = None if positions is None else tuple(positions)
    return [
        Intervention(
            " + ".join(group),
            tuple(
                change
                for name, value in group.items()
                for change in changes_of(graph, name, how, value, where)
            ),
        )
        for group in groups
    ]


def changes_of(
    graph: InteractionGraph,
    name: str,
    how: How,
    value: float | None,
    positions: tuple[int, ...] | None,
) -> list[Change]:
    """What becomes of a feature, or of all features of a module, by its id.

    Raises:
        UsageError: if there is none, or a value is missing.
    """
    if how in ("set", "scale", "add") and value is None:
        raise UsageError(f"'{name}' needs a value to {how} it: give {{'{name}': 0.0}}, say.")
    number = MODULE.fullmatch(name)
    if number is None:
        place = find_feature(graph, name)
        return [Change(place.layer.name, (place.index,), how, value or 0.0, positions)]
    return [
        Change(layer, features, how, value or 0.0, positions)
        for layer, features in members_of(graph, int(number[1])).items()
    ]


def members_of(graph: InteractionGraph, module: int) -> dict[str, tuple[int, ...]]:
    """Features of a module, by node layer.

    Raises:
        UsageError: if there is no such module.
    """
    count = 0 if graph.partition is None else graph.partition.size
    if not 0 <= module < count:
        raise UsageError(f"There is no module {module}: the graph has {count}, from 0 on.")
    members = {
        layer.name: tuple((graph.membership(layer.name) == module).nonzero()[0].tolist())
        for layer in graph.layers
    }
    return {layer: features for layer, features in members.items() if features}
