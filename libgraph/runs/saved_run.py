"""A finished run, read back from its directory: what commands that look at runs start from.

The graphs here have all edges, from `edges.safetensors`, where `graph.json` has the kept ones only;
ε comes from `ablation.json`. Labels, and the modules that were found, are saved for the basis asked
for alone. Files are read when they are needed, so that looking at the figures of a run takes no
time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from libgraph.edges.graph_of import graph_of
from libgraph.edges.interactions import Edges
from libgraph.errors import DataError, UsageError
from libgraph.graph.arrays import Pair
from libgraph.graph.graph_json import graph_from_json
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.graph.partition import Partition
from libgraph.network.basis import Bases, Basis
from libgraph.runs.metrics import SCHEMA
from libgraph.runs.run import Ablation, arrow
from libgraph.runs.stored import ERROR, PARTS, load_ablation
from libgraph.runs.tables import metrics_text


class SavedRun:
    """The results of a run directory that `libgraph analyze` has finished.

    Args:
        path: the directory.

    Raises:
        UsageError: if it is no finished run, or one of another version; also, by whatever reads a
            file, if that is missing, damaged or not of this run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _refuse_others(self.path)
        self.record: Mapping[str, Any] = self._json("run.json")
        if self.record.get("complete") is not True:
            raise UsageError(
                f"'{self.path}' is not finished: run the same `libgraph analyze` again first."
            )
        self.metrics: Mapping[str, Any] = self._json("metrics.json")
        schema = self.metrics.get("schema")
        if schema != SCHEMA:
            raise UsageError(
                f"'{self.path / 'metrics.json'}' has schema {schema}, this version reads {SCHEMA}: "
                "analyse again with force=True."
            )
        try:
            self.basis_names = tuple(self.metrics["bases"])
            self.basis: str = self.metrics["modules"]["basis"]
            self.backend: str = self.metrics["backend"]
            self.modules_known = "homogeneity" in self.metrics["modules"]
        except (KeyError, TypeError) as error:
            raise self._damaged("metrics.json", f"{error} is missing") from None
        # Runs of earlier versions do not say what their concepts are called.
        self.concept: str = self.metrics.get("concept", "concept")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __str__(self) -> str:
        """The tables that `libgraph analyze` printed."""
        return metrics_text(self.metrics, self.concept)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows of it."""
        printer.text(str(self))

    @cached_property
    def _drawn(self) -> InteractionGraph:
        """What `graph.json` holds: kept edges, labels and modules of the basis asked for."""
        try:
            return graph_from_json(self._json("graph.json"), "it")
        except DataError as error:
            raise self._damaged("graph.json", str(error.__cause__ or error)) from None

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the node layers, from input to output."""
        return tuple(layer.name for layer in self._drawn.layers)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The layer pairs."""
        return tuple(self._drawn.edges)

    @property
    def partition(self) -> Partition | None:
        """The modules of the basis asked for."""
        return self._drawn.partition

    def bases(self, name: str) -> Bases:
        """Encoders, decoders and importance by node layer.

        Raises:
            UsageError: if the run has no such basis.
        """
        self._check(name)
        names = [f"{name}/{layer}/{part}" for layer in self.layers for part in PARTS]
        tensors = self._tensors("bases.safetensors", names)
        found = {}
        for layer in self._drawn.layers:
            parts = (tensors[f"{name}/{layer.name}/{part}"] for part in PARTS)
            encoder, decoder, importance = parts
            found[layer.name] = Basis(encoder, decoder, importance, layer.isolated, layer.rotated)
        return found

    def edges(self, name: str) -> Edges:
        """All interactions, ``[out, in]``, by layer pair.

        Raises:
            UsageError: if the run has no such basis.
        """
        return self._edges(name, "")

    def errors(self, name: str) -> Edges:
        """Standard errors of the interactions in the same form; empty where those are exact.

        Raises:
            UsageError: if the run has no such basis.
        """
        return self._edges(name, ERROR) if self.metrics.get("signs") else {}

    def ablation(self, name: str) -> Ablation | None:
        """What ablation found; None for a run without.

        Raises:
            UsageError: if the run has no such basis.
        """
        self._check(name)
        path = self.path / "ablation.json"
        if not self.metrics["bases"][name].get("epsilon"):
            return None
        self._json("ablation.json")
        try:
            return load_ablation(path, name, self.pairs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged("ablation.json", repr(error)) from None

    def graph(self, name: str | None = None) -> InteractionGraph:
        """The graph of a basis, with all edges and ε.

        Labels and modules are those that were saved, for the basis asked for.

        Args:
            name: of the basis; the one that was asked for by default.

        Raises:
            UsageError: if the run has no such basis.
        """
        name = self._check(name or self.basis)
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
                f"The files of '{self.path}' do not belong together ({error}): analyse again with "
                "force=True."
            ) from None

    def _check(self, name: str) -> str:
        if name not in self.basis_names:
            known = ", ".join(self.basis_names)
            raise UsageError(f"'{self.path}' has no basis '{name}': choose one of {known}.")
        return name

    def _edges(self, name: str, suffix: str) -> Edges:
        self._check(name)
        names = {pair: f"{name}/{arrow(pair)}{suffix}" for pair in self.pairs}
        tensors = self._tensors("edges.safetensors", list(names.values()))
        return {pair: tensors[each] for pair, each in names.items()}

    def _tensors(self, file: str, names: list[str]) -> dict[str, Tensor]:
        try:
            with safe_open(self.path / file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise self._damaged(file, str(error)) from None

    def _json(self, file: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / file).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise self._damaged(file, str(error)) from None
        if not isinstance(found, dict):
            raise self._damaged(file, "it holds no object")
        return found

    def _damaged(self, file: str, why: str) -> UsageError:
        return UsageError(
            f"'{self.path / file}' cannot be read ({why}): analyse again with force=True."
        )


def _refuse_others(path: Path) -> None:
    partial = path.with_name(path.name + ".partial") if path.name else path
    if not path.exists() and partial.is_dir():
        raise UsageError(
            f"The run '{path}' is not finished: run the same `libgraph analyze` again first."
        )
    if not path.exists():
        raise UsageError(
            f"There is no run '{path}': give a directory that `libgraph analyze` has written."
        )
    # A run that has replaced such a directory may have kept its file.
    if (path / "degeneracy.json").is_file() and not (path / "metrics.json").is_file():
        raise UsageError(
            f"'{path}' is of `libgraph degeneracy`: give a directory that `libgraph analyze` has "
            "written."
        )
    if not (path / "run.json").is_file():
        raise UsageError(
            f"'{path}' is no run: give a directory that `libgraph analyze` has written."
        )
