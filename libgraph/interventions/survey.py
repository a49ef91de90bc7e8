"""Every feature and every module switched off in turn: what does the score lose?

Features go to their means, one at a time, then all features of each module together. Random sets of
the same size and importance tell whether a module is more than its members: in every node layer its
features change places with others of about the same rank. And each feature that is switched off
tests the edges that leave it: how much of what happens in the next node layer do they predict?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from libgraph.accumulate.halfway import remembered
from libgraph.accumulate.ranks import ranks, shared_out
from libgraph.errors import UsageError
from libgraph.files.atomic import writing
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.interventions.changes import Change, Intervention
from libgraph.interventions.intervene import intervene
from libgraph.interventions.subject import Subject
from libgraph.progress import Progress, silent
from libgraph.sections.chunks import chunks

SURVEYED = 2048
"""Positions of the test split that are run under every lesion, at most: samples times positions."""

PREDICTED = 256
"""Positions over which predictions of the edges are held against measurements, at most."""

NEIGHBOURS = 8
"""Ranks in a row that change places where random sets are drawn."""

DRAWS = 19
"""Random sets for each module; the smallest p is 1 / 20."""

TOGETHER = 64
"""Lesions that are measured together, and kept where a run is interrupted."""

TEXTS = TypeAdapter(list[list[str]])


class ModuleLesion(BaseModel):
    """What a module's lesion does to the score.

    Args:
        score: without it.
        random: without each of the random sets.
        p: share of random sets that lose as much, itself among them.
    """

    model_config = ConfigDict(frozen=True)

    score: float
    random: tuple[float, ...]
    p: float


class LesionSurvey(BaseModel):
    """Scores without each feature and each module of a run.

    Attributes:
        samples: on how many samples of the test split.
        score: of the whole model on these.
        features: score without each feature, by node layer, isolated ones None.
        modules: likewise, in order.
        predicted: by layer pair, `ln1.0->ln2.0`, R² of what the derivative at the sample predicts
            for the features of the next node layer when one feature goes to its mean; None where
            nothing moves.
    """

    model_config = ConfigDict(frozen=True)

    samples: int
    score: float
    features: Mapping[str, tuple[float | None, ...]]
    modules: tuple[ModuleLesion, ...]
    predicted: Mapping[str, float | None]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        with writing(path) as temporary:
            temporary.write_text(self.model_dump_json() + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> LesionSurvey:
        """Read what `write` wrote.

        Raises:
            UsageError: if it is damaged.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, ValueError, OSError) as error:
            raise UsageError(
                f"'{path}' cannot be read ({str(error).splitlines()[0]}): analyse again with "
                "force=True."
            ) from None


def survey_lesions(
    subject: Subject,
    graph: InteractionGraph,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Progress = silent,
) -> LesionSurvey:
    """Switch off every feature and every module of a graph, and test its edges.

    Cost: a run from the node layer on for each feature, and 1 + `draws` for each module, on at
    most `SURVEYED` positions of the data.

    Args:
        subject: whose features the graph is of.
        graph: with modules, if it has any.
        draws: random sets for each module.
        seed: of the sets.
        progress: told as the stages `lesions of features` and so on.
    """
    few = _few(subject, SURVEYED)
    singles = [
        (layer.name, index)
        for layer in graph.layers
        if layer.rotated
        for index in range(layer.isolated, layer.size)
    ]
    lesions = [Intervention(f"{n}/{i}", (Change(n, (i,)),)) for n, i in singles]
    with torch.no_grad():
        whole = torch.cat(
            [few.backend.score(few.network(x), targets) for x, targets in few.data]
        ).double()
    alone = _mean_scores(few, lesions, "lesions of features", progress)
    scores: dict[str, list[float | None]] = {
        layer.name: [None] * layer.size for layer in graph.layers if layer.rotated
    }
    for (name, index), score in zip(singles, alone, strict=True):
        scores[name][index] = score
    base = float(whole.mean())
    modules = _modules(few, graph, base, draws, seed, progress)
    return LesionSurvey(
        samples=len(whole),
        score=base,
        features={name: tuple(values) for name, values in scores.items()},
        modules=tuple(modules),
        predicted=predictions(subject, graph, progress),
    )


