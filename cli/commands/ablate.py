"""`libgraph ablate`: features and modules of a run switched off, one at a time and together."""

from __future__ import annotations

import json
from pathlib import Path

import click

from libgraph_cli.configuration import config_option
from libgraph_cli.options import MOST_SEED, GroupedCommand, json_option
from libgraph_cli.running import display

HOWS = ("mean", "zero", "position-mean", "resample")


@click.command(
    cls=GroupedCommand,
    heading="What is changed",
    epilog="libgraph ablate runs/ma ln2.0/5 module:0\n"
    "libgraph ablate runs/ma ln1.0/1 --how position-mean",
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("features", nargs=-1, required=True)
@click.option("--how", type=click.Choice(HOWS), default="mean", help="What they become.  [mean]")
@click.option("--positions", metavar="P,…", help="Where; -1 is the last.  [everywhere]")
@click.option("--basis", metavar="NAME", help="One that the run has.  [the one it was asked for]")
@click.option("--limit", type=click.IntRange(min=1), help="The first samples alone.")
@click.option("--seed", type=click.IntRange(0, MOST_SEED), default=0, help="Of resampling.  [0]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@json_option("Print everything as JSON.")
@config_option
def ablate(
    run: Path,
    features: tuple[str, ...],
    how: str,
    positions: str | None,
    basis: str | None,
    limit: int | None,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Switch FEATURES of RUN off, such as ln2.0/5, and see what the model loses.

    A feature may be module:3, all its features. Each is measured on the test split, one at a time
    and, if there are several, together. What else can be done to one is written behind it: =0 sets
    it, =2x scales it, +=1.5 adds, =mean, =position-mean and =resample.
    """
    from libgraph.interventions.intervene import intervene
    from libgraph.runs.requests import intervention_of, positions_of, read_request
    from libgraph.runs.saved_run import open_run
    from libgraph.screen import Screen
    from libgraph_cli.tables.interventions import intervened_values, print_intervened

    saved = open_run(run)
    texts = [f"{text}=0" if how == "zero" and "=" not in text else text for text in features]
    where = positions_of(positions)
    groups = [[text] for text in texts]
    # The same feature changed in several ways has no row of all at once.
    if len(texts) > 1 and len({read_request(text)[0] for text in texts}) == len(texts):
        groups.append(texts)
    interventions = [
        intervention_of(
            saved,
            group,
            how="mean" if how == "zero" else how,  # type: ignore[arg-type]
            positions=where,
            basis=basis,
        )
        for group in groups
    ]
    with display(quiet=quiet) as progress:
        subject = saved.subject(basis, limit=limit)
        result = intervene(subject, interventions, seed=seed, progress=progress)
    if as_json:
        click.echo(json.dumps(intervened_values(saved, subject, result, basis), indent=1))
    else:
        print_intervened(Screen(), saved, subject, result, basis)
