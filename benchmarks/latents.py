"""Are modules of latents more than chance? The model of characters against its rotations.

    OMP_NUM_THREADS=1 python benchmarks/latents.py                   # 9 draws, learned anew in each
    OMP_NUM_THREADS=1 python benchmarks/latents.py --draws 0 --seeds 10 --latents 4
    OMP_NUM_THREADS=1 python benchmarks/latents.py --basis lib --draws 0 --largest

One recipe for the model and for each rotated network: bases, dictionaries, exact interactions and
modules on the same rows. It has to be small, because every draw costs as much as the model itself.
docs/superposition.md has what came out, docs/significance.md why rotations are fair.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import torch
from pydantic import JsonValue

import libgraph as lg
from libgraph.analysis.rotations import rotated_networks
from libgraph.backend.data import Data
from libgraph.graph.interaction_graph import InteractionGraph
from libgraph.modules.communities import find_communities
from libgraph.modules.significance import DRAWN, significance


def told(name: str, compute: Callable[[], JsonValue]) -> JsonValue:
    """Of draws, each as soon as it is known."""
    began = time.process_time()
    drawn = DRAWN.validate_python(compute())
    (modularity,) = drawn["modularities"]
    click.echo(f"{name}: Q {modularity:.3f}, {time.process_time() - began:.0f} s")
    kept: JsonValue = DRAWN.dump_python(drawn)
    return kept


def largest_inputs(graph: InteractionGraph) -> str:
    """Its share of the weight that leads into a feature, in the mean by layer pair."""
    shares = []
    for (source, target), weights in graph.weights().items():
        total = weights.sum(1)
        mean = float((weights.max(1)[total > 0] / total[total > 0]).mean())
        shares.append(f"{source} → {target} {mean:.3f}")
    return ", ".join(shares)


@click.command(help=__doc__)
@click.option("--basis", default="dictionary", help="Any that can be made anew.")
@click.option("--latents", default=2.0, help="For every dimension.")
@click.option("--active", default=8, help="Latents at once.")
@click.option("--steps", default=150, help="Of the dictionaries' optimiser.")
@click.option("--rows", default=24, help="Of 64 characters.")
@click.option("--draws", default=9, help="Rotated networks; 0 for none.")
@click.option("--seeds", default=5, help="Runs of Leiden whose modules are held beside each other.")
@click.option("--largest", is_flag=True, help="Shares of largest inputs, here and in one rotation.")
@click.option("--json", "file", type=Path, help="Also write all numbers there.")
def main(
    basis: str,
    latents: float,
    active: int,
    steps: int,
    rows: int,
    draws: int,
    seeds: int,
    largest: bool,
    file: Path | None,
) -> None:
    """Print Q, how far seeds agree, and Q of every draw."""
    torch.set_num_threads(1)
    backend = lg.load_backend("lm", sequences=2 * rows, gram_sequences=rows)
    options = {
        "dictionary_latents": latents,
        "dictionary_active": active,
        "dictionary_gradients": 0.0,
        "dictionary_steps": steps,
    }
    with torch.no_grad():
        data = Data(backend, "train", rows, rows, "cpu", torch.float64)
        network = backend.network().double()
        began = time.process_time()
        graph, rotated = rotated_networks(network, data, basis, options=options)
    edges = sum(int(np.count_nonzero(weights)) for weights in graph.weights().values())
    seconds = time.process_time() - began
    click.echo(f"{edges} edges of {seconds:.0f} s")
    found = find_communities(graph, seeds=seeds)
    click.echo(f"Q {found.modularity:.3f}, agreement of {seeds} seeds {found.agreement}")
    numbers: dict[str, object] = {"edges": edges, "agreement": found.agreement}
    if largest:
        click.echo(largest_inputs(graph))
        click.echo(largest_inputs(rotated(graph, np.random.default_rng(0))))
    if draws:
        against = significance(graph, rotated, draws=draws, remember=told)
        click.echo(f"{against}")
        numbers["significance"] = asdict(against)
    if file is not None:
        file.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