def _few(subject: Subject, positions: int) -> Subject:
    """The subject with so many positions of its data, at most."""
    (single,) = _first(subject, 1)
    longest = max(x.shape[1] for x in subject.network.activations(single))
    samples = max(1, positions // longest)
    limit = samples if subject.data.limit is None else min(samples, subject.data.limit)
    return replace(subject, data=replace(subject.data, limit=limit))


def _first(subject: Subject, count: int) -> Iterator[Tensor]:
    for batch in replace(subject.data, limit=count, batch_size=count):
        yield batch.inputs


def _modules(
    subject: Subject,
    graph: InteractionGraph,
    base: float,
    draws: int,
    seed: int,
    progress: Progress,
) -> list[ModuleLesion]:
    count = 0 if graph.partition is None else graph.partition.size
    if not count:
        return []
    generator = torch.Generator().manual_seed(seed)
    members = [_members(graph, module) for module in range(count)]
    sets = [[own, *(_shuffled(graph, own, generator) for _ in range(draws))] for own in members]
    lesions = [
        Intervention(
            f"module {module}, set {number}",
            tuple(Change(layer, features) for layer, features in chosen.items()),
        )
        for module, of_module in enumerate(sets)
        for number, chosen in enumerate(of_module)
    ]
    scores = _mean_scores(subject, lesions, "lesions of modules", progress)
    sign = 1 if subject.backend.higher_is_better else -1
    found = []
    for module in range(count):
        own, *random = scores[module * (1 + draws) : (module + 1) * (1 + draws)]
        loss = sign * (base - own)
        as_much = sum(sign * (base - other) >= loss for other in random)
        found.append(ModuleLesion(score=own, random=tuple(random), p=(1 + as_much) / (1 + draws)))
    return found


def _mean_scores(
    subject: Subject, lesions: Sequence[Intervention], stage: str, progress: Progress
) -> list[float]:
    """With each of the lesions; some at a time, which ranks of a job share out and a run keeps."""
    # Known before, so that no rank has to ask the others for it while it is alone.
    _ = subject.usual
    parts = [lesions[first : first + TOGETHER] for first in range(0, len(lesions), TOGETHER)]
    together, scores = ranks()[1], list[float]()

    def of_part(part: Sequence[Intervention]) -> list[str]:
        # As text that is the same number again, infinite ones too.
        return [score.hex() for score in intervene(subject, part, watched=False).mean_scores]

    for start in range(0, len(parts), together):
        progress(stage, len(scores), len(lesions))
        tasks = [partial(of_part, part) for part in parts[start : start + together]]
        label = f"{stage}, {len(scores)} and {sum(map(len, parts[start : start + together]))} more"
        known = TEXTS.validate_python(remembered(label, partial(_in_turn, tasks)))
        scores += [float.fromhex(text) for of_part in known for text in of_part]
    progress(stage, len(lesions), len(lesions))
    return scores


def _in_turn(tasks: Sequence[Callable[[], list[str]]]) -> JsonValue:
    return [[*texts] for texts in shared_out(tasks)]


def _members(graph: InteractionGraph, module: int) -> dict[str, tuple[int, ...]]:
    members = {
        layer.name: tuple((graph.membership(layer.name) == module).nonzero()[0].tolist())
        for layer in graph.layers
        if layer.rotated
    }
    return {name: features for name, features in members.items() if features}


def _shuffled(
    graph: InteractionGraph, members: Mapping[str, Sequence[int]], generator: torch.Generator
) -> dict[str, tuple[int, ...]]:
    """As many features of each node layer, of about the same ranks: neighbours change places."""
    layers = {layer.name: layer for layer in graph.layers}
    shuffled = {}
    for name, features in members.items():
        layer = layers[name]
        ranks = torch.arange(layer.size)
        start = layer.isolated - int(torch.randint(NEIGHBOURS, (), generator=generator))
        for block in range(start, layer.size, NEIGHBOURS):
            inside = ranks[max(block, layer.isolated) : max(block + NEIGHBOURS, layer.isolated)]
            order = torch.randperm(len(inside), generator=generator)
            ranks[max(block, layer.isolated) : max(block + NEIGHBOURS, layer.isolated)] = inside[
                order
            ]
        shuffled[name] = tuple(sorted(ranks[list(features)].tolist()))
    return shuffled


def predictions(
    subject: Subject, graph: InteractionGraph, progress: Progress = silent
) -> dict[str, float | None]:
    """By layer pair, R² = 1 − Σ(Δ − Δ̂)²/ΣΔ² of the next features where one goes to its mean.

    Δ̂ is what the derivative at the sample says, Δ what the section does; sums are over features
    that are not isolated, on both sides, samples and positions.
    """
    layers = {layer.name: layer for layer in graph.layers}
    (inputs,) = _first(_few(subject, PREDICTED), PREDICTED)
    found: dict[str, float | None] = {}
    with torch.no_grad():
        activations = list(subject.network.activations(inputs))
        pairs = subject.network.pairs
        for place, (a, b, _) in enumerate(pairs):
            progress("predictions of edges", place, len(pairs))
            source, target = (layers[layer.name] for layer in (a, b))
            linear = subject.bases[a.name].linear and subject.bases[b.name].linear
            if not (source.rotated and linear):
                continue
            error, total = _prediction(
                subject, (a.name, b.name), activations[place], source.isolated, target.isolated
            )
            found[f"{a.name}->{b.name}"] = 1 - error / total if total > 0 else None
        progress("predictions of edges", len(pairs), len(pairs))
    return found


def _prediction(
    subject: Subject, pair: Pair, x: Tensor, isolated: int, isolated_after: int
) -> tuple[float, float]:
    """Σ(Δ − Δ̂)² and ΣΔ² of one layer pair, features some at a time."""
    place = subject.layers.index(pair[0])
    section = subject.network.sections[place]
    basis, after = subject.cast[pair[0]], subject.cast[pair[1]].encoder[:, isolated_after:]
    linear = section.linearize(x)
    y = section(x) @ after
    error = total = 0.0
    features = range(isolated, len(basis))
    for part in chunks(len(features), 4 * x.numel() * 2, x):
        chosen = torch.tensor(features[part])
        steps = subject.usual[pair[0]].mean[chosen] - x @ basis.encoder[:, chosen]
        moved = steps.permute(2, 0, 1).unsqueeze(-1) * basis.decoder[chosen][:, None, None]
        measured = section((x + moved).flatten(0, 1)).unflatten(0, (-1, len(x))) @ after - y
        predicted = linear(moved.transpose(0, 1)).transpose(0, 1) @ after
        error += float((measured - predicted).double().square().sum())
        total += float(measured.double().square().sum())
    return error, total
