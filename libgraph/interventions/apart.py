"""Layers cut one at a time, and all together: do their losses add up?

Ablation asks of one node layer, or one layer pair, what the score needs while the rest of the
network is whole. A graph is cut everywhere at once. Both are measured here with the same cuts: the
edges that a circuit keeps in one layer pair alone against all of the circuit, and the first
features of one node layer alone against those of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libgraph.accumulate.halfway import steps
from libgraph.interventions.circuits import Circuits, EdgePool
from libgraph.progress import Progress, silent


@dataclass(frozen=True)
class Cut:
    """Scores with a share of edges, or of features, kept.

    Args:
        share: that is kept.
        whole: score of the whole network.
        together: with all layers cut at once.
        alone: with one of them cut, by layer pair or node layer.
    """

    share: float
    whole: float
    together: float
    alone: Mapping[str, float]

    @property
    def lost_together(self) -> float:
        """Change of the score."""
        return self.together - self.whole

    @property
    def lost_alone(self) -> float:
        """Sum of the changes of the score by each cut alone."""
        return sum(score - self.whole for score in self.alone.values())

    @property
    def most(self) -> str:
        """Where a cut alone changes most."""
        return max(self.alone, key=lambda name: abs(self.alone[name] - self.whole))


@dataclass(frozen=True)
class Apart:
    """One at a time against all together.

    Args:
        edges: by share of all edges; of a layer pair those of them that are its own.
        features: by share of the features of each node layer that are not isolated.
    """

    edges: tuple[Cut, ...]
    features: tuple[Cut, ...]


def cut_apart(
    circuits: Circuits,
    pool: EdgePool,
    order: Int[Tensor, " e"],
    shares: Sequence[float],
    *,
    progress: Progress = silent,
) -> Apart:
    """Cut edges of each layer pair, and features of each node layer, alone and all together.

    Takes a circuit for each share and layer pair, and a pass of the network for each share and
    node layer. Features that are dropped, the least important ones, are at the circuits' baseline.

    Args:
        circuits: subject and baseline.
        pool: its edges.
        order: in which they are kept.
        shares: of edges, and of features, to keep.
        progress: told after every cut.
    """
    layers = circuits.subject.layers
    names = [" → ".join(pair) for pair in pairwise(layers)]
    rotated = [name for name in layers if circuits.subject.cast[name].rotated]
    whole = circuits.score({})
    total, done = len(shares) * (len(names) + len(rotated) + 2), 0

    def told(score: float) -> float:
        nonlocal done
        done += 1
        progress("one at a time", done, total)
        return score

    progress("one at a time", 0, total)
    edges, features = [], []
    for share in shares:
        circuit = pool.circuit(pool.largest(order, round(share * pool.size)))
        alone = {
            name: told(circuits.score({number: circuit[number]}))
            for number, name in enumerate(names)
        }
        edges.append(Cut(share, whole, told(circuits.score(circuit)), alone))
        alone = {name: told(features_score(circuits, share, [name])) for name in rotated}
        together = told(features_score(circuits, share, rotated))
        features.append(Cut(share, whole, together, alone))
    return Apart(tuple(edges), tuple(features))


def features_score(circuits: Circuits, share: float, layers: Sequence[str]) -> float:
    """Mean score with the first share of the features of these node layers, isolated ones besides.

    The others are at the circuits' baseline while the network runs.
    """
    subject = circuits.subject
    generator = torch.Generator().manual_seed(circuits.seed)
    with torch.no_grad(), steps("features of a circuit") as kept:
        scores = kept.state.get("scores", torch.zeros(0, dtype=torch.float64))
        for number, batch in enumerate(subject.data):
            donors = torch.randint(2**31, (len(batch.inputs),), generator=generator)
            if number < kept.done:
                continue
            others = circuits.others(donors) if circuits.baseline == "resample" else {}
            x = subject.network.embed(batch.inputs)
            for place, layer in enumerate(subject.layers):
                x = subject.network.sections[place - 1](x) if place else x
                if layer in layers:
                    x = _cut(circuits, share, layer, x, others)
            score = subject.backend.score(x, batch.targets).double().cpu()
            scores = torch.cat([scores, score])
            kept.note(number + 1, {"scores": scores})
    return float(scores.mean())


def _cut(
    circuits: Circuits,
    share: float,
    layer: str,
    x: Float[Tensor, "n s d"],
    others: Mapping[str, Tensor],
) -> Float[Tensor, "n s d"]:
    """Activations with the last features of a node layer at the baseline."""
    basis = circuits.subject.cast[layer]
    first = basis.isolated + round(share * (len(basis) - basis.isolated))
    shift = -basis.features(x, slice(first, None))
    if circuits.baseline == "mean":
        shift = shift + circuits.subject.usual[layer].mean[first:]
    elif circuits.baseline == "resample":
        shift = shift + others[layer][..., first:]
    changed: Tensor = x + shift @ basis.decoder[first:]
    return changed
