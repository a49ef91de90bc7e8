"""`libgraph train`: train a backend's model, with progress, a seed and a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from libgraph_cli.options import config_option, pairs_option, verbosity_options


@click.command()
@click.argument("backend")
@click.option("--seed", type=int, help="Of the weights; the same as -o seed.  [0]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for the model.  [default: models/BACKEND-seedSEED]",
)
@click.option("--force", is_flag=True, help="Replace a model that is there.")
@pairs_option("Training option of the backend")
@config_option
@verbosity_options
def train(
    backend: str,
    seed: int | None,
    out: Path | None,
    force: bool,
    option: dict[str, str],
    quiet: bool,
    verbose: bool,
) -> None:
    """Train the model of BACKEND from scratch.

    Writes model.safetensors and training.json. Interrupted, the same command goes on from the last
    checkpoint.
    """
    from libgraph.backend.train import train as train_model
    from libgraph_cli.progress import ProgressDisplay

    if seed is not None and option.setdefault("seed", str(seed)) != str(seed):
        raise click.UsageError("--seed and -o seed say different things: give one of them.")
    directory = out or Path("models") / f"{backend}-seed{option.get('seed', 0)}"
    with ProgressDisplay(quiet=quiet, verbose=verbose) as progress:
        record = train_model(
            backend,
            option,
            directory,
            force=force,
            progress=progress,
        )
    for last in record.history[-1:]:
        click.echo(", ".join(f"{name} {value:g}" for name, value in last.items()))
    click.echo(f"Written to {directory}.")
