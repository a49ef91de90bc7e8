"""Are the modules more than chance? The modularity of a graph against that of a null model.

Q of the graph is compared with Q of graphs drawn from the null model, found by the very same
procedure, with p = (1 + #{Q_null ≥ Q}) / (1 + N): where graph and draws are exchangeable, p ≤ α
has a probability of at most α. Source: Phipson & Smyth (2010), doi:10.2202/1544-6115.1585. Which
null model answers what: docs/significance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
from pydantic import JsonValue, TypeAdapter
from typing_extensions import TypedDict

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.null_models import NULL_MODELS, LazyNullModel, NullModel
from libgraph.modules.objectives import ObjectiveName
from libgraph.progress import Progress, silent

ROUNDING = 1e-12
"""Modularities nearer than this are equal: sums in another order differ by as much."""


Remember = Callable[[str, Callable[[], JsonValue]], JsonValue]
"""Gives what was computed under a name before, or computes it."""


Modularities = Sequence[Callable[[], float]]

TakeTurns = Callable[[Modularities], list[float]]
"""Computes several modularities, here or in several places."""


class Drawn(TypedDict):
    """Some draws: their modularities, and the state of the random numbers after them."""

    modularities: list[float]
    rng: dict[str, JsonValue]


DRAWN = TypeAdapter(Drawn)


def at_once(name: str, compute: Callable[[], JsonValue]) -> JsonValue:
    """Remember nothing."""
    return compute()


def in_turn(modularities: Modularities) -> list[float]:
    """One after the other, here."""
    return [compute() for compute in modularities]


@dataclass(frozen=True)
class Significance:
    """The modularity of a graph beside that of a null model.

    Args:
        null: Name of the null model.
        draws: N, graphs drawn from it.
        modularity: Q of the graph at γ = 1, in the partition of the γ asked for.
        mean: Mean Q of the draws.
        deviation: Standard deviation of their Q.
        z: (modularity − mean) / deviation; ``None`` where the draws are all the same.
        p: (1 + number of draws with Q at least as large) / (1 + draws).
    """

    null: str
    draws: int
    modularity: float
    mean: float
    deviation: float
    z: float | None
    p: float


def significance(
    graph: InteractionGraph,
    null: str | NullModel,
    *,
    draws: int = 199,
    resolution: float = 1.0,
    seed: int = 0,
    seeds: int = 1,
    objective: ObjectiveName = "layered",
    remember: Remember = at_once,
    together: int = 1,
    take_turns: TakeTurns = in_turn,
    progress: Progress = silent,
) -> Significance:
    """Compare the modularity of a graph with a null model.

    Args:
        graph: a partition it may have is ignored, so that all are found in the same way.
        null: one of `NULL_MODELS`, or a null model of your own, such as `rotated_networks(…)`.
        draws: N; the smallest p is 1 / (1 + N).
        resolution: γ.
        seed: of the draws and of Leiden.
        seeds: runs of Leiden, for the graph and for every draw, the best of which counts.
        objective: what Leiden optimises, see `objectives`.
        remember: gives what was computed under a name before, or computes it.
        together: so many draws are handed to `take_turns` at once; what is drawn is the same.
        take_turns: computes their modularities.
        progress: told after every draw.

    Raises:
        UsageError: for an unknown null model, no draws, or what Leiden cannot use.
    """
    if isinstance(null, str) and null not in NULL_MODELS:
        names = ", ".join(NULL_MODELS)
        raise UsageError(f"There is no null model '{null}': use one of {names}.")
    if draws < 1:
        raise UsageError(f"{draws} draws say nothing: use at least 1.")
    if isinstance(null, str):
        name, model = null, NULL_MODELS[null]
    else:
        name, model = getattr(null, "__name__", type(null).__name__), null

    def modularity(sample: InteractionGraph) -> float:
        return find_communities(sample, resolution, seed, seeds, objective).modularity

    rng = np.random.default_rng(seed)
    observed = modularity(graph)
    kept = {pair: int(np.count_nonzero(w)) for pair, w in graph.weights().items()}
    take_chance = model.drawn if isinstance(model, LazyNullModel) else partial(_at_once, model)

    def modularity_of(measure: Callable[[], InteractionGraph]) -> float:
        sample = measure()
        if graph.epsilon and not sample.epsilon:
            sample = with_as_many_edges(sample, {pair: kept[pair] for pair in graph.epsilon})
        return modularity(sample)

    found: list[float] = []
    for start in range(0, draws, together):
        count = min(together, draws - start)

        def draw(count: int = count) -> JsonValue:
            # All chances are taken here, in the same order whoever measures.
            tasks = [partial(modularity_of, take_chance(graph, rng)) for _ in range(count)]
            state = cast("JsonValue", rng.bit_generator.state)
            return {"modularities": cast("JsonValue", take_turns(tasks)), "rng": state}

        # With the state after them, from which the next ones are drawn.
        label = f"draw {start}" if count == 1 else f"draws {start} to {start + count - 1}"
        known = DRAWN.validate_python(remember(label, draw))
        found += known["modularities"]
        rng.bit_generator.state = known["rng"]
        progress(f"null model {name}", len(found), draws)
    drawn = np.array(found)
    deviation = float(drawn.std(ddof=1)) if draws > 1 else 0.0
    mean = float(drawn.mean())
    return Significance(
        null=name,
        draws=draws,
        modularity=observed,
        mean=mean,
        deviation=deviation,
        z=(observed - mean) / deviation if deviation > ROUNDING else None,
        p=float((1 + np.count_nonzero(drawn >= observed - ROUNDING)) / (1 + draws)),
    )


def _at_once(
    model: NullModel, graph: InteractionGraph, rng: np.random.Generator
) -> Callable[[], InteractionGraph]:
    sample = model(graph, rng)
    return lambda: sample


def with_as_many_edges(graph: InteractionGraph, edges: Mapping[Pair, int]) -> InteractionGraph:
    """The graph with such an ε that so many edges of each pair are above it, where it has as many.

    ε of an analysis comes from ablation; a network drawn at random has no score to keep. Sparse
    graphs have a larger Q than dense ones whatever their modules, so graphs are compared at the
    same number of edges.
    """
    everything = replace(graph, epsilon={}, partition=None).weights()
    epsilon = {}
    for pair, count in edges.items():
        positive = np.sort(graph.edges[pair][everything[pair] > 0])[::-1]
        if len(positive):
            # Where there are too few edges, the smallest one is given up.
            epsilon[pair] = float(positive[min(count, len(positive) - 1)])
    return replace(graph, epsilon=epsilon, partition=None)
