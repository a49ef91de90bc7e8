"""Are the modules more than chance? The modularity of a graph against that of a null model.

Q of the graph is compared with Q of graphs drawn from the null model, found by the very same
procedure, with p = (1 + #{Q_null ≥ Q}) / (1 + N): where graph and draws are exchangeable, p ≤ α
has a probability of at most α. Source: Phipson & Smyth (2010), doi:10.2202/1544-6115.1585. Which
null model answers what: docs/significance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from pydantic import JsonValue, TypeAdapter
from typing_extensions import TypedDict

from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.null_models import NULL_MODELS, NullModel
from libgraph.modules.objectives import ObjectiveName
from libgraph.progress import Progress, silent

ROUNDING = 1e-12
"""Modularities nearer than this are equal: sums in another order differ by as much."""


Remember = Callable[[str, Callable[[], JsonValue]], JsonValue]
"""Gives what was computed under a name before, or computes it."""


class Drawn(TypedDict):
    """One draw: its modularity, and the state of the random numbers after it."""

    modularity: float
    rng: dict[str, JsonValue]


DRAWN = TypeAdapter(Drawn)


def at_once(name: str, compute: Callable[[], JsonValue]) -> JsonValue:
    """Remember nothing."""
    return compute()


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
    drawn = np.empty(draws)
    for index in range(draws):

        def draw() -> JsonValue:
            sample = model(graph, rng)
            if graph.epsilon and not sample.epsilon:
                sample = with_as_many_edges(sample, {pair: kept[pair] for pair in graph.epsilon})
            state = cast("JsonValue", rng.bit_generator.state)
            return {"modularity": modularity(sample), "rng": state}

        # With the state after it, from which the next one is drawn.
        known = DRAWN.validate_python(remember(f"draw {index}", draw))
        drawn[index], rng.bit_generator.state = known["modularity"], known["rng"]
        progress(f"null model {name}", index + 1, draws)
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
