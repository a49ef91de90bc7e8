"""A run: what one analysis found, in memory or read back from its directory.

Whatever looks at results takes either: both have the figures, and bases, edges and graphs by name
of the basis, the main one being that of the modules.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from libgraph.backend.contract import Backend, Split
from libgraph.edges.edge_ablation import EdgeAblation
from libgraph.edges.interactions import Edges
from libgraph.errors import UsageError
from libgraph.graph.arrays import Pair
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.network.basis import Bases
from libgraph.runs.metrics import Metrics, Required, SparsityFigures
from libgraph.runs.tables import print_metrics, text_of

if TYPE_CHECKING:
    import igraph
    import networkx
    from torch import Tensor

    from libgraph.graph.frames import Frames
    from libgraph.graph.selection import Chosen
    from libgraph.interventions.changes import How
    from libgraph.interventions.intervene import Intervened
    from libgraph.interventions.subject import Subject
    from libgraph.interventions.survey import LesionSurvey
    from libgraph.progress import Progress
    from libgraph.runs.examples import Example, Examples
    from libgraph.runs.faithfulness import Faithfulness
    from libgraph.runs.feature import Feature, Module
    from libgraph.runs.prompted import Prompted
    from libgraph.runs.subject import Target, Values


EXAMPLES = "examples.safetensors"
"""File of a run in which examples are."""


LESIONS = "lesions.json"
"""File of a run in which the lesions of features and modules are."""


def arrow(pair: Pair) -> str:
    """A layer pair as it is written in files: `ln1.0->ln2.0`."""
    return "->".join(pair)


@dataclass(frozen=True)
class Ablation:
    """What ablation found for one basis.

    Args:
        nodes: score by number of features kept, by node layer.
        edges: by layer pair.
    """

    nodes: Mapping[str, Mapping[int, float]]
    edges: Mapping[Pair, EdgeAblation]


class Sparsity(NamedTuple):
    """How sparse the edges of one basis are.

    Attributes:
        edges_required: edges that keep the score, by layer pair and tolerance Δ; empty where
            nothing was ablated.
        measures: without ablation, by layer pair; None where all edges are 0.
    """

    edges_required: Mapping[str, Required]
    measures: Mapping[str, SparsityFigures | None]


class Printer(Protocol):
    """As much of IPython's pretty printer as is used."""

    def text(self, text: str) -> object:
        """Show some text."""


