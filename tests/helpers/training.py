"""Trainings that are interrupted, and taken up again."""

from dataclasses import replace
from unittest.mock import patch

import pytest

from libgraph import fit as fit_module
from libgraph.backend.train import train

EVALUATED_EVERY = 3
"""Steps between checkpoints, in place of hundreds."""


def interrupted_and_resumed(module, backend, options, directory):
    """Stop a training of `backend` in its fifth step, and take it up again.

    Args:
        module: the backend's training module, which has imported `fit`.
        backend: its class.
        options: of a training of at least six steps.
        directory: where the model goes.

    Returns:
        The record of the second training, and the steps that it took.
    """

    def often(parameters, loss, course, **named):
        course = replace(course, evaluate_every=EVALUATED_EVERY)
        return fit_module.fit(parameters, loss, course, **named)

    def stop(stage, done, total, note=""):
        if done == 5:
            raise KeyboardInterrupt

    steps = []
    with patch.object(module, "fit", often):
        with pytest.raises(KeyboardInterrupt):
            train(backend, options, directory, progress=stop)
        assert (directory / fit_module.CHECKPOINT).is_file()
        record = train(backend, options, directory, progress=lambda *event: steps.append(event[1]))
    return record, steps
