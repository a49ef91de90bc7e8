"""The stages of an analysis: what each is kept in, depends on, and is going to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pydantic import JsonValue, TypeAdapter

from libgraph.analysis.halves import HALVES
from libgraph.analysis.rotations import DRAWN_SAMPLES
from libgraph.bases.method import BasisMethod
from libgraph.bases.methods import METHODS, basis_method
from libgraph.edges.interactions import Interactions
from libgraph.edges.reconstruction import Reconstructions
from libgraph.errors import UsageError
from libgraph.files.atomic import read_json, write_json
from libgraph.graph.arrays import Pair
from libgraph.interventions.survey import SURVEYED, LesionSurvey
from libgraph.modules.significance import Significance
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.pipeline.options import AnalysisOptions
from libgraph.pipeline.passes import Passes
from libgraph.pipeline.stages import Stage
from libgraph.runs.examples import Examples, load_examples, save_examples
from libgraph.runs.run import EXAMPLES, LESIONS, Ablation
from libgraph.runs.stored import (
    load_ablation,
    load_bases,
    load_interactions,
    save_ablation,
    save_bases,
    save_interactions,
)

ABLATION = "ablation.json"


BISECTION_PASSES = 5
"""Cost of a bisection, in passes that keep half of all edges: the first trials keep all, a half, a
quarter and so on, and later ones change few outputs. What was counted on the bundled models, where
it is 3 to 12."""


SCATTERED_PASSES = 12
"""The same where nearly all edges are needed."""


CURVE_PASSES = 2
"""Cost of trying all powers of two as well, in the same passes: all edges, a half, a quarter."""


TRIALS = 16
"""Numbers of edges that a bisection tries, and powers of two besides; each runs on to the end."""


LESION_TRIALS = 100
"""Features of a node layer and random sets of modules that are switched off: what is usual."""


NODE_TRIALS = 36
"""Numbers of features that node ablation tries at a node layer that has as many."""


@dataclass(frozen=True)
class AnalysisStages:
    """All stages of an analysis, in order; `for stage in stages` goes through them.

    Args:
        methods: how each basis is made, by its name.
        bases: of all methods, from one pass for statistics.
        interactions: in all bases.
        ablation: by name of the basis; none where none is asked for.
        examples: of the features of the main basis.
        halves: interactions on even and on odd samples, if asked for.
        significance: against rotated networks, if asked for.
        lesions: of every feature and module of the main basis, if asked for.
        dictionaries: what they keep, by name of the basis; of those that have some.
    """

    methods: Mapping[str, BasisMethod]
    bases: Stage[dict[str, Bases]]
    interactions: Stage[Interactions]
    ablation: Mapping[str, Stage[Ablation]]
    examples: Stage[Examples]
    halves: Stage[Interactions] | None
    significance: Stage[Significance] | None
    lesions: Stage[LesionSurvey] | None
    dictionaries: Mapping[str, Stage[Reconstructions]]

    def __iter__(self) -> Iterator[Stage[Any]]:
        yield self.bases
        yield self.interactions
        yield from self.dictionaries.values()
        yield from self.ablation.values()
        yield self.examples
        if self.halves is not None:
            yield self.halves
        if self.significance is not None:
            yield self.significance
        if self.lesions is not None:
            yield self.lesions

    @classmethod
    def of(cls, options: AnalysisOptions, network: Network) -> AnalysisStages:
        """Those that options ask for, on a network.

        Raises:
            UsageError: if a basis is not known, or options do not go together.
            BackendError: if a file of directions cannot be read.
        """
        methods = {name: basis_method(chosen) for name, chosen in options.bases.items()}
        pairs = [(a.name, b.name) for a, b, _ in network.pairs]
        bases = _bases(methods, options, network)
        interactions = _interactions(bases, list(methods), pairs, options)
        ablated = methods if options.ablate else {}
        ablation = {
            name: _ablation(interactions, name, method.scattered, pairs, options)
            for name, method in ablated.items()
        }
        return cls(
            methods,
            bases,
            interactions,
            ablation,
            _examples(bases),
            _halves(bases, list(methods), pairs, options) if options.halves else None,
            _significance(methods, options) if options.draws else None,
            _lesions([interactions, *ablation.values()]) if options.lesions else None,
            {name: _dictionaries(bases, name) for name, each in methods.items() if each.latent},
        )


def _bases(
    methods: Mapping[str, BasisMethod], options: AnalysisOptions, network: Network
) -> Stage[dict[str, Bases]]:
    def cost(passes: Passes) -> dict[str, float]:
        samples = passes.samples["bases"]
        of_bases = passes.of_bases(list(methods.values())) * samples
        return {
            "statistics": passes.forward * samples,
            "bases": of_bases + sum(passes.beside.values()),
        }

    digests: dict[str, JsonValue] = {name: method.digest for name, method in methods.items()}
    return Stage(
        "bases",
        "bases.safetensors",
        save_bases,
        partial(load_bases, names=list(methods), layers=network.node_layers, device=options.device),
        reads=tuple({name for method in methods.values() for name in method.reads}),
        besides={"bases": digests},
        cost=cost,
    )


def _interactions(
    bases: Stage[dict[str, Bases]],
    names: list[str],
    pairs: list[Pair],
    options: AnalysisOptions,
) -> Stage[Interactions]:
    def cost(passes: Passes) -> dict[str, float]:
        return {"interactions": passes.interactions * passes.samples["train"] * len(names)}

    return Stage(
        "interactions",
        "edges.safetensors",
        save_interactions,
        partial(load_interactions, names=names, pairs=pairs, device=options.device),
        reads=("integration", "signs", *(("seed",) if options.signs else ())),
        after=(bases,),
        cost=cost,
    )


def _ablation(
    interactions: Stage[Interactions],
    name: str,
    scattered: bool,
    pairs: list[Pair],
    options: AnalysisOptions,
) -> Stage[Ablation]:
    def cost(passes: Passes) -> dict[str, float]:
        bisection = SCATTERED_PASSES if scattered else BISECTION_PASSES
        masked = (bisection + CURVE_PASSES * options.curves) * passes.masked
        trials = TRIALS * (1 + options.curves)
        behind = trials * (passes.behind + passes.sections * passes.score)
        return {"ablation": (masked + behind + passes.nodes) * passes.samples["test"]}

    return Stage(
        f"ablation {name}",
        ABLATION,
        partial(save_ablation, name=name),
        partial(load_ablation, name=name, pairs=pairs),
        reads=("score_dtype", "tolerances", "curves", "memory"),
        after=(interactions,),
        part=name,
        cost=cost,
    )


def _dictionaries(bases: Stage[dict[str, Bases]], name: str) -> Stage[Reconstructions]:
    def cost(passes: Passes) -> dict[str, float]:
        # Each node layer is run on from twice, and all of them at once.
        behind = 2 * (passes.behind + passes.plain)
        return {"dictionaries": behind * passes.samples["test"]}

    return Stage(
        f"dictionaries {name}",
        f"dictionaries-{name}.json",
        lambda path, found: write_json(path, asdict(found)),
        lambda path: TypeAdapter(Reconstructions).validate_python(read_json(path)),
        reads=("score_dtype",),
        after=(bases,),
        cost=cost,
    )


def _examples(bases: Stage[dict[str, Bases]]) -> Stage[Examples]:
    # What is seen of samples depends on the backend and its options, as everything does.
    return Stage(
        "examples", EXAMPLES, save_examples, load_examples, reads=("basis",), after=(bases,)
    )


def _lesions(after: Sequence[Stage[Any]]) -> Stage[LesionSurvey]:
    # Modules are found anew where edges, ε, or how they are looked for have changed.
    def cost(passes: Passes) -> dict[str, float]:
        return {"lesions": passes.behind * min(passes.samples["test"], SURVEYED) * LESION_TRIALS}

    return Stage(
        "lesions",
        LESIONS,
        lambda path, survey: survey.write(path),
        LesionSurvey.read,
        reads=("basis", "objective", "resolution", "seeds", "seed", "score_dtype"),
        after=tuple(after),
        cost=cost,
    )


def _halves(
    bases: Stage[dict[str, Bases]],
    names: list[str],
    pairs: list[Pair],
    options: AnalysisOptions,
) -> Stage[Interactions]:
    # Before anything is computed at length, because this may fail where the rest does not.
    if options.limit == 1:
        raise UsageError("Halves of the data need at least two samples: use limit=2 or more.")

    def cost(passes: Passes) -> dict[str, float]:
        return {"halves": passes.exact_interactions * passes.samples["train"] * len(names)}

    halves = [f"{name} {half}" for name in names for half in HALVES]
    return Stage(
        "halves",
        "halves.safetensors",
        save_interactions,
        partial(load_interactions, names=halves, pairs=pairs, device=options.device),
        reads=("integration",),
        after=(bases,),
        cost=cost,
    )


def _significance(
    methods: Mapping[str, BasisMethod], options: AnalysisOptions
) -> Stage[Significance]:
    if options.main not in METHODS:
        what = "Dictionaries" if methods[options.main].latent else "Directions of a file"
        raise UsageError(
            f"{what}, such as {options.basis}, are not those of a rotated network, and cannot be "
            "made anew for it: use draws=0, or another basis for the graph."
        )
    method = methods[options.main]

    def cost(passes: Passes) -> dict[str, float]:
        draw = passes.forward + passes.of_bases([method]) + passes.exact_interactions
        draw *= min(passes.samples["train"], DRAWN_SAMPLES)
        beside = passes.beside.get(options.main, 0.0)
        return {"significance": (1 + options.draws) * (draw + beside)}

    return Stage(
        "significance",
        "significance.json",
        lambda path, significance: write_json(path, asdict(significance)),
        lambda path: Significance(**read_json(path)),
        reads=("basis", "integration", "draws", "objective", "resolution", "seed", *method.reads),
        cost=cost,
    )
