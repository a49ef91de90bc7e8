"""The figures of a run: the shape of `metrics.json`, for people and for their scripts.

It is versioned by `SCHEMA` and documented in docs/files.md. Layer pairs are keys as in the file,
`ln1.0->ln2.0`; tolerances Δ, and numbers of features or edges, are numbers. What has a default here
is what runs of earlier versions lack, or what is only there where it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from libgraph.files.figures import Figures, FiguresFile
from libgraph.modules.resolution import Plateau, ResolutionRow
from libgraph.modules.significance import Significance
from libgraph.modules.summary import ModuleSummary

SCHEMA: Literal[1] = 1

LOSSES = {"cross-entropy", "relative error"}
"""Scores of which less is better, where a run does not say so itself."""

Required = Mapping[float, int | None]
"""By tolerance Δ, how many keep the score within Δ; None where not even all do."""

Curve = Mapping[int, float]
"""Score by the number kept."""


class ScoreFigures(Figures):
    """The score of the whole model.

    Attributes:
        name: what it measures.
        test: its mean over the test split.
        higher_is_better: whether a larger one is better; see `better`.
    """

    name: str
    test: float
    higher_is_better: bool | None = None

    @property
    def better(self) -> int:
        """1 where more is better, −1 where less is."""
        more = self.higher_is_better
        return 1 if (self.name not in LOSSES if more is None else more) else -1


class SparsityFigures(Figures):
    """Measures of sparsity of some edges, as in `libgraph.edges.sparsity`.

    Attributes:
        hoyer: Hoyer's sparseness.
        gini: Gini index.
        participation_ratio: effective number of edges.
        top_share: share of the weight in the largest hundredth of the edges.
    """

    hoyer: float
    gini: float
    participation_ratio: float
    top_share: float


class CurveFigures(Figures):
    """Scores of ablation, by node layer and by layer pair."""

    nodes: Mapping[str, Curve] = {}
    edges: Mapping[str, Curve] = {}


class AreaFigures(Figures):
    """Areas under the curves of ablation, None where a curve has none."""

    nodes: Mapping[str, float | None] = {}
    edges: Mapping[str, float | None] = {}


class SweepFigures(Figures):
    """Modules over a range of resolutions, with the first seed and the seeds at each of them."""

    seed: int
    seeds: int
    rows: tuple[ResolutionRow, ...]
    plateaus: tuple[Plateau, ...]


class ModulesFigures(Figures):
    """The modules of one basis.

    Attributes:
        count: how many.
        modularity: weighted, at γ = 1, as the objective is.
        agreement: of seeds.
        within_concept: share of the modules' edge weight within one concept; None if unlabelled.
        table: what is in each of them.
        homogeneity: with the next two, only where the true modules are known, of which they are.
        adjusted_rand_index: with the true modules.
        coverage: share of features with a concept that count in both.
        halves: agreement of modules found on even and on odd samples, if asked for.
        significance: against rotated networks, if asked for.
        resolutions: over a range of γ, once `communities` has swept it.
    """

    count: int
    modularity: float
    agreement: float
    within_concept: float | None
    table: tuple[ModuleSummary, ...]
    homogeneity: float | None = None
    adjusted_rand_index: float | None = None
    coverage: float | None = None
    halves: float | None = None
    significance: Significance | None = None
    resolutions: SweepFigures | None = None


class PartitionFigures(Figures):
    """Which feature of the main basis is in which module, and how that was found.

    Attributes:
        basis: name of the main basis.
        resolution: γ.
        seed: the first seed.
        seeds: how many.
        consensus: whether it is what the seeds agree on.
        objective: what was optimised.
        modularity: weighted, at γ = 1, as the objective is.
        agreement: of seeds.
        homogeneity: as in `ModulesFigures`.
        adjusted_rand_index: likewise.
        coverage: likewise.
        partition: module by feature id, such as `ln1.0/3`.
    """

    basis: str
    resolution: float
    seed: int
    seeds: int
    consensus: bool = False
    objective: str = "modularity"
    modularity: float
    agreement: float
    homogeneity: float | None = None
    adjusted_rand_index: float | None = None
    coverage: float | None = None
    partition: Mapping[str, int]


class LayerDictionaryFigures(Figures):
    """What the dictionary of one node layer keeps, as in `libgraph.edges.reconstruction`.

    Attributes:
        latents: that are features.
        dead: latents that were never active on the data.
        active: mean number at a position (L0).
        explained: share of the variance.
        score: with the error left out.
        recovered: share of the score.
    """

    latents: int
    dead: int
    active: float
    explained: float
    score: float
    recovered: float | None


class DictionariesFigures(Figures):
    """What the dictionaries of one basis keep.

    Attributes:
        layers: by node layer.
        score: with all of them in place.
        recovered: share of the score.
        missed: by layer pair, how far interactions are from adding up to the change of
            pre-activations along the path, relative.
        through_errors: by layer pair, the share of interactions that errors have.
    """

    layers: Mapping[str, LayerDictionaryFigures]
    score: float
    recovered: float | None
    missed: Mapping[str, float]
    through_errors: Mapping[str, float]


class BasisFigures(Figures):
    """What was measured in one basis.

    Attributes:
        features: kept, the constant included, by node layer.
        features_required: that keep the score, by node layer; empty without ablation.
        edges_required: that keep the score, by layer pair; empty without ablation.
        epsilon: the smallest kept edge at the first Δ, by layer pair; empty without ablation.
        standard_error: relative, of edges that are estimated, by layer pair; None where all are 0.
        sparsity: by layer pair; None where all edges are 0.
        sparsity_total: of all edges, those of each layer pair as shares of their sum.
        curves: of ablation.
        area: under them.
        modules: of this basis.
        dictionaries: what they keep, where it has some.
    """

    features: Mapping[str, int]
    features_required: Mapping[str, Required]
    edges_required: Mapping[str, Required]
    epsilon: Mapping[str, float | None]
    standard_error: Mapping[str, float | None] = {}
    sparsity: Mapping[str, SparsityFigures | None]
    sparsity_total: SparsityFigures | None = None
    curves: CurveFigures = CurveFigures()
    area: AreaFigures = AreaFigures()
    modules: ModulesFigures
    dictionaries: DictionariesFigures | None = None


class Metrics(FiguresFile):
    """What `metrics.json` holds.

    Attributes:
        schema_number: of this shape; in the file `schema`.
        backend: name of the backend.
        concept: what concepts in labels are called, such as `frequency`.
        score: of the whole model.
        node_layers: from input to output.
        signs: random signs that edges are estimated from; 0: they are exact.
        bases: by name.
        modules: of the main basis.
        seconds: by stage.
    """

    schema_number: Literal[1] = Field(alias="schema")
    backend: str
    concept: str = "concept"
    score: ScoreFigures
    node_layers: tuple[str, ...]
    signs: int = 0
    bases: Mapping[str, BasisFigures]
    modules: PartitionFigures
    seconds: Mapping[str, float]
