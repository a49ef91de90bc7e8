"""Do dictionaries that are tuned in order, each behind those before it, work all at once?

    OMP_NUM_THREADS=1 python benchmarks/in_order.py runs/chars
    OMP_NUM_THREADS=1 python benchmarks/in_order.py runs/chars --part resid --steps 50

Dictionaries of a run were learned from activations of the whole model. Here each goes on learning
for a while, the first node layer first: from activations as they are with all dictionaries before
it in place, to give those of the whole model back, in LIB's coordinates. Prints the score with all
of them in place, before and after. docs/superposition.md has what came out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch import Tensor

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.bases.learned.coordinates import Coordinates, coordinates
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.statistics import node_statistics
from libgraph.edges.reconstruction import reconstructions
from libgraph.edges.score import Scoring
from libgraph.network.basis import Bases
from libgraph.network.dictionary import Dictionary, TopK
from libgraph.network.network import Network
from libgraph.progress import silent

RATE, BATCH = 2e-3, 512


def k_of(dictionary: Dictionary) -> int:
    """Latents at once."""
    if not isinstance(dictionary.gate, TopK):
        raise click.UsageError("Only dictionaries of --basis dictionary can be tuned.")
    return dictionary.gate.k


@dataclass
class Tuned:
    """A dictionary of LIB's coordinates u while it is tuned: û = TopK(u E + b) D + c.

    Args:
        place: the coordinates.
        dictionary: what it began as.
    """

    place: Coordinates
    dictionary: Dictionary

    def __post_init__(self) -> None:
        first = self.dictionary.isolated
        into, out = self.place.into, self.place.out
        encoder, decoder = self.dictionary.encoder, self.dictionary.decoder
        self.encoder = (out @ encoder[:, first:]).float()
        self.bias = (encoder[-1, first:] - into[-1] @ (out @ encoder[:, first:])).float()
        self.decoder = (decoder[first:] @ into).float()
        self.centre = ((decoder[0] - self.place.basis.decoder[0]) @ into).float()
        self.active = k_of(self.dictionary)

    def __call__(self, u: Tensor) -> Tensor:
        """What is written at each row."""
        values, places = (u @ self.encoder + self.bias).topk(self.active, dim=1)
        rows = torch.nn.functional.embedding(places, self.decoder)
        return (values.relu().unsqueeze(1) @ rows).squeeze(1) + self.centre

    def tune(self, u: Tensor, aim: Tensor, steps: int) -> None:
        """Towards u of the whole model, from what it is behind other dictionaries."""
        parameters = [self.encoder, self.bias, self.decoder, self.centre]
        generator = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_()
            optimizer = torch.optim.Adam(parameters, lr=RATE)
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
                rows = torch.randint(len(u), (BATCH,), generator=generator)
                loss = (self(u[rows]) - aim[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)

    def tuned(self) -> Dictionary:
        """As a dictionary of activations, its dead latents left out."""
        first, basis = self.dictionary.isolated, self.place.basis
        into, out = self.place.into, self.place.out
        encoder, decoder = self.dictionary.encoder.clone(), self.dictionary.decoder.clone()
        encoder[:, first:] = into @ self.encoder.to(into)
        encoder[-1, first:] += self.bias.to(into)
        decoder[first:] = self.decoder.to(out) @ out
        decoder[0] = basis.decoder[0] + self.centre.to(out) @ out
        gate = TopK(self.active)
        return replace(self.dictionary, encoder=encoder, decoder=decoder, gate=gate)


def in_order(
    network: Network, bases: Bases, places: dict[str, Coordinates], data: Data, steps: int
) -> dict[str, Dictionary]:
    """Dictionaries, each tuned behind those before it.

    Args:
        network: whose node layers they are of.
        bases: dictionaries, as they were learned.
        places: LIB's coordinates of these node layers.
        data: what is learned from; all of it is held.
        steps: of each.
    """
    (batch,) = data
    found: dict[str, Dictionary] = {}
    changed = network.embed(batch.inputs)
    for index, x in enumerate(network.activations(batch.inputs)):
        layer = network.node_layers[index]
        if index:
            changed = network.sections[index - 1](changed)
        basis = bases.get(layer.name)
        if not isinstance(basis, Dictionary):
            continue
        place = places[layer.name]
        u, aim = ((y @ place.into).flatten(0, 1).float() for y in (changed, x))
        each = Tuned(place, basis)
        before = float((each(u) - aim).square().mean())
        each.tune(u, aim, steps)
        found[layer.name] = each.tuned()
        changed = found[layer.name].latents(changed) @ found[layer.name].decoder
        after = float((each(u) - aim).square().mean())
        click.echo(f"{layer.name:20} missed behind those before it {before:.3f} -> {after:.3f}")
    return found


@click.command(help=__doc__)
@click.argument("run")
@click.option("--part", default="", help="Dictionaries at node layers with this in their names.")
@click.option("--steps", default=100, help="Of each.")
@click.option("--rows", default=160, help="That are learned from.")
@click.option("--scored", default=8, help="Rows of the test split that scores are of.")
def main(run: str, part: str, steps: int, rows: int, scored: int) -> None:
    """Print the score with all in place, before and after."""
    opened = lg.open_run(run)
    subject, test = opened.subject(split="train"), opened.subject(split="test", limit=scored)
    backend, network = subject.backend, subject.network
    data = Data(backend, backend.bases_split, rows, rows, dtype=subject.data.dtype)
    written = json.loads((Path(run) / "run.json").read_text())["options"]["truncate"]
    truncation = Truncation.parse(written)
    chosen = {
        name: basis
        for name, basis in subject.bases.items()
        if isinstance(basis, Dictionary) and part in name
    }
    with torch.no_grad():
        statistics = node_statistics(network, data)
        parts = replace(data, batch_size=16)
        in_lib = lib(network, statistics, parts, truncation, silent)
        places = coordinates(network, statistics, in_lib, "lib", truncation)
        tuned = in_order(network, chosen, places, data, steps)
        scoring = Scoring(test.network, test.backend, test.data)
        click.echo(f"whole model {scoring.base_score:.3f}")
        for name, bases in (("as learned", chosen), ("tuned in order", tuned)):
            found = reconstructions(scoring, bases).together
            click.echo(f"{len(bases)} at once, {name}: {found.score:.3f}, {found.recovered:.0%}")


if __name__ == "__main__":
    main()
