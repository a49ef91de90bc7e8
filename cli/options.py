"""Options that several commands share, and how a configuration file feeds them.

Flags win over environment variables (`LIBGRAPH_ANALYZE_DTYPE=float32`), those over `--config`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def _config(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"'{path}' is not TOML: {error}.") from None
    known = {each.name for each in context.command.params if each.name}
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known or name == "config":
            close = difflib.get_close_matches(name, known, n=2)
            hint = f"; did you mean {' or '.join(close)}?" if close else "."
            raise click.BadParameter(f"'{path}' sets '{key}', which is no option here{hint}")
        multiple = {each.name for each in context.command.params if getattr(each, "multiple", 0)}
        if (name == "option") != isinstance(value, dict):
            raise click.BadParameter(
                f"'{path}' has to set '{key}' "
                + ("as a table [option]." if name == "option" else "to one value, not to a table.")
            )
        if isinstance(value, list) and name not in multiple:
            raise click.BadParameter(f"'{path}' sets '{key}' to a list; it takes one value.")
        if name in multiple - {"option"} and not isinstance(value, list):
            value = [value]
        if name == "option":
            context.meta["option"] = {
                each.replace("-", "_"): str(setting) for each, setting in value.items()
            }
        else:
            defaults[name] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def config_option(command: Function) -> Function:
    """`--config FILE`: options from a TOML file, `-o` ones in its table `[option]`."""
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        callback=_config,
        is_eager=True,
        expose_value=False,
        help="TOML file with options by their names; a table [option] for -o.",
    )(command)


def pairs_option(what: str) -> Callable[[Function], Function]:
    """`-o key=value`, as often as wanted, into a dict."""

    def parse(
        context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
    ) -> dict[str, str]:
        pairs: dict[str, str] = dict(context.meta.get("option", {}))
        for value in values:
            key, equals, rest = value.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"'{value}' is not of the form key=value.")
            pairs[key.strip().replace("-", "_")] = rest
        return pairs

    return click.option(
        "-o",
        "--option",
        multiple=True,
        callback=parse,
        metavar="KEY=VALUE",
        help=f"{what}; `libgraph backends NAME` lists them.",
    )


def verbosity_options(command: Function) -> Function:
    """`-q` and `-v`."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Log what is done in detail.")
    return quiet(verbose(command))


ANALYSIS = (
    click.option(
        "--integration",
        metavar="RULE",
        help="gradient, trapezoid[:POINTS] or gauss-legendre[:POINTS].  [gradient]",
    ),
    click.option(
        "--signs",
        type=int,
        help="Estimate interactions from this many random signs; 0: exact.  [0]",
    ),
    click.option(
        "--truncate",
        metavar="rel:TOL|abs:TOL",
        help="Drop directions with smaller eigenvalues.  [rel:1e-10]",
    ),
    click.option("--resolution", type=float, help="γ of Leiden: larger, smaller modules.  [1]"),
    click.option("--seed", type=int, help="Seed of Leiden and of random signs.  [0]"),
    click.option(
        "--sparse-features",
        type=int,
        metavar="K",
        help="Leading features that the sparse basis turns.  [all, at most 64]",
    ),
    click.option("--sparse-power", type=float, metavar="P", help="Of interactions in it.  [0.25]"),
    click.option("--sparse-steps", type=int, help="Of its optimiser.  [800]"),
    click.option(
        "--sparse-starts", type=int, help="LIB, PCA, then random rotations; the best.  [1]"
    ),
    click.option("--dtype", metavar="float32|float64", help="Of bases and edges.  [float64]"),
    click.option("--score-dtype", metavar="float32|float64", help="Of ablations.  [float32]"),
    click.option("--device", help="cpu, cuda, cuda:1, …  [cpu]"),
    click.option("--batch-size", type=int, help="Samples in a batch.  [what fits, at most 1024]"),
    click.option(
        "--memory",
        metavar="BYTES",
        help="For batches and kept activations: 4GiB, 500MB, …  [half of what is free]",
    ),
    click.option("--limit", type=int, help="Use only the first samples of each split."),
    click.option(
        "--tolerance",
        type=float,
        multiple=True,
        help="Δ: how much score edges may cost; can be repeated.  [the backend's: 0.001, 0.01 or "
        "0.05 nats]",
    ),
    click.option("--no-ablation", is_flag=True, help="Skip ablations; modules then use all edges."),
    click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Run directory.  [runs/BACKEND-TIME]",
    ),
    click.option(
        "--force", is_flag=True, help="Replace the run directory, reusing what still holds."
    ),
    click.option(
        "--dry-run", is_flag=True, help="Show layers and estimated cost, compute nothing."
    ),
)


def analysis_options(command: Function) -> Function:
    """What `analyze` and `compare` have in common: how to analyse, and where to write."""
    for add in reversed(ANALYSIS):
        command = add(command)
    return command


def analysis_values(
    given: Mapping[str, Any], tolerance: tuple[float, ...], no_ablation: bool
) -> dict[str, Any]:
    """Fields of `AnalysisOptions` from the flags that were given; the rest keep their defaults."""
    values = {name: value for name, value in given.items() if value is not None}
    if tolerance:
        values["tolerances"] = tolerance
    if no_ablation:
        values["ablate"] = False
    return values
