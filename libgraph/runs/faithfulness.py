"""Faithfulness of a run's bases side by side: what comes out, as tables and for `json.dumps`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from libgraph.backend.options import parse_options
from libgraph.bars import shown
from libgraph.interventions.apart import Cut
from libgraph.interventions.circuits import Circuits, EdgePool
from libgraph.interventions.faithfulness import Curve, faithfulness
from libgraph.interventions.options import FaithfulnessOptions
from libgraph.interventions.subject import Subject
from libgraph.pipeline.workload import Workload
from libgraph.progress import Progress, renamed
from libgraph.runs.going_on import going_on
from libgraph.runs.subject import made_subject
from libgraph.runs.tables import plain_table, print_table, text_of
from libgraph.screen import PlainTable, tell

if TYPE_CHECKING:
    from libgraph.runs.run import Run

AT = {"mean": "at their means", "zero": "at zero", "resample": "from other samples"}
"""Where the inputs of edges that are dropped are, in words."""

BY = {
    "interaction": "by interaction",
    "share": "by their share of the layer pair's interactions",
    "effect": "by the effect of cutting them alone",
    "both": "by interaction and by the effect of cutting them alone",
}
"""What edges are chosen by, in words."""


@dataclass(frozen=True, repr=False)
class Faithfulness:
    """How faithful the graphs of a run are, in one or more bases.

    Args:
        title: of the run.
        score_name: what is measured.
        samples: on so many.
        options: how.
        curves: by name of the basis.
    """

    title: str
    score_name: str
    samples: int
    options: FaithfulnessOptions
    curves: Mapping[str, Curve]

    def __str__(self) -> str:
        """The tables that `libgraph faithfulness` prints."""
        return text_of(self.print)

    @property
    def cpr(self) -> dict[str, float]:
        """∫ f dk by basis: how much is recovered; larger is better."""
        return {name: curve.cpr for name, curve in self.curves.items()}

    @property
    def cmd(self) -> dict[str, float]:
        """∫ |1 − f| dk by basis: how far from the network; smaller is better."""
        return {name: curve.cmd for name, curve in self.curves.items()}

    def print(self, console: Console) -> None:
        """Print all tables.

        Args:
            console: where to.
        """
        options, curves = self.options, self.curves
        whole = next(iter(curves.values())).whole
        tell(
            console,
            (self.title, "bold"),
            f": {self.score_name} {whole:.4f} of {self.samples} samples; edges that are dropped "
            f"{AT[options.baseline]}, kept {BY[options.order]}",
        )
        console.print()
        title = "Faithfulness f of the largest edges of all layer pairs"
        if options.alike:
            most = max(curve.available for curve in curves.values())
            title += f", as many in every basis: shares of {most}"
        print_table(console, title, self._f())
        if any(curve.restored for curve in curves.values()):
            title = f"{_percent(options.restored_at)} of the edges, and {options.restored} random "
            print_table(console, title + "subsets of the others put back: f", self._restored())
        for name, curve in curves.items():
            if curve.apart:
                for what, place, cuts in (
                    ("Edges", "layer pair", curve.apart.edges),
                    ("Features", "node layer", curve.apart.features),
                ):
                    title = f"{what} kept in one {place} at a time, and in all, {name.upper()}: "
                    table = _apart(place, cuts)
                    print_table(console, title + f"change of {self.score_name}", table)

    def _f(self) -> PlainTable:
        shares = self.options.shares
        columns = map(_percent, shares)
        table = plain_table("basis", "edges", "nothing", "CPR", "CMD", *columns)
        undefined = []
        for name, curve in self.curves.items():
            table.add_row(
                name.upper(),
                str(curve.available),
                f"{curve.empty:.3f}",
                *map(number, (curve.cpr, curve.cmd, *curve.faithfulness)),
                bold=(3, 4),
            )
            if curve.random:
                by_share = zip(*curve.random_faithfulness, strict=True)
                areas = map(_spread, (curve.random_cpr, curve.random_cmd))
                means = [number(sum(f) / len(f)) for f in by_share]
                table.add_row("  random", "", "", *areas, *means)
            if math.isnan(curve.faithfulness[0]):
                undefined.append(name.upper())
        if undefined:
            table.caption = (
                f"{', '.join(undefined)}: the whole network scores as it does without edges, so "
                "that there is no share of it to recover."
            )
        return table

    def _restored(self) -> PlainTable:
        table = plain_table("basis", "circuit", "worst", "lowest", "mean", "highest")
        for name, curve in self.curves.items():
            if curve.restored:
                more = curve.restored.with_more
                values = (
                    curve.restored.faithfulness, curve.restored.worst, min(more),
                    sum(more) / len(more), max(more),
                )  # fmt: skip
                table.add_row(name.upper(), *map(number, values))
        return table

    def as_dict(self) -> dict[str, object]:
        """All figures for `json.dumps`; None where there is no number."""
        return {
            "run": self.title,
            "score": self.score_name,
            "samples": self.samples,
            "options": self.options.model_dump(),
            "bases": {name: _curve_values(curve) for name, curve in self.curves.items()},
        }


def faithfulness_of(
    run: Run,
    bases: str | Sequence[str] | None = None,
    *,
    subject: Subject | None = None,
    progress: Progress | None = None,
    **options: object,
) -> Faithfulness:
    """Faithfulness of a run's graphs; see `Run.faithfulness`."""
    parsed = parse_options(FaithfulnessOptions, options, "faithfulness")
    names = [bases] if isinstance(bases, str) else list(bases or run.basis_names)
    names = list(dict.fromkeys(run.chosen(name) for name in names))
    workload: Workload | None = None
    if subject is None:
        subject, workload = made_subject(run, names[0], limit=parsed.limit)
    elif parsed.limit is not None:
        limit = min(parsed.limit, subject.data.limit or parsed.limit)
        subject = replace(subject, data=replace(subject.data, limit=limit))
    by_basis = {name: replace(subject, bases=run.bases(name)) for name in names}
    for each in by_basis.values():
        each.require_own_latents("Faithfulness")
        if parsed.order in ("effect", "both"):
            each.require_linear(f"Faithfulness with order='{parsed.order}'")
    sizes = [EdgePool.of(each, run.edges(name)).size for name, each in by_basis.items()]
    question = {"bases": [*names], **parsed.model_dump(mode="json")}
    with shown(progress) as told, going_on(run, question, subject, workload):
        scores = Circuits(subject).scores({})
        curves = {
            name: faithfulness(
                by_basis[name],
                run.edges(name),
                parsed,
                whole=float(scores.mean()),
                most=max(sizes) if parsed.alike else None,
                progress=_of_basis(told, name),
            )
            for name in names
        }
    return Faithfulness(run.title, subject.backend.score_name, len(scores), parsed, curves)


