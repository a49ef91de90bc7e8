"""What dictionaries of all node layers minimise together, and how.

L = Σ_l E‖u − û‖² / E‖u‖² + μ Σ_l E‖g − ĝ‖² / E‖g‖² + λ Σ_pairs Σ_ij (E_ij / E_total)^p, with
E_total the mean square of the next node layer's coordinates. Source: docs/superposition.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.bases.learned.beginning import beginning
from libgraph.bases.learned.coordinates import Coordinates
from libgraph.bases.learned.edges import LatentEdges
from libgraph.bases.learned.latents import PARTS, Latents, Learner
from libgraph.bases.learned.options import (
    CHECKPOINT,
    CODING_ROUNDS,
    EDGE_BATCH,
    EVERY,
    LEARNING_RATE,
    QUIET,
    READING,
    REVIVAL,
    WARMING,
    DictionaryOptions,
)
from libgraph.bases.learned.samples import LayerSamples, layer_samples
from libgraph.fit import Course, fit
from libgraph.network.basis import Bases
from libgraph.network.network import Network
from libgraph.progress import Progress

FLOOR = 1e-12
"""Added to shares of interactions, whose powers have an infinite slope at zero."""


@dataclass(frozen=True)
class Pair:
    """Interactions that are to be few: between these node layers, and E_total."""

    source: str
    target: str
    edges: LatentEdges
    total: float


@dataclass(frozen=True)
class Problem:
    """What is learned, from which samples.

    Args:
        places: coordinates by node layer.
        samples: of the same node layers.
        pairs: those whose interactions count.
        options: as given.
    """

    places: Mapping[str, Coordinates]
    samples: Mapping[str, LayerSamples]
    pairs: tuple[Pair, ...]
    options: DictionaryOptions

    @classmethod
    def of(
        cls,
        network: Network,
        places: Mapping[str, Coordinates],
        lib: Bases,
        data: Data,
        options: DictionaryOptions,
    ) -> Problem:
        """On all of the data, which has to fit into memory."""
        generator = torch.Generator().manual_seed(options.seed)
        samples = layer_samples(
            network, places, lib, data, probes=options.gradients > 0, generator=generator
        )
        pairs = []
        if options.interactions > 0:
            for a, b, section in network.pairs:
                if a.name not in places or (b.rotated and b.name not in places):
                    continue
                target = places.get(b.name)
                total = float(target.size if target else lib[b.name].importance.sum())
                edges = LatentEdges(section, places[a.name], target or lib[b.name])
                pairs.append(Pair(a.name, b.name, edges, total or 1.0))
        return cls(places, samples, tuple(pairs), options)

    def count(self, name: str) -> int:
        """Latents of a node layer."""
        return max(1, round(self.options.latents * self.places[name].size))

    def start(self, rounds: int = CODING_ROUNDS) -> dict[str, Tensor]:
        """Parameters by `LAYER/PART`, and for how many batches each latent has been quiet."""
        parameters: dict[str, Tensor] = {}
        for name in self.samples:
            made = self.start_of(name, rounds)
            parameters |= {f"{name}/{part}": made[part] for part in PARTS}
            parameters[f"{name}/quiet"] = torch.zeros_like(made["bias"])
        return parameters

    def start_of(self, name: str, rounds: int) -> dict[str, Tensor]:
        """Parameters of one node layer, after so many rounds of coding gradients, by `PARTS`."""
        samples, number = self.samples[name], [*self.samples].index(name)
        gradients = samples.gradients
        return beginning(
            samples.u.flatten(0, 1),
            None if gradients is None else gradients.flatten(0, 1),
            self.count(name),
            self.options.active,
            torch.Generator().manual_seed(self.options.seed * 1_000_003 + number),
            rounds,
        )

    def learner(self, parameters: Mapping[str, Tensor], name: str) -> Learner:
        """The dictionary of a node layer."""
        return Learner({part: parameters[f"{name}/{part}"] for part in PARTS}, self.options.active)

    def loss(self, parameters: Mapping[str, Tensor], step: int) -> Tensor:
        """L on the batch of a step; counts quiet latents."""
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + step)
        loss, seen = torch.zeros(()), {}
        for name in self.samples:
            chosen, size = self._batch(name, generator)
            u, gradients = self._rows(name, chosen)
            learner = self.learner(parameters, name)
            latents = learner.latents(u)
            error = learner.error(u, latents)
            loss = loss.to(u.device) + error.square().mean()
            if gradients is not None:
                unread = learner.unread(gradients, latents)
                loss = loss + self.options.gradients * unread.square().sum(-1).mean()
            quiet = parameters[f"{name}/quiet"]
            with torch.no_grad():
                quiet += 1
                quiet[latents.places[latents.open]] = 0
                dead = quiet > QUIET
            if bool(dead.any()):
                loss = loss + REVIVAL * learner.revived(error, latents, dead)
            seen[name] = chosen[: max(1, EDGE_BATCH // size)]
        if not self.pairs:
            return loss
        return loss + self.options.interactions * self.few(parameters, seen)

    def few(self, parameters: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> Tensor:
        """Σ_pairs Σ_ij (E_ij / E_total)^p on samples chosen at the first node layer of each."""
        total = torch.zeros(())
        for pair in self.pairs:
            samples = chosen[pair.source]
            before = self._latents(parameters, pair.source, samples)
            after = None
            if pair.target in self.samples:
                after = self._latents(parameters, pair.target, samples)
            x = self.samples[pair.source].x[samples]
            if self.options.penalty == "jacobian":
                sizes = pair.edges.squares(x, before, after, jacobian=True)
                total = total.to(sizes.device) + sizes.sum()
                continue
            squares = pair.edges.squares(x, before, after)
            shares = squares / pair.total + FLOOR
            total = total.to(shares.device) + shares.pow(self.options.power).sum()
        return total

    def _latents(
        self, parameters: Mapping[str, Tensor], name: str, chosen: Tensor
    ) -> tuple[Learner, Latents]:
        learner = self.learner(parameters, name)
        return learner, learner.latents(self.samples[name].u[chosen].flatten(0, 1))

    def _batch(self, name: str, generator: torch.Generator) -> tuple[Tensor, int]:
        """Samples of a batch at a node layer, and their positions."""
        u = self.samples[name].u
        positions = u.shape[1]
        count = min(max(1, self.options.batch // positions), len(u))
        # The same samples at all node layers of as many positions.
        drawn = torch.Generator().manual_seed(generator.initial_seed())
        return torch.randint(len(u), (count,), generator=drawn).to(u.device), positions

    def _rows(self, name: str, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
        samples = self.samples[name]
        gradients = samples.gradients
        if gradients is not None:
            gradients = gradients[chosen].flatten(0, 1)
        return samples.u[chosen].flatten(0, 1), gradients

    @torch.no_grad()
    def measures(self, parameters: Mapping[str, Tensor]) -> dict[str, float]:
        """Shares of variance that are missed, of gradients that are, and of dead latents."""
        missed, unread, dead = [], [], []
        for name, samples in self.samples.items():
            size = samples.u.shape[1]
            some = slice(0, max(1, 4096 // size))
            u = samples.u[some].flatten(0, 1)
            learner = self.learner(parameters, name)
            latents = learner.latents(u)
            missed.append(float(learner.error(u, latents).square().mean()))
            if samples.gradients is not None:
                left = learner.unread(samples.gradients[some].flatten(0, 1), latents)
                unread.append(float(left.square().sum(-1).mean()))
            dead.append(float((parameters[f"{name}/quiet"] > QUIET).float().mean()))
        return {
            "missed": sum(missed) / len(missed),
            **({"unread": sum(unread) / len(unread)} if unread else {}),
            "dead": sum(dead) / len(dead),
        }

    @torch.enable_grad()
    def minimise(self, directory: Path, progress: Progress) -> dict[str, Tensor]:
        """Parameters after all steps."""
        options, parameters = self.options, self.start()
        slow: list[Tensor] = []
        quick: list[Tensor] = []
        for key, value in parameters.items():
            name, _, part = key.rpartition("/")
            if part == "quiet":
                continue
            value.requires_grad_()
            read = part == "encoder" and self.samples[name].gradients is not None
            (slow if read else quick).append(value)
        groups = [{"params": quick}, *([{"params": slow}] if slow else [])]
        optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
        # As the optimiser counts them.
        held = {id(value): key for key, value in parameters.items()}
        ordered = {held[id(value)]: value for value in (*quick, *slow)}
        ordered |= {key: value for key, value in parameters.items() if key not in ordered}

        def loss(step: int) -> Tensor:
            # Here, so that a run that is taken up again has the same rate.
            rate = LEARNING_RATE * (1 + math.cos(math.pi * step / options.steps)) / 2
            rate *= min(1.0, (step + 1) / WARMING)
            for group, share in zip(optimizer.param_groups, (1.0, READING), strict=False):
                group["lr"] = rate * share
            return self.loss(parameters, step)

        fit(
            ordered,
            loss,
            Course(
                steps=options.steps,
                directory=directory,
                settings={
                    **options.model_copy(update={"directory": None}).model_dump(mode="json"),
                    "layers": {
                        name: samples.u.double().square().sum().item()
                        for name, samples in self.samples.items()
                    },
                },
                evaluate_every=EVERY,
                checkpoint=CHECKPOINT,
                stage="dictionaries",
                advice="check the weights, or use a smaller weight of interactions",
            ),
            optimizer=optimizer,
            evaluate=lambda: self.measures(parameters),
            progress=progress,
        )
        return {key: value.detach() for key, value in parameters.items()}

    @torch.no_grad()
    def strength(self, parameters: Mapping[str, Tensor], name: str) -> Float[Tensor, " k"]:
        """Mean squares of latents."""
        learner, u = self.learner(parameters, name), self.samples[name].u.flatten(0, 1)
        total = torch.zeros(self.count(name), dtype=torch.float64, device=u.device)
        for rows in u.split(4096):
            latents = learner.latents(rows)
            squares = latents.values.double().square()
            total.index_add_(0, latents.places.flatten(), squares.flatten())
        return total / len(u)
