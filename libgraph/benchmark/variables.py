"""Compiled programs: which variables read which, found in the features of any basis.

A feature may be of several variables: each has the share of it that lies in the variable's
coordinates of what the feature writes. The interaction of two variables is then the sum of their
features' interactions, each by both shares. What is true, and what counts as a candidate, is in
docs/tracr.md.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from libgraph.backend.data import Data
from libgraph.benchmark.compiled import Compiled, ProgramOptions, load
from libgraph.benchmark.known import Known
from libgraph.benchmark.scores import area_under_curve, average_precision
from libgraph.edges.interactions import interactions
from libgraph.network.basis import Bases, Basis
from libgraph.network.network import Network
from libgraph.sections.quadrature import Quadrature

PROGRAMS = ("count", "detect_pattern", "frac_prevs", "hist", "pair_balance", "reverse", "sort",
            "sort_freq", "sort_unique")  # fmt: skip
"""Those with false candidates and less than a minute's work."""

ROUNDING = 1e-12
"""Root mean squares below this share of the largest are rounding, and count as none."""


def compiled(name: str) -> Known:
    """A program with its longest inputs.

    Args:
        name: of a program.
    """
    longest = load(name).description.longest
    program = Compiled(ProgramOptions(program=name, length=longest))
    inputs = next(iter(Data(program, "train", program.samples("train")))).inputs
    return Known("tracr", program.network().double(), inputs, {}, program=program)


def edges_of_variables(
    network: Network, program: Compiled, data: Data, bases: Bases
) -> dict[str, dict[str, float]]:
    """AUROC and average precision of interactions between variables, by program.

    Args:
        network: of the program, in double precision.
        program: whose variables they are.
        data: its inputs.
        bases: of all node layers.
    """
    edges = interactions(network, {"it": bases}, data, Quadrature.gradient())["it"]
    names = list(program.variables)
    scores: list[float] = []
    truth: list[bool] = []
    for (a, b, _), reads in zip(network.pairs, program.reads, strict=True):
        matrix = edges[a.name, b.name].cpu().double()
        found = shares(program, bases[b.name]) @ matrix @ shares(program, bases[a.name]).T
        scores += [float(found[names.index(v), names.index(u)]) for u, v in reads]
        truth += reads.values()
    values = np.sqrt(scores)
    values[values < ROUNDING * values.max()] = 0
    name = program.description.name
    return {
        "edge AUROC": {name: area_under_curve(values, np.array(truth))},
        "edge precision": {name: average_precision(values, np.array(truth))},
    }


def shares(program: Compiled, basis: Basis) -> Float[Tensor, "v k"]:
    """Of every feature, what share of what it writes is in each variable; none of the constant's.

    Args:
        program: whose variables they are.
        basis: of one node layer.
    """
    squares = basis.decoder.cpu().double().square()[:, :-1]
    whole = squares.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    found = torch.stack([squares[:, which].sum(1) for which in program.variables.values()])
    found = found / whole
    found[:, : basis.isolated] = 0
    return found