def _of_basis(progress: Progress, name: str) -> Progress:
    """Progress with the name of the basis at each stage."""

    def told(stage: str, done: int, total: int | None, note: str = "") -> None:
        renamed(progress, f"{stage}, {name.upper()}")(stage, done, total, note)

    return told


def _apart(place: str, cuts: Sequence[Cut]) -> PlainTable:
    table = PlainTable(
        ["kept", "all together", "one at a time, summed", "most alone", place], words=[4], left=[4]
    )
    for cut in cuts:
        table.add_row(
            _percent(cut.share),
            f"{cut.lost_together:+.4f}",
            f"{cut.lost_alone:+.4f}",
            f"{cut.alone[cut.most] - cut.whole:+.4f}",
            "-" if cut.alone[cut.most] == cut.whole else cut.most,
        )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def number(value: float) -> str:
    """Three decimals, where these say something: f has no bounds."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.3g}"


def _spread(values: Sequence[float]) -> str:
    """Mean of draws, and their deviation where there are several."""
    mean = sum(values) / len(values)
    if math.isnan(mean) or len(values) < 2:
        return number(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{number(mean)} ± {number(deviation)}"


def _known(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _curve_values(curve: Curve) -> dict[str, object]:
    (cpr, cmd, log_cpr, log_cmd) = _known((curve.cpr, curve.cmd, curve.log_cpr, curve.log_cmd))
    values: dict[str, object] = {
        "edges": curve.available,
        "whole": curve.whole,
        "empty": curve.empty,
        "cpr": cpr,
        "cmd": cmd,
        "log_cpr": log_cpr,
        "log_cmd": log_cmd,
        "shares": list(curve.shares),
        "kept": list(curve.counts),
        "scores": list(curve.scores),
        "faithfulness": _known(curve.faithfulness),
        "random": {
            "scores": [list(scores) for scores in curve.random],
            "faithfulness": [_known(f) for f in curve.random_faithfulness],
            "cpr": _known(curve.random_cpr),
            "cmd": _known(curve.random_cmd),
        },
    }
    if curve.restored:
        (f, worst) = _known((curve.restored.faithfulness, curve.restored.worst))
        values["restored"] = {
            "share": curve.restored.share,
            "faithfulness": f,
            "worst": worst,
            "with_more": _known(curve.restored.with_more),
        }
    if curve.apart:
        values["apart"] = {
            "edges": [_cut_values(cut) for cut in curve.apart.edges],
            "features": [_cut_values(cut) for cut in curve.apart.features],
        }
    return values


def _cut_values(cut: Cut) -> dict[str, object]:
    return {
        "share": cut.share,
        "together": cut.together,
        "alone": dict(cut.alone),
        "lost_together": cut.lost_together,
        "lost_alone": cut.lost_alone,
    }
