"""`libgraph steer`: features turned up or down for one input, and what the model says then."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import MOST_SEED, GroupedCommand, json_option
from libgraph_cli.running import display


@click.command(
    cls=GroupedCommand,
    heading="What is changed",
    epilog='libgraph steer runs/ma ln2.0/5=2x --text "12 + 45"\n'
    'libgraph steer runs/lm module:2=3x --text "To be" --tokens 40',
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("changes", nargs=-1, required=True)
@click.option("--text", help="What the model reads.")
@click.option(
    "--sample", type=click.IntRange(min=0), metavar="N", help="A sample of the test split instead."
)
@click.option(
    "--tokens", type=click.IntRange(min=0), help="How the text goes on.  [20 for language models]"
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Of the choice of tokens; 0: the most probable.  [0]",
)
@click.option("--positions", metavar="P,…", help="Where; -1 is the last.  [everywhere]")
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option("--top", type=click.IntRange(min=1), default=10, help="Classes shown.  [10]")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, help="Of draws.  [0]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@json_option("Print everything as JSON.")
@config_option
def steer(
    run: Path,
    changes: tuple[str, ...],
    text: str | None,
    sample: int | None,
    tokens: int | None,
    temperature: float,
    positions: str | None,
    basis: str | None,
    top: int,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Change features of RUN while its model reads one input, and see what it says.

    CHANGES, all made together, are such as ln2.0/5=2x (scaled), ln2.0/5=0 (set), ln2.0/5+=1.5
    (added) or ln2.0/5 (put to its mean); module:3 is all features of a module.
    """
    from libgraph.interventions.steering import steer as steer_network
    from libgraph.runs.requests import input_of, intervention_of, positions_of
    from libgraph.runs.saved_run import open_run
    from libgraph.screen import Screen
    from libgraph_cli.tables.interventions import print_steered, steered_values

    saved = open_run(run)
    where = positions_of(positions)
    intervention = intervention_of(saved, changes, positions=where, basis=basis)
    with display(quiet=quiet) as progress:
        subject = saved.subject(basis)
        chosen = input_of(subject, text, sample)
        if tokens is None:
            tokens = 20 if subject.continues else 0
        result = steer_network(
            subject,
            intervention,
            chosen,
            tokens=tokens,
            temperature=temperature,
            seed=seed,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(steered_values(subject, chosen, result), indent=1))
    else:
        print_steered(Screen(), subject, intervention, chosen, result, top)
