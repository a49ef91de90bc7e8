"""The bases that the benchmark measures, each as it is made for a problem."""

from __future__ import annotations

from dataclasses import dataclass

from libgraph.backend.data import Data
from libgraph.bases.learned.learned import learned
from libgraph.bases.learned.options import DictionaryOptions
from libgraph.bases.method import Truncation
from libgraph.bases.methods import METHODS
from libgraph.bases.statistics import Statistics
from libgraph.benchmark.known import Known
from libgraph.benchmark.options import BenchmarkOptions
from libgraph.network.basis import Bases
from libgraph.progress import silent

TRUNCATION = Truncation(True, 1e-10)


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
        return learned(
            network, self.statistics, self.data, TRUNCATION, silent, self._learning(name), self.lib
        )

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