class Run(ABC):
    """The results of an analysis that is finished.

    Where a basis may be named, it is the main one by default: that which was asked for.

    Attributes:
        metrics: what `metrics.json` holds.
        directory: where the results were written, if anywhere.
    """

    metrics: Metrics
    directory: Path | None

    def __str__(self) -> str:
        """The tables that `libgraph analyze` prints."""
        return text_of(lambda console: print_metrics(console, self.metrics))

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    @property
    def basis(self) -> str:
        """Name of the main basis."""
        return self.metrics.modules.basis

    @property
    def basis_names(self) -> tuple[str, ...]:
        """Names of all bases."""
        return tuple(self.metrics.bases)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the node layers, from input to output."""
        return self.metrics.node_layers

    @property
    def concept(self) -> str:
        """What concepts in labels are called."""
        return self.metrics.concept

    @property
    def modules_known(self) -> bool:
        """Whether concepts are the true modules, and the modules found were measured by them."""
        return "homogeneity" in self.metrics.modules.model_fields_set

    @property
    def title(self) -> str:
        """What the run is called in tables: its directory, or its backend where it has none."""
        return str(self.directory or self.metrics.backend)

    @property
    def sparsity(self) -> dict[str, Sparsity]:
        """Edges required and measures of sparsity, by basis."""
        return {
            name: Sparsity(figures.edges_required, figures.sparsity)
            for name, figures in self.metrics.bases.items()
        }

    @property
    @abstractmethod
    def pairs(self) -> tuple[Pair, ...]:
        """The layer pairs."""

    @property
    @abstractmethod
    def partition(self) -> Partition | None:
        """The modules of the main basis."""

    @abstractmethod
    def bases(self, name: str | None = None) -> Bases:
        """Encoders, decoders and importance by node layer.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def edges(self, name: str | None = None) -> Edges:
        """All interactions, ``[out, in]``, by layer pair.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def errors(self, name: str | None = None) -> Edges:
        """Standard errors of the interactions in the same form; empty where those are exact.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def ablation(self, name: str | None = None) -> Ablation | None:
        """What ablation found; None for a run without.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def graph(self, name: str | None = None) -> InteractionGraph:
        """The graph of a basis, with all edges and ε, and with labels and modules where known.

        Raises:
            UsageError: if the run has no such basis.
        """

    @abstractmethod
    def all_examples(self) -> Examples | None:
        """Examples of all features of the main basis; None for a run of an earlier version."""

    @abstractmethod
    def lesions(self) -> LesionSurvey | None:
        """Scores without each feature and module; None where they were not asked for."""

    def examples(self, feature: str) -> list[Example]:
        """Samples that drive a feature of the main basis most, and some that do not.

        Raises:
            UsageError: if there is no such feature, or the run is of an earlier version.
        """
        return self.feature(feature).examples()

    def feature(self, name: str, basis: str | None = None) -> Feature:
        """One feature, by its id such as `ln2.0/5`.

        Raises:
            UsageError: if the run has no such feature, or no such basis.
        """
        from libgraph.runs.feature import feature_of

        return feature_of(self, name, basis)

    def search(self, text: str, basis: str | None = None) -> list[Feature]:
        """Features with a text in their id or label, whichever the case of its letters."""
        from libgraph.runs.feature import search

        return search(self, text, basis)

    def module(self, number: int, basis: str | None = None) -> Module:
        """One module of a basis.

        Raises:
            UsageError: if there is no such module.
        """
        from libgraph.runs.feature import module_of

        return module_of(self, number, basis)

    def subgraph(
        self,
        features: Chosen | None = None,
        *,
        module: int | Sequence[int] | None = None,
        layers: Chosen | None = None,
        between: tuple[Chosen, Chosen] | None = None,
        basis: str | None = None,
    ) -> InteractionGraph:
        """Part of the graph of a basis; features keep their ids.

        Args:
            features: ids, or node layers.
            module: features of this module, or of these.
            layers: node layers, `"A:B"` for all from A to B.
            between: features on a path of kept edges from the first of these to the second.
            basis: whose graph.

        Raises:
            UsageError: if a name is none of the graph's, or nothing is left.
        """
        return self.graph(basis).subgraph(features, module=module, layers=layers, between=between)

    def to_pandas(self, basis: str | None = None) -> Frames:
        """Features and kept edges as data frames, `nodes` and `edges`."""
        return self.graph(basis).to_pandas()

    def to_networkx(self, basis: str | None = None) -> networkx.DiGraph[str]:
        """Features and kept edges, directed, with all their attributes."""
        return self.graph(basis).to_networkx()

    def to_igraph(self, basis: str | None = None) -> igraph.Graph:
        """Features and kept edges, directed, with all their attributes."""
        return self.graph(basis).to_igraph(directed=True)

    def subject(
        self,
        basis: str | None = None,
        *,
        backend: Backend | None = None,
        split: Split = "test",
        limit: int | None = None,
    ) -> Subject:
        """The network with its data and the features of a basis, made again where it has to be.

        Args:
            basis: whose features.
            backend: where the run's own cannot be made again by its name.
            split: what is asked about.
            limit: its first samples only.

        Raises:
            UsageError: if the backend gives another network than that which was analysed.
            BackendError: if it cannot be made again.
        """
        from libgraph.runs.subject import subject_of

        return subject_of(self, basis, backend=backend, split=split, limit=limit)

    def intervene(
        self,
        what: Target | Values | Sequence[Values],
        how: How = "set",
        *,
        positions: Sequence[int] | None = None,
        inputs: Tensor | None = None,
        outputs: bool = False,
        subject: Subject | None = None,
        seed: int = 0,
    ) -> Intervened:
        """Run the network with features changed: scores, outputs, and all that moves afterwards.

        Args:
            what: values by id of a feature, `{"ln2.0/5": 0.0}`, or of a module, `module:3`, which
                are one intervention together; or several of these; or ids alone where `how` needs
                no value, each of which is one.
            how: `set`, `scale` or `add` by the value, `mean`, `position-mean` or `resample`.
            positions: where; everywhere if None.
            inputs: raw inputs of samples of one's own, which have no score; the test split if None.
            outputs: whether to keep what the network puts out.
            subject: what `subject()` gave, so that the network is made once for many questions.
            seed: of which samples give the values that are resampled.

        Raises:
            UsageError: if there is no such feature, module or position, or a value is missing.
            TooLarge: if outputs are asked for that are too many to keep.
        """
        from libgraph.interventions.intervene import intervene
        from libgraph.runs.subject import interventions_of

        interventions = interventions_of(self, what, how, positions)
        subject = self.subject() if subject is None else subject
        return intervene(subject, interventions, inputs, outputs=outputs, seed=seed)

    def prompt(
        self,
        given: str | int | Tensor,
        *,
        basis: str | None = None,
        subject: Subject | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Prompted:
        """The graph of one input: features at positions, and what they add to each other.

        Args:
            given: a text, the number of a sample of the test split, or raw inputs of one sample.
            basis: whose features.
            subject: what `subject()` gave, so that the network is made once for many questions.
            progress: told after each section; by default bars, on a terminal or in a notebook.
            **options: of `prompt_of`: nodes, edges, integration, baseline, classes, most_nodes.

        Raises:
            UsageError: if there is no such sample, class or rule, or a share is not in (0, 1].
        """
        from libgraph.runs.prompted import prompt_of

        return prompt_of(self, given, basis, subject=subject, progress=progress, **options)

    def faithfulness(
        self,
        bases: str | Sequence[str] | None = None,
        *,
        subject: Subject | None = None,
        progress: Progress | None = None,
        **options: object,
    ) -> Faithfulness:
        """How much of the network the largest edges of all layer pairs are, basis by basis.

        Args:
            bases: names; all that the run has if None.
            subject: what `subject()` gave, so that the network is made once for many questions.
            progress: told after every circuit; by default bars, on a terminal or in a notebook.
            **options: fields of `FaithfulnessOptions`: shares, baseline, order, limit, draws,
                restored, apart, …

        Raises:
            UsageError: for wrong options, or if the run has no such basis.
            NumericalError: if a circuit's score is not finite.
        """
        from libgraph.runs.faithfulness import faithfulness_of

        return faithfulness_of(self, bases, subject=subject, progress=progress, **options)

    def chosen(self, name: str | None) -> str:
        """That basis if the run has it, the main one for None.

        Raises:
            UsageError: if it has none of that name.
        """
        if name is not None and name not in self.metrics.bases:
            names = ", ".join(self.basis_names)
            raise UsageError(f"'{self.title}' has no basis '{name}': choose one of {names}.")
        return name or self.basis
