"""What an analysis works on, and what tells it from another one.

The backend's network in the precision asked for, its splits in batches that fit into memory, and
the facts that results depend on: a stage whose facts have not changed is not computed again.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from weakref import WeakKeyDictionary

import torch
from pydantic import JsonValue

from libgraph import __version__
from libgraph.accumulate.memory import batch_size, least_memory, memory_budget
from libgraph.accumulate.ranks import smallest
from libgraph.backend.checks import FEW, check_data, check_network, network_of
from libgraph.backend.contract import Backend, Split
from libgraph.backend.data import Data
from libgraph.backend.source import backend_source
from libgraph.backend.state import make_ordinary
from libgraph.errors import BackendError
from libgraph.files.limits import in_bytes
from libgraph.network.network import Network
from libgraph.pipeline.options import ComputingOptions

log = logging.getLogger("libgraph")

LOOKED_AT = 1024
"""Samples in a batch where data are gone through once, before it is known how many fit."""


COMPUTE = ("libgraph", "torch", "numpy", "scipy", "igraph", "leidenalg")
"""What results come from, whatever the backend."""

MAY_COMPUTE = ("transformers", "transformer-lens", "scikit-learn")
"""What they may come from too, where it is installed."""


_TOLD: WeakKeyDictionary[Backend, int] = WeakKeyDictionary()
"""Budgets that it was said of that they cannot be kept: an analysis may have another within it."""


def computing_versions() -> dict[str, str]:
    """Versions of the libraries that results come from, by name."""
    known = {"libgraph": __version__, "torch": torch.__version__}
    versions = {name: known.get(name) or version(name) for name in COMPUTE}
    for name in MAY_COMPUTE:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _check_same(first: Network, again: Network) -> None:
    """Refuse a network whose weights differ from those that it had before, in other precision."""
    before = first.state_dict()
    for name, tensor in again.state_dict().items():
        other = before.get(name)
        if other is not None and other.is_floating_point() and tensor.is_floating_point():
            dtype = min(tensor.dtype, other.dtype, key=lambda kind: torch.finfo(kind).bits)
            tensor, other = tensor.to(dtype), other.to(dtype)
        if other is None or not torch.equal(tensor, other):
            raise BackendError(
                f"network() of the backend gives other weights the second time ('{name}'): make "
                "them once, or with a seed, so that every call gives the same."
            )


class Workload:
    """A backend's network and data as options want them.

    Args:
        backend: whose network and data.
        options: precision, device, memory and how many samples.
    """

    def __init__(self, backend: Backend, options: ComputingOptions) -> None:
        self.backend = backend
        self.options = options
        self._hashes: dict[str, str] = {}

    def network_in(self, dtype: str) -> Network:
        """The network, cast from the precision that it is stored in."""
        network = network_of(self.backend)
        if "network" in self.__dict__ and network.shares_modules(self.network):
            raise BackendError(
                "network() of the backend gives what it gave before: casting it would change both. "
                "Make a new one with each call, such as of copy.deepcopy(model)."
            )
        make_ordinary(network)
        network = network.to(device=self.options.device, dtype=getattr(torch, dtype))
        if "network" in self.__dict__:
            _check_same(self.network, network)
        return network

    def look(self) -> None:
        """A first look at data, network and scores: what is wrong with a backend is told at once.

        Raises:
            BackendError: naming the method, split, node layer or section that is wrong.
            DataError: if a split has no samples.
        """
        for split in dict.fromkeys(("train", "test", self.backend.bases_split)):
            check_data(self.backend, split, self.options.batch_size or LOOKED_AT)
        options, dtype = self.options, getattr(torch, self.options.dtype)
        batch = next(iter(Data(self.backend, "train", FEW, FEW, options.device, dtype)))
        check_network(self.backend, self.network, batch)
        self.tell_of_memory()
        # All ranks find it out together, before the first one asks for it by itself.
        self.batch_size  # noqa: B018

    def tell_of_memory(self, beside: int = 0) -> None:
        """Say once if a memory budget that was given is less than what may be needed whole.

        Args:
            beside: bytes that are needed besides what an analysis needs.
        """
        memory = self.options.memory
        if memory is None or self.options.device != "cpu" or _TOLD.get(self.backend) == memory:
            return
        single = Data(self.backend, "train", 1, 1, "cpu", getattr(torch, self.options.dtype))
        least = beside + least_memory(self.network, next(iter(single)).inputs)
        if memory < least:
            _TOLD[self.backend] = memory
            log.warning(
                "memory='%s' may not be kept to: beside the model up to %s may be needed, "
                "however small batches are.",
                in_bytes(memory),
                in_bytes(least),
            )

    @cached_property
    def network(self) -> Network:
        """For statistics, Jacobians and interactions."""
        return self.network_in(self.options.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Of the network; large models take a while to hash."""
        return self.network.fingerprint()

    @cached_property
    def norms(self) -> list[str]:
        """Of the first sample's activations, and its score: functions may share a name."""
        (batch,) = self.data("train", most=1)
        with torch.no_grad():
            activations = list(self.network.activations(batch.inputs))
            score = self.backend.score(activations[-1], batch.targets)
        return [f"{float(x.norm()):.6e}" for x in (*activations, score.double())]

    @cached_property
    def batch_size(self) -> int:
        """As asked for, or what fits."""
        options = self.options
        if options.batch_size is not None:
            return options.batch_size
        single = Data(self.backend, "train", 1, 1, options.device, getattr(torch, options.dtype))
        memory = options.memory or memory_budget(options.device)
        # Ranks on other hosts may have less memory, and have to cut the data alike.
        return smallest(batch_size(self.network, next(iter(single)).inputs, memory))

    def data(self, split: Split, dtype: str | None = None, most: int | None = None) -> Data:
        """One split; `bases` whole, the others as far as the limit goes.

        Args:
            split: which one.
            dtype: that of the network unless told otherwise.
            most: samples at most, whatever the limit.
        """
        limits = [n for n in (None if split == "bases" else self.options.limit, most) if n]
        limit = min(limits, default=None)
        return Data(
            self.backend,
            split,
            batch_size=min(self.batch_size, most or self.batch_size),
            limit=limit,
            device=self.options.device,
            dtype=getattr(torch, dtype or self.options.dtype),
            memory=self.options.memory,
        )

    @cached_property
    def train(self) -> Data:
        """What is computed on, but for scores."""
        return self.data("train")

    @cached_property
    def for_bases(self) -> Data:
        """What bases are made from: `train`, if the backend has no larger split for them."""
        return self.data(self.backend.bases_split)

    def facts(self, *data: Data) -> dict[str, JsonValue]:
        """What any result depends on, as plain values; `data` is what it was computed on."""
        return {
            "versions": {**computing_versions()},
            "threads": torch.get_num_threads(),
            "backend": [self.backend.name, self.backend.options.model_dump(mode="json")],
            "score": [
                self.backend.score_name,
                self.backend.higher_is_better,
                self.backend.fingerprint(),
                backend_source(self.backend),
            ],
            "network": [self.fingerprint, [*self.norms]],
            "data": {**self._hashes_of(data)},
            "batch_size": self.batch_size,
            **self.options.model_dump(include={"dtype", "device", "truncate"}),
        }

    def record(self, *data: Data) -> dict[str, JsonValue]:
        """The same for people, as `run.json` has it (docs/files.md)."""
        return {
            "backend": self.backend.name,
            "backend_options": self.backend.options.model_dump(mode="json"),
            "versions": {**computing_versions(), "python": platform.python_version()},
            "network": self.fingerprint,
            "data": {**self._hashes_of(data)},
            "threads": torch.get_num_threads(),
            "batch_size": self.batch_size,
        }

    def _hashes_of(self, data: Iterable[Data]) -> dict[str, str]:
        """SHA-256 of each split's inputs and targets, as far as they are used."""
        for split in data:
            if split.split in self._hashes:
                continue
            # One for inputs and one for targets: together they would depend on the batch size.
            digests = hashlib.sha256(), hashlib.sha256()
            for batch in split:
                for digest, tensor in zip(digests, batch, strict=True):
                    digest.update(tensor.cpu().contiguous().numpy().tobytes())
            joined = b"".join(digest.digest() for digest in digests)
            self._hashes[split.split] = hashlib.sha256(joined).hexdigest()
        return {split.split: self._hashes[split.split] for split in data}
