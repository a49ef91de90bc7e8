"""What learned dictionaries are going to take, from their first step on a few samples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from libgraph.bases.learned.coordinates import coordinates
from libgraph.bases.learned.options import CODING_ROUNDS, SAMPLES, dictionary_options
from libgraph.bases.learned.problem import Problem
from libgraph.bases.lib import lib
from libgraph.bases.method import Probe
from libgraph.bases.statistics import node_statistics
from libgraph.progress import silent


def dictionary_seconds(probe: Probe) -> float:
    """Of all steps, as one takes on as few samples, and of what dictionaries begin with.

    That may take an hour: it is as a round of coding gradients takes at the largest node layer,
    n m K operations or more with n gradients in proportion to K.
    """
    network, options = probe.network, dictionary_options(probe.options)
    wanted = max(1, options.batch // probe.positions)
    count = min(wanted, max(1, SAMPLES // probe.positions), probe.limit or SAMPLES)
    data = replace(probe.data, limit=count, batch_size=count)
    statistics = node_statistics(network, data)
    bases = lib(network, statistics, data, probe.truncation, silent)
    places = coordinates(network, statistics, bases, options.metric, probe.truncation)
    if not places:
        return 0.0
    problem = Problem.of(network, places, bases, data, options)
    begun = problem.start(rounds=0)
    sizes = {name: problem.count(name) ** 2 * place.size for name, place in places.items()}
    largest = max(sizes, key=sizes.__getitem__)
    start = probe.seconds(partial(problem.start_of, largest, 0))
    if options.gradients > 0:
        with_one = probe.seconds(partial(problem.start_of, largest, 1))
        start += CODING_ROUNDS * max(0.0, with_one - start)
    start *= sum(sizes.values()) / sizes[largest]
    for key, value in begun.items():
        value.requires_grad_(not key.endswith("/quiet"))
    optimizer = torch.optim.Adam([value for value in begun.values() if value.requires_grad])

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        problem.loss(begun, 0).backward()
        optimizer.step()

    with torch.enable_grad():
        return start + probe.seconds(step) * options.steps
