"""The parts of a degeneracy analysis as stages, all kept in one `degeneracy.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue, TypeAdapter

from libgraph.bases.methods import basis_method
from libgraph.degeneracy.figures import (
    AdditivityFigures,
    BehaviourFigures,
    HeadFigures,
    Skipped,
    SkippedModules,
    UnitFigures,
    VolumeFigures,
    WeightFigures,
)
from libgraph.degeneracy.options import DegeneracyOptions
from libgraph.files.atomic import read_json, read_parts, write_json
from libgraph.pipeline.stages import Stage

FILE = "degeneracy.json"
EVERYWHERE = ("seed", "memory")
"""Options that all parts depend on, beside the facts."""

Part = TypeVar("Part")
ModuleFigures = AdditivityFigures | SkippedModules


@dataclass(frozen=True)
class DegeneracyStages:
    """All parts, in order.

    Args:
        weights: ranks, and moves along free directions, by weight.
        units: hidden units that act as one, by section.
        heads: attention heads that act as one, by section.
        behaviour: the spectrum of the behavioural loss.
        volume: the same from sampling, if asked for.
        modules: degeneracy by module.
    """

    weights: Stage[Mapping[str, WeightFigures]]
    units: Stage[Mapping[str, UnitFigures | Skipped]]
    heads: Stage[Mapping[str, HeadFigures]]
    behaviour: Stage[BehaviourFigures]
    volume: Stage[VolumeFigures] | None
    modules: Stage[ModuleFigures]

    @classmethod
    def of(cls, options: DegeneracyOptions, header: Mapping[str, JsonValue]) -> DegeneracyStages:
        """Those that options ask for.

        Args:
            options: of the analysis.
            header: what the file begins with.

        Raises:
            BackendError: if a file of directions cannot be read.
        """
        digest = basis_method(options.basis).digest
        synchrony, spectrum = ("synchrony",), ("samples", "probes", "steps")
        behaviour: Stage[BehaviourFigures] = _part(
            "behaviour", TypeAdapter(BehaviourFigures), header, spectrum
        )
        volume: Stage[VolumeFigures] | None = None
        if options.volume:
            kind = TypeAdapter(VolumeFigures)
            volume = _part("volume", kind, header, ("radius",), after=(behaviour,))
        return cls(
            _part("weights", TypeAdapter(Mapping[str, WeightFigures]), header),
            _part("units", TypeAdapter(Mapping[str, UnitFigures | Skipped]), header, synchrony),
            _part("heads", TypeAdapter(Mapping[str, HeadFigures]), header, synchrony),
            behaviour,
            volume,
            _part(
                "modules",
                TypeAdapter(ModuleFigures),
                header,
                ("basis", "draws"),
                after=(behaviour,),
                besides={"file": digest},
            ),
        )


def _part(
    name: str,
    kind: TypeAdapter[Part],
    header: Mapping[str, JsonValue],
    reads: tuple[str, ...] = (),
    *,
    after: tuple[Stage[Any], ...] = (),
    besides: Mapping[str, JsonValue] | None = None,
) -> Stage[Part]:
    return Stage(
        name,
        FILE,
        partial(_save, name=name, kind=kind, header=header),
        lambda path: kind.validate_python(read_json(path)[name]),
        reads=(*EVERYWHERE, *reads),
        after=after,
        besides=besides or {},
        part=name,
    )


def _save(
    path: Path, part: Part, *, name: str, kind: TypeAdapter[Part], header: Mapping[str, JsonValue]
) -> None:
    """Write a part beside the others, of which later ones of an earlier run may still hold."""
    parts = read_parts(path)
    plain = kind.dump_python(part, by_alias=True, exclude_unset=True)
    write_json(path, {**header, **parts, **header, name: plain})
