"""`degeneracy`: all that in a network does nothing, measured one thing after the other.

Ranks of weights, units and heads that act as one, the spectrum of the behavioural loss, how free
directions add up over modules. Each part is a dictionary of plain numbers; with a directory it is
written as soon as it is there, into `degeneracy.json`, and an interrupted run goes on after it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libgraph.analysis.analysis import analyze
from libgraph.backend.contract import Backend
from libgraph.backend.data import Data
from libgraph.backend.options import parse_options
from libgraph.backend.registry import check_backend_kind
from libgraph.bases.methods import basis_method
from libgraph.degeneracy.behaviour.behaviour import behaviour_spectrum
from libgraph.degeneracy.behaviour.volume import MOST_PARAMETERS, network_volume
from libgraph.degeneracy.modules.by_module import module_additivity, module_strengths
from libgraph.degeneracy.options import DegeneracyOptions
from libgraph.degeneracy.synchrony.synchrony import Synchrony
from libgraph.degeneracy.unit_graph import unit_graph
from libgraph.degeneracy.weights.jacobians import count_parameters
from libgraph.degeneracy.weights.ranks import Trial, WeightRanks, try_moves, weight_ranks
from libgraph.degeneracy.weights.weights import weights_of
from libgraph.errors import UsageError
from libgraph.files.atomic import read_json, write_json
from libgraph.files.run_directory import RunDirectory, hash_of
from libgraph.pipeline.workload import Inputs, digest_of_basis
from libgraph.progress import Progress, silent
from libgraph.report.degeneracy_figure import draw_degeneracy
from libgraph.report.graphml import write_graphml

log = logging.getLogger("libgraph")

FILE = "degeneracy.json"
SCHEMA = 1

DECADES = 12
"""How far below the largest eigenvalue N_eff is counted, in powers of ten."""

PER_DECADE = 2

EVERYWHERE = ("seed", "memory")
READ = {
    "weights": (),
    "units": ("synchrony",),
    "heads": ("synchrony",),
    "behaviour": ("samples", "probes", "steps"),
    "volume": ("samples", "probes", "steps", "radius"),
    "modules": ("samples", "probes", "steps", "basis", "draws"),
}
"""Options that each part depends on: with the same ones it is not computed again."""

Part = dict[str, Any]


def degeneracy(
    backend: Backend,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Any]:
    """What of a backend's network does nothing; what `degeneracy.json` holds.

    Args:
        backend: from `load_backend`, or an instance of your own.
        out: directory to write; without it nothing is written.
        force: whether a complete one of that name may be replaced.
        progress: told how far each part has come.
        **options: fields of `DegeneracyOptions`.

    Raises:
        UsageError: for wrong options, or a directory that exists or cannot be written.
        BackendError: for a model that cannot be used.
        DataError: for a split without samples.
        NumericalError: for NaN or infinity, naming where.
    """
    check_backend_kind(backend)
    parsed = parse_options(DegeneracyOptions, options, "the degeneracy analysis")
    directory = RunDirectory(Path(out), force=force) if out is not None else None
    try:
        return _Measurement(backend, parsed, directory, progress).run()
    except BaseException:
        if directory is not None and directory.abandon():
            log.warning(
                "Finished parts are kept in '%s': the same command with --out '%s' goes on there.",
                directory.partial,
                directory.path,
            )
        raise


@dataclass
class _Measurement:
    """The parts of one analysis."""

    backend: Backend
    options: DegeneracyOptions
    directory: RunDirectory | None
    progress: Progress

    def run(self) -> dict[str, Any]:
        """All parts in order."""
        # Before anything is computed at length: a file of directions may be missing.
        basis_method(self.options.basis)
        began = time.time()
        self.seconds: dict[str, float] = {}
        self.kept: dict[str, Any] = {"schema": SCHEMA, "backend": self.backend.name}
        self.kept["options"] = self.options.model_dump(mode="json")
        self.earlier = self._earlier()
        self._part("weights", self._weights)
        self._part("units", self._units)
        self._part("heads", self._heads)
        self._part("behaviour", self._behaviour)
        if self.options.volume:
            self._part("volume", self._volume)
        self._part("modules", self._modules)
        self.kept["totals"] = self._totals()
        self.kept["seconds"] = self.seconds
        if self.directory is not None:
            self._finish(self.directory, began)
        return self.kept

    # What the parts work on

    @cached_property
    def inputs(self) -> Inputs:
        """The network and its data."""
        return Inputs(self.backend, self.options)

    @cached_property
    def few(self) -> Data:
        """For what needs the Jacobians of all parameters."""
        return self.inputs.data("train", most=self.options.samples)

    @property
    def measured_on(self) -> tuple[Data, ...]:
        """All splits that anything is computed on."""
        return self.inputs.train, self.inputs.for_bases

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What every part depends on."""
        return self.inputs.facts(*self.measured_on)

    @cached_property
    def ranks(self) -> list[WeightRanks]:
        return weight_ranks(
            self.inputs.network,
            self.inputs.train,
            self.options.truncation,
            progress=self.progress,
        )

    # Parts

    def _weights(self) -> Part:
        trials = try_moves(
            self.inputs.network,
            self.inputs.train,
            self.ranks,
            seed=self.options.seed,
            progress=self.progress,
        )
        return {each.weight.name: _weight(each, trials[each.weight.name]) for each in self.ranks}

    def _units(self) -> Part:
        return self.synchrony.units(lambda: self.ranks)

    def _heads(self) -> Part:
        return self.synchrony.heads(lambda: self.ranks)

    @cached_property
    def synchrony(self) -> Synchrony:
        tolerance = self.options.synchrony
        return Synchrony(
            self.inputs.network, self.backend, self.inputs.train, tolerance, self.progress
        )

    def _behaviour(self) -> Part:
        found = behaviour_spectrum(
            self.inputs.network,
            self.few,
            truncation=self.options.truncation,
            seed=self.options.seed,
            probes=self.options.probes,
            steps=self.options.steps,
            progress=self.progress,
        )
        # Where nothing changes the outputs, any ε will do.
        largest = float(found.values.max()) or 1.0
        epsilons = largest * np.logspace(0, -DECADES, DECADES * PER_DECADE + 1)
        wanted = torch.as_tensor(epsilons)
        return {
            "parameters": found.parameters,
            "samples": min(self.backend.samples("train"), self.few.limit or 0),
            "exact": found.exact,
            "rank": found.rank,
            "largest": largest,
            "epsilons": epsilons.tolist(),
            "effective": found.effective(wanted).tolist(),
            "errors": found.error(wanted).tolist(),
        }

    def _volume(self) -> Part:
        parameters = count_parameters(weights_of(self.inputs.network))
        if parameters > MOST_PARAMETERS:
            raise UsageError(
                f"{parameters} parameters are too many to sample their volume: leave out --volume, "
                f"which takes at most {MOST_PARAMETERS}."
            )
        largest = self.kept["behaviour"]["largest"]
        epsilons = (largest * np.logspace(0, -4, 9)).tolist()
        found = network_volume(
            self.inputs.network,
            self.few,
            epsilons,
            radius=self.options.radius,
            seed=self.options.seed,
            progress=self.progress,
        )
        return {
            "radius": self.options.radius,
            "epsilons": epsilons,
            "effective": [None if np.isnan(x) else x for x in found.effective.tolist()],
            "errors": [None if np.isnan(x) else x for x in found.errors.tolist()],
            "drift": [None if np.isnan(x) else x for x in found.drift.tolist()],
        }

    def _modules(self) -> Part:
        options = self.options
        run = analyze(
            self.backend,
            basis=options.basis,
            beside=(),
            ablate=False,
            limit=options.limit,
            truncate=options.truncate,
            dtype=options.dtype,
            device=options.device,
            batch_size=options.batch_size,
            memory=options.memory,
            seed=options.seed,
            progress=self.progress,
        )
        graph = run.graph()
        if graph.partition is None or not graph.partition.size:
            reason = "the features do not interact, so that there are no modules"
            return {"basis": run.options.main, "skipped": reason}
        largest = self.kept["behaviour"]["largest"]
        epsilons = largest * np.logspace(0, -8, 9)
        try:
            found = module_additivity(
                self.inputs.network,
                self.few,
                run.bases(),
                graph,
                epsilons=epsilons.tolist(),
                draws=options.draws,
                seed=options.seed,
                truncation=options.truncation,
                progress=self.progress,
            )
        except UsageError as error:
            # The Jacobians of a large network do not fit: all the rest is known all the same.
            return {"basis": run.options.main, "skipped": str(error)}
        return {
            "basis": run.options.main,
            **found.as_dict(),
            "strengths": _finite_rows(module_strengths(graph)),
        }

    def _totals(self) -> Part:
        weights = self.kept["weights"].values()
        groups = [*self.kept["units"].values(), *self.kept["heads"].values()]
        parameters = sum(each["parameters"] for each in weights)
        free = sum(each["free"] for each in weights)
        extra = sum(each.get("new") or 0 for each in groups)
        return {"parameters": parameters, "free": free, "extra": extra}

    # Keeping

    def _part(self, name: str, compute: Callable[[], Part]) -> None:
        began = time.monotonic()
        hashed = hash_of(name, self._identity(name)) if self.directory else ""
        known = self.directory is not None and self.directory.finished(name, hashed)
        if self.directory is not None and known and name in self.earlier:
            self.kept[name] = self.earlier[name]
            self.seconds[name] = self.directory.stages[name]["seconds"]
            return
        self.kept[name] = compute()
        self.seconds[name] = round(time.monotonic() - began, 3)
        if self.directory is not None:
            # Later parts that an earlier run finished may still hold.
            write_json(self.directory.file(FILE), self.earlier | self.kept)
            self.directory.finish(name, hashed, self.seconds[name])

    def _identity(self, name: str) -> Mapping[str, Any]:
        options = self.options.model_dump(mode="json", include={*EVERYWHERE, *READ[name]})
        if name == "modules":
            options["file"] = digest_of_basis(self.options.basis)
        return {**self.facts, "options": options}

    def _earlier(self) -> dict[str, Any]:
        if self.directory is None or not self.directory.file(FILE).is_file():
            return {}
        found: dict[str, Any] = read_json(self.directory.file(FILE))
        return found

    def _finish(self, directory: RunDirectory, began: float) -> None:
        self.progress("writing", 0, 1)
        write_json(directory.file(FILE), self.kept)
        graph, attributes = unit_graph(
            self.inputs.network, self.inputs.train, self.kept, self.progress
        )
        write_graphml(graph, directory.file("graph.graphml"), attributes)
        try:
            draw_degeneracy(self.kept, directory.partial)
        except UsageError as error:
            log.warning("Figures were not drawn: %s", error)
        directory.complete(
            {
                **self.inputs.record(*self.measured_on),
                "degeneracy": self.options.model_dump(mode="json"),
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
                "seconds": self.seconds,
            }
        )
        self.progress("writing", 1, 1)


def _weight(found: WeightRanks, trial: Trial) -> Part:
    rows, columns = found.weight.shape
    return {
        "pair": list(found.weight.pair),
        "rows": rows,
        "columns": columns,
        "parameters": found.parameters,
        "input_rank": found.inputs.rank,
        "gradient_rank": found.gradients.rank,
        "free": found.free,
        "moved_free": trial.free,
        "moved_used": trial.used,
        "input_spectrum": found.inputs.values.tolist(),
        "gradient_spectrum": found.gradients.values.tolist(),
    }


def _finite_rows(matrix: np.ndarray) -> list[list[float | None]]:
    return [[float(x) if np.isfinite(x) else None for x in row] for row in matrix]
