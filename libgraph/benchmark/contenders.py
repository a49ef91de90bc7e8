"""The bases that the benchmark measures, each as it is made for a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libgraph.backend.data import Data
from libgraph.bases.learned.learned import learned
from libgraph.bases.learned.options import DictionaryOptions
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import Statistics
from libgraph.benchmark.known import Known
from libgraph.benchmark.options import BenchmarkOptions
from libgraph.network.basis import Bases, Basis
from libgraph.progress import silent

TRUNCATION = Truncation(True, 1e-10)

APART = 1_000_003
"""Between the seeds of starts: no other seed of the benchmark is as far."""


@dataclass(frozen=True)
class Bench:
    """A problem with what all bases of it begin with.

    Args:
        known: the problem.
        data: its samples.
        statistics: of its node layers.
        lib: its Local Interaction Basis.
        active: latents at once.
        options: of the benchmark.
        seed: of what is random in bases.
    """

    known: Known
    data: Data
    statistics: dict[str, Statistics]
    lib: Bases
    active: int
    options: BenchmarkOptions
    seed: int

    def bases(self, name: str) -> Bases:
        """Made now, but LIB."""
        if name == "lib":
            return self.lib
        network = self.known.network
        if name in ("pca", "sparse"):
            return METHODS[name](network, self.statistics, self.data, TRUNCATION, silent)
        learning = self._learning(name)
        starts = [
            learned(
                network,
                self.statistics,
                self.data,
                TRUNCATION,
                silent,
                learning.model_copy(update={"seed": learning.seed + APART * number}),
                self.lib,
            )
            for number in range(self.options.restarts)
        ]
        return starts[0] if len(starts) == 1 else self._best(starts, learning)

    def _best(self, starts: Sequence[Bases], learning: DictionaryOptions) -> Bases:
        """Of several starts that which misses least of what was learned from, not of the answer.

        By node layer, unless interactions tie these together.
        """
        missed = [
            {name: self.missed(name, basis) for name, basis in bases.items() if not basis.linear}
            for bases in starts
        ]
        if learning.interactions > 0:
            return starts[min(range(len(starts)), key=lambda n: sum(missed[n].values()))]
        best = {name: min(range(len(starts)), key=lambda n: missed[n][name]) for name in missed[0]}
        return {**starts[0], **{name: starts[n][name] for name, n in best.items()}}

    def missed(self, name: str, basis: Basis) -> float:
        """Share of LIB's mean square, in which an error is as large as what it does next.

        Args:
            name: of a node layer.
            basis: its dictionary.
        """
        network, in_lib = self.known.network, self.lib[name]
        index = [layer.name for layer in network.node_layers].index(name)
        into = in_lib.encoder[:, in_lib.isolated :]
        error, total = 0.0, 0.0
        for batch in self.data:
            x = network.activations_at(index, batch.inputs).flatten(0, 1)
            left = x - basis.features(x) @ basis.decoder
            error += float((left @ into).square().sum())
            total += float((x @ into).square().sum())
        return error / total if total else 0.0

    def _learning(self, name: str) -> DictionaryOptions:
        options = self.options
        plain = DictionaryOptions(
            latents=options.overcomplete * self.known.features_per_dimension,
            active=self.active,
            gradients=0.0,
            steps=options.steps,
            seed=self.seed,
        )
        changes: dict[str, object] = {}
        if name.startswith("topk-"):
            changes = {"metric": name.removeprefix("topk-")}
        if name == "jacobian":
            changes = {"penalty": "jacobian", "interactions": options.interactions}
        if name == "edges":
            changes = {"interactions": options.interactions}
        if name.startswith("dictionary"):
            changes = {"gradients": options.gradients}
        if name == "dictionary+edges":
            changes["interactions"] = options.interactions
        return DictionaryOptions(**{**plain.model_dump(), **changes})
