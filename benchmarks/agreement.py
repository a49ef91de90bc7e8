"""Do two trainings of a dictionary find the same latents?

    OMP_NUM_THREADS=1 python benchmarks/agreement.py planted
    OMP_NUM_THREADS=1 python benchmarks/agreement.py characters --rows 96 --latents 4 --steps 150

Dictionaries of one network on the same rows, learned twice from different seeds, beside each other
as `libgraph diff --coordinates lib` has them: the mean largest cosine of latents with those of the
other training (MMCS), in LIB's coordinates, and what as many random directions have. On planted
networks of `libgraph benchmark`, and the bundled model of characters. docs/superposition.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import click
import torch

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.bases.learned.learned import learned
from libgraph.bases.learned.options import DictionaryOptions
from libgraph.bases.lib import lib
from libgraph.bases.method import Truncation
from libgraph.bases.statistics import node_statistics
from libgraph.benchmark.planted import Design, planted
from libgraph.comparison.layers import LayerDifference, compare_layer
from libgraph.network.network import Network
from libgraph.progress import silent


def learned_twice(
    network: Network, data: Data, options: DictionaryOptions
) -> dict[str, LayerDifference]:
    """Two seeds beside each other, by node layer.

    Args:
        network: in double precision.
        data: what both are learned from.
        options: of both but for the seed, which is the first one's.
    """
    truncation = Truncation.parse("rel:1e-10")
    statistics = node_statistics(network, data)
    start = lib(network, statistics, data, truncation, silent)
    first, second = (
        learned(
            network,
            statistics,
            data,
            truncation,
            silent,
            options.model_copy(update={"seed": options.seed + number}),
            start,
        )
        for number in range(2)
    )
    return {
        name: compare_layer(name, basis, second[name], coordinates=start[name])
        for name, basis in first.items()
        if not basis.linear
    }


def planted_networks(
    seeds: int, gradients: float, steps: int
) -> Iterator[dict[str, LayerDifference]]:
    """Of each network, by node layer."""
    for seed in range(seeds):
        known = planted(Design(samples=8000, seed=seed))
        options = DictionaryOptions(
            latents=known.features_per_dimension,
            active=3,
            gradients=gradients,
            steps=steps,
            seed=1000 + seed,
        )
        yield learned_twice(known.network, Data(known.backend(), "train", 2000), options)


def row(found: list[LayerDifference]) -> str:
    """Means over networks."""
    both = [side for each in found for side in each.closest if side is not None]
    chance = [side for each in found for side in each.closest_by_chance if side is not None]
    matched = statistics.fmean(
        len(each.matching.above(0.9).a) / max(1, min(each.features)) for each in found
    )
    return (
        f"{found[0].name:20} MMCS {statistics.fmean(both):.3f}, by chance "
        f"{statistics.fmean(chance):.3f}, counterpart of 0.9: {matched:.0%}"
    )


@click.group(help=__doc__)
def main() -> None:
    """Nothing beside its commands."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(mode=False)


@main.command("planted")
@click.option("--seeds", default=5, help="Networks.")
@click.option("--steps", default=300, help="Of the optimiser.")
def of_planted(seeds: int, steps: int) -> None:
    """Of 24 features in 12 dimensions."""
    for name, gradients in (("TopK", 0.0), ("with gradients", 1.0)):
        found = list(planted_networks(seeds, gradients, steps))
        for layer in found[0]:
            click.echo(f"{name:15} {row([each[layer] for each in found])}")


@main.command("characters")
@click.option("--rows", default=240, help="Of 64 characters.")
@click.option("--latents", default=8.0, help="For every dimension.")
@click.option("--active", default=16, help="Latents at once.")
@click.option("--steps", default=400, help="Of the optimiser.")
def of_characters(rows: int, latents: float, active: int, steps: int) -> None:
    """Of the bundled language model."""
    backend = lg.load_backend("lm", sequences=2 * rows, gram_sequences=rows)
    data = Data(backend, "train", 16, rows, "cpu", torch.float64)
    options = DictionaryOptions(latents=latents, active=active, gradients=0.0, steps=steps)
    for each in learned_twice(backend.network().double(), data, options).values():
        click.echo(row([each]))


if __name__ == "__main__":
    main()
