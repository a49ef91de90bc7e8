"""Whether parameters of different modules interact: degeneracy by module (arXiv 2405.10927).

Where modules do not interact the Hessian of the behavioural loss has no entry between parameters of
two of them, and what is free in each adds up. Parameters get a module in coordinates of features:
a weight that reads a node layer by its input features, one that only writes by its output features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import JsonValue, TypeAdapter
from torch import Tensor

from libgraph.accumulate.halfway import remembered
from libgraph.accumulate.ranks import ranks, shared_out
from libgraph.backend.data import Data
from libgraph.bases.method import Truncation
from libgraph.degeneracy.behaviour.lanczos import SHARP
from libgraph.degeneracy.modules.additivity import BlockCounts, ModuleAdditivity
from libgraph.degeneracy.modules.block_curvature import BlockCurvature, block_curvature
from libgraph.degeneracy.modules.feature_weights import (
    FeatureWeight,
    memberships,
    module_count,
    parameter_modules,
)
from libgraph.errors import UsageError
from libgraph.graph.arrays import FloatArray, IndexArray
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress, silent

STAGE = "degeneracy by module"

ROWS = TypeAdapter(list[list[float]])


@dataclass(frozen=True)
class Counting:
    """How blocks are counted, and what with they are compared.

    Args:
        draws: partitions at random, at least 2: within every layer the features that have a module
            exchange modules.
        seed: of these and of signs.
        rows: the larger side of matrices at most. Unless parameters, or output coordinates of all
            samples, are so few, H is that of so many random sums of output coordinates, from as
            many samples as there are; its expectation is right.
        truncation: below which eigenvalue a direction counts as free; a relative one is a share
            of the largest eigenvalue of the whole, for modules as well.

    Raises:
        UsageError: for too few draws or rows.
    """

    draws: int = 10
    seed: int = 0
    rows: int = 2000
    truncation: Truncation = SHARP

    def __post_init__(self) -> None:
        if self.draws < 2 or self.rows < 1:
            raise UsageError(
                f"{self.draws} draws and {self.rows} rows: use at least 2 draws and 1 row."
            )


DEFAULT_COUNTING = Counting()


def module_additivity(
    network: Network,
    data: Data,
    bases: Bases,
    graph: InteractionGraph,
    epsilons: Sequence[float],
    counting: Counting = DEFAULT_COUNTING,
    progress: Progress = silent,
) -> ModuleAdditivity:
    """Effective parameters d(ε) = tr H (H + ε)⁻¹ of modules, and of all of them.

    H = 2 E[JᵀJ] in the coordinates of `parameter_modules`, H_m its diagonal block of module m.
    λ/(λ + ε) is concave, so that Σ_m d_m(ε) ≥ d(ε), with equality if no entry of H lies between two
    modules (pinching: Bhatia, Matrix Analysis, 1997). Every entry of a weight counts, zeros
    as well: what a module reads into neurons of another is a parameter too.

    Args:
        network: whose outputs count.
        data: E is the mean over its samples.
        bases: of the graph.
        graph: with modules.
        epsilons: ε, positive.
        counting: how blocks are counted, and how many partitions at random are.
        progress: told of Jacobians and then of partitions.

    Raises:
        UsageError: for tolerances that are not positive, or a graph without modules.
        TooLarge: if Jacobians do not fit into memory.
        NumericalError: if Jacobians are not finite.
    """
    tolerances = torch.tensor(epsilons, dtype=torch.float64, device=data.device)
    if not len(tolerances) or not bool(((tolerances > 0) & tolerances.isfinite()).all()):
        raise UsageError("Effective parameters need tolerances ε that are positive: pass some.")
    weights = parameter_modules(network, bases, graph)
    rows, seed = counting.rows, counting.seed
    curvature = block_curvature(
        network, data, weights, rows=rows, seed=seed, stage=STAGE, progress=progress
    )
    own = [weight.modules for weight in weights]
    eigenvalues = curvature.eigenvalues([modules >= -1 for modules in own])
    blocks = _Blocks(curvature, eigenvalues, tolerances, counting.truncation, module_count(graph))
    random = _random_sums(blocks, weights, memberships(network, graph), counting, progress)
    return ModuleAdditivity(
        epsilons=tolerances,
        modules=blocks.by_module(own),
        together=blocks.counts([modules >= 0 for modules in own]),
        unassigned=blocks.counts([modules < 0 for modules in own]),
        whole=blocks.counts([modules >= -1 for modules in own]),
        random=random,
        samples=curvature.samples,
        rows=curvature.rows,
        exact=curvature.exact,
    )


def _random_sums(
    blocks: _Blocks,
    weights: Sequence[FeatureWeight],
    membership: Mapping[str, IndexArray],
    counting: Counting,
    progress: Progress,
) -> Float[Tensor, "draws E"]:
    """Σ_m d_m(ε) of partitions at random, one row each; ranks of a job share them out."""
    rng = np.random.default_rng(counting.seed)
    together, sums = ranks()[1], list[list[float]]()

    def drawn(shuffled: Mapping[str, IndexArray]) -> list[float]:
        modules = blocks.by_module([weight.modules_under(shuffled) for weight in weights])
        row: list[float] = torch.stack([module.effective for module in modules]).sum(0).tolist()
        return row

    for start in range(0, counting.draws, together):
        progress(f"{STAGE}, random partitions", start, counting.draws)
        tasks = [
            partial(drawn, {name: _shuffled(modules, rng) for name, modules in membership.items()})
            for _ in range(min(together, counting.draws - start))
        ]
        label = f"partitions from {start}, {len(tasks)} at once"
        known = remembered(label, partial(_rows, tasks))
        sums += ROWS.validate_python(known)
    progress(f"{STAGE}, random partitions", counting.draws, counting.draws)
    return torch.tensor(sums, dtype=torch.float64, device=blocks.tolerances.device)


def _rows(tasks: Sequence[Callable[[], list[float]]]) -> JsonValue:
    return [[*row] for row in shared_out(tasks)]


@dataclass
class _Blocks:
    """Counts of blocks of the Hessian.

    Args:
        curvature: the Hessian.
        eigenvalues: of all of it.
        tolerances: ε.
        truncation: below which eigenvalue a direction is free.
        modules: how many there are.
    """

    curvature: BlockCurvature
    eigenvalues: Float[Tensor, " k"]
    tolerances: Float[Tensor, " E"]
    truncation: Truncation
    modules: int

    def counts(self, chosen: Sequence[Bool[Tensor, " entries"]]) -> BlockCounts:
        """Of the block of these entries."""
        values = self.eigenvalues
        relative = self.truncation.relative and len(values)
        threshold = self.truncation.tolerance * (float(values.max()) if relative else 1.0)
        parameters = sum(int(entries.sum()) for entries in chosen)
        if parameters < sum(len(entries) for entries in chosen):
            values = self.curvature.eigenvalues(chosen)
        rank = min(parameters, int((values > threshold).sum()))
        ratios = values[:, None] / (values[:, None] + self.tolerances)
        return BlockCounts(parameters, rank, ratios.sum(0))

    def by_module(self, modules: Sequence[Int[Tensor, " entries"]]) -> tuple[BlockCounts, ...]:
        """Of each module by itself."""
        numbers = range(self.modules)
        return tuple(self.counts([entries == number for entries in modules]) for number in numbers)


def module_strengths(graph: InteractionGraph, epsilon: float | None = None) -> FloatArray:
    """log₁₀(E_ab/ε) between every two modules, shape ``(modules, modules)``, symmetric.

    E_ab is the sum of interactions between features of a and of b, over all layer pairs and in
    both directions; those within a module are on the diagonal. -inf where there are none. What
    interaction costs enters by this logarithm (arXiv 2405.10927).

    Args:
        graph: with modules.
        epsilon: ε; otherwise the median of those of the graph's layer pairs, or the smallest
            positive E_ab where it has none.

    Raises:
        UsageError: if the graph has no modules, or ε is not positive.
    """
    size = module_count(graph)
    total = np.zeros((size, size))
    for (source, target), matrix in graph.edges.items():
        readers, writers = (
            (graph.membership(name)[:, None] == np.arange(size)).astype(np.float64)
            for name in (source, target)
        )
        total += writers.T @ matrix @ readers
    total = total + total.T - np.diag(np.diag(total))
    if epsilon is None:
        # Where there are no interactions at all any ε will do.
        of_pairs = list(graph.epsilon.values())
        epsilon = float(np.median(of_pairs) if of_pairs else total[total > 0].min(initial=np.inf))
        epsilon = epsilon if np.isfinite(epsilon) else 1.0
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise UsageError(f"ε of interactions is {epsilon}: it has to be positive.")
    strengths = np.full_like(total, -np.inf)
    np.log10(total, where=total > 0, out=strengths)
    strengths -= np.log10(epsilon)
    return strengths


def _shuffled(membership: IndexArray, rng: np.random.Generator) -> IndexArray:
    """The same modules for other features; those without stay without."""
    shuffled, own = membership.copy(), membership >= 0
    shuffled[own] = rng.permutation(membership[own])
    return shuffled
