"""`libgraph train`: train a backend's model, with progress, a seed and a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from libgraph_cli.options import request_options
from libgraph_cli.running import Request


@click.command()
@click.argument("backend")
@click.option("--seed", type=int, help="Of the weights; the same as -o seed.  [0]")
@request_options(
    out="Directory for the model.  [models/BACKEND-seedSEED]",
    force="Replace a model that is there.",
    settings="Training option of the backend",
)
def train(backend: str, seed: int | None, request: Request) -> None:
    """Train the model of BACKEND from scratch.

    Writes model.safetensors and training.json. Interrupted, the same command goes on from the last
    checkpoint.
    """
    from libgraph.backend.train import train as train_model
    from libgraph.screen import Screen

    settings = request.settings
    if seed is not None and settings.setdefault("seed", str(seed)) != str(seed):
        raise click.UsageError("--seed and -o seed say different things: give one of them.")
    directory = request.out or Path("models") / f"{backend}-seed{settings.get('seed', 0)}"
    with request.display() as progress:
        record = train_model(backend, settings, directory, force=request.force, progress=progress)
    screen = Screen()
    for last in record.history[-1:]:
        screen.say(", ".join(f"{name} {value:g}" for name, value in last.items()))
    screen.say(f"Written to {directory}.")
