"""A finished run, read back from its directory: what commands that look at runs start from.

The graphs here have all edges, from `edges.safetensors`, where `graph.json` has the kept ones only;
ε comes from `ablation.json`. Labels, and the modules that were found, are saved for the main basis
alone. Files are read when they are needed, so that looking at the figures of a run takes no time,
and each is held against its checksum before it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from torch import Tensor

from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import Edges
from libgraph.errors import DamagedFile, DataError, UsageError
from libgraph.files.json_text import read_json_text
from libgraph.files.manifest import (
    FileRecord,
    check_file,
    current,
    files_of,
    problem_of,
    read_record,
)
from libgraph.files.reading import reading
from libgraph.graph.arrays import Pair
from libgraph.graph.graph_json import graph_from_json
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.interventions.survey import LesionSurvey
from libgraph.network.basis import Bases
from libgraph.runs.examples import Examples, load_examples
from libgraph.runs.metrics import Metrics
from libgraph.runs.run import EXAMPLES, LESIONS, Ablation, Run, arrow
from libgraph.runs.stored import (
    CSR,
    ERROR,
    GATE_PARTS,
    PARTS,
    load_ablation,
    stored_basis,
    stored_edges,
)


def open_run(path: str | Path) -> SavedRun:
    """Open a run directory; see `SavedRun`."""
    return SavedRun(path)


def as_run(run: Run | str | Path) -> Run:
    """The run itself, or that of a directory."""
    return run if isinstance(run, Run) else open_run(run)


class SavedRun(Run):
    """The results of a run directory that `analyze` has finished.

    Args:
        path: the directory.

    Raises:
        UsageError: if it is no finished run, or one of another version; also, by whatever reads a
            file, if that is missing, damaged or not of this run.
    """

    directory: Path

    def __init__(self, path: str | Path) -> None:
        self.directory = Path(path)
        with reading(self.directory, UsageError, "The run "):
            _refuse_others(self.directory)
        self._checked: set[str] = set()
        self.record: Mapping[str, JsonValue] = read_record(self.directory)
        self._files: Mapping[str, FileRecord] | None = files_of(self.record)
        if self.record.get("complete") is not True:
            raise UsageError(
                f"'{self.directory}' is not finished: run the same analysis again first."
            )
        self.metrics = Metrics.read(self.file("metrics.json"))

    def file(self, name: str) -> Path:
        """Where a file of the run is, held against its checksum the first time.

        Raises:
            DamagedFile: if it is missing, or not what was written.
        """
        if name in self._checked:
            return current(self.directory, name)
        path = check_file(self.directory, name, self._files)
        self._checked.add(name)
        return path

    def damage(self, name: str) -> str | None:
        """What is wrong with a file of the run, if anything is known to be."""
        known = (self._files or {}).get(name)
        return None if known is None else problem_of(current(self.directory, name), known)

    def has(self, name: str) -> bool:
        """Whether the run has such a file, or had one when it was written."""
        if self._files is not None:
            return name in self._files
        return (self.directory / name).is_file()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.directory)!r})"

    @cached_property
    def _drawn(self) -> InteractionGraph:
        """What `graph.json` holds: kept edges, labels and modules of the main basis."""
        try:
            return graph_from_json(self._json("graph.json"), "it")
        except DataError as error:
            raise self._damaged("graph.json", str(error.__cause__ or error)) from None

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The layer pairs."""
        return tuple(self._drawn.edges)

    @property
    def partition(self) -> Partition | None:
        """The modules of the main basis."""
        return self._drawn.partition

    def bases(self, name: str | None = None) -> Bases:
        """Encoders, decoders and importance by node layer; see `Run.bases`."""
        name = self.chosen(name)
        starts = {f"{name}/{layer.name}/": layer for layer in self._drawn.layers}
        parts = [start + part for start in starts for part in (*PARTS, *GATE_PARTS)]
        tensors = self._tensors("bases.safetensors", parts)
        try:
            return {
                layer.name: stored_basis(tensors, start, layer.isolated, rotated=layer.rotated)
                for start, layer in starts.items()
            }
        except KeyError as error:
            raise self._damaged("bases.safetensors", f"it has no {error}") from None

    def edges(self, name: str | None = None) -> Edges:
        """All interactions, ``[out, in]``, by layer pair; see `Run.edges`."""
        return self._edges(self.chosen(name), "")

    def errors(self, name: str | None = None) -> Edges:
        """Standard errors of the interactions; see `Run.errors`."""
        name = self.chosen(name)
        return self._edges(name, ERROR) if self.metrics.signs else {}

    def ablation(self, name: str | None = None) -> Ablation | None:
        """What ablation found; see `Run.ablation`."""
        name = self.chosen(name)
        if not self.metrics.bases[name].epsilon:
            return None
        self._json("ablation.json")
        try:
            return load_ablation(self.file("ablation.json"), name, self.pairs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged("ablation.json", repr(error)) from None

    def all_examples(self) -> Examples | None:
        """Examples of all features of the main basis; see `Run.all_examples`."""
        return self._examples if self.has(EXAMPLES) else None

    @cached_property
    def _examples(self) -> Examples:
        try:
            return load_examples(self.file(EXAMPLES))
        except DamagedFile:
            raise
        except (UsageError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(EXAMPLES, str(error)) from None

    def lesions(self) -> LesionSurvey | None:
        """Scores without each feature and module; see `Run.lesions`."""
        return LesionSurvey.read(self.file(LESIONS)) if self.has(LESIONS) else None

    def graph(self, name: str | None = None) -> InteractionGraph:
        """The graph of a basis, with all edges and ε; labels and modules of the main basis alone.

        See `Run.graph`.
        """
        name = self.chosen(name)
        main = name == self.basis
        # Encoders and decoders stay on the disk: nobody asks for them here.
        bases, edges, ablation = self.bases(name), self.edges(name), self.ablation(name)
        drawn = self._drawn.layers
        labels = {layer.name: layer.labels for layer in drawn if layer.labels is not None}
        pairs = ablation.edges if ablation else {}
        try:
            return graph_of(
                bases,
                edges,
                epsilon={pair: found.epsilon for pair, found in pairs.items()},
                labels=labels if main else None,
                partition=self.partition if main else None,
            )
        except DataError as error:
            raise UsageError(
                f"The files of '{self.directory}' do not belong together ({error}): analyse again "
                "with force=True."
            ) from None

    def _edges(self, name: str, suffix: str) -> Edges:
        names = {pair: f"{name}/{arrow(pair)}{suffix}" for pair in self.pairs}
        starts = [f"{stored}{end}" for stored in names.values() for end in ("", *CSR)]
        tensors = self._tensors("edges.safetensors", starts)
        try:
            return {pair: stored_edges(tensors, stored) for pair, stored in names.items()}
        except KeyError as error:
            raise self._damaged("edges.safetensors", f"it has no {error}") from None

    def _tensors(self, file: str, names: list[str]) -> dict[str, Tensor]:
        """Tensors of these names, as far as they are there."""
        try:
            with safe_open(self.file(file), framework="pt") as opened:
                there = set(opened.keys())
                return {name: opened.get_tensor(name) for name in names if name in there}
        except (SafetensorError, OSError) as error:
            raise self._damaged(file, str(error)) from None

    def _json(self, file: str) -> dict[str, JsonValue]:
        try:
            document = read_json_text(self.file(file))
        except (ValueError, OSError) as error:
            raise self._damaged(file, str(error)) from None
        if not isinstance(document, dict):
            raise self._damaged(file, "it holds no object")
        return document

    def _damaged(self, file: str, why: str) -> DamagedFile:
        return DamagedFile(
            f"'{self.directory / file}' cannot be read ({why}): analyse again with force=True."
        )


def _refuse_others(path: Path) -> None:
    partial = path.with_name(path.name + ".partial") if path.name else path
    if not path.exists() and partial.is_dir():
        raise UsageError(f"The run '{path}' is not finished: run the same analysis again first.")
    advice = "give a directory that an analysis has written"
    if not path.exists():
        raise UsageError(f"There is no run '{path}': {advice}.")
    # A run that has replaced such a directory may have kept its file.
    if (path / "degeneracy.json").is_file() and not (path / "metrics.json").is_file():
        raise UsageError(f"'{path}' holds degeneracy and no run: {advice}.")
    if not (path / "run.json").is_file():
        raise UsageError(f"'{path}' is no run: {advice}.")
