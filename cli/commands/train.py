"""`libgraph train`: train a backend's model, with progress, a seed and a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.completing import complete_backends
from libgraph_cli.options import GroupedCommand, json_option, request_options
from libgraph_cli.ranks import refuse_job
from libgraph_cli.running import Request


@click.command(
    cls=GroupedCommand,
    heading="What is trained",
    epilog="libgraph train modular-addition --seed 1\n"
    "libgraph train mlp -o task=digits --out models/digits",
)
@click.argument("backend", shell_complete=complete_backends)
@click.option("--seed", type=int, help="Of the weights; the same as -o seed.  [0]")
@json_option("Print training.json instead of its last figures.")
@request_options(
    out="Directory for the model.  [models/BACKEND-seedSEED]",
    force="Replace a model that is there.",
    settings="Training option of the backend",
)
def train(backend: str, seed: int | None, as_json: bool, request: Request) -> None:
    """Train the model of BACKEND from scratch.

    Writes model.safetensors and training.json. Interrupted, the same command goes on from the last
    checkpoint.
    """
    from libgraph.backend.train import train as train_model
    from libgraph.screen import Screen

    refuse_job("train")
    settings = request.settings
    if seed is not None and settings.setdefault("seed", str(seed)) != str(seed):
        raise click.UsageError("--seed and -o seed say different things: give one of them.")
    directory = request.out or Path("models") / f"{backend}-seed{settings.get('seed', 0)}"
    with request.display() as progress:
        record = train_model(backend, settings, directory, force=request.force, progress=progress)
    if as_json:
        click.echo(json.dumps({**record.as_json(), "directory": str(directory)}, indent=1))
        return
    screen = Screen()
    for last in record.history[-1:]:
        screen.say(", ".join(f"{name} {value:g}" for name, value in last.items()))
    screen.say(f"Written to {directory}.")
