"""`WORLD_SIZE` with a `torchrun` job behind it, and without one."""

from __future__ import annotations

import pytest
from helpers.commands import fails

from libgraph.errors import UsageError
from libgraph_cli import ranks
from libgraph_cli.ranks import NEEDED, job_size, ranks_joined

JOB = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def job(monkeypatch):
    """Sets what a job sets."""

    def set_job(**changes: str) -> None:
        for name in ("WORLD_SIZE", *NEEDED):
            monkeypatch.delenv(name, raising=False)
        for name, value in changes.items():
            monkeypatch.setenv(name, value)

    return set_job


@pytest.mark.parametrize(
    ("environment", "size"),
    [
        ({}, 1),
        ({"WORLD_SIZE": ""}, 1),
        ({"WORLD_SIZE": " 1"}, 1),
        ({"WORLD_SIZE": "4"}, 1),
        ({**JOB, "WORLD_SIZE": "1"}, 1),
        (JOB, 2),
    ],
)
def test_the_size_of_a_job(environment, size):
    assert job_size(environment) == size


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is no number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 is no number"),
        ({"WORLD_SIZE": "²"}, "is no number"),
        ({"MASTER_ADDR": ""}, "without MASTER_ADDR"),
        ({"RANK": "2"}, "RANK=2 is none of WORLD_SIZE=2"),
        ({"RANK": "-1"}, "RANK=-1"),
    ],
)
def test_half_a_job_is_refused(changes, part):
    with pytest.raises(UsageError, match=part):
        job_size({**JOB, **changes})


def test_the_command_refuses_it_in_a_sentence(run, job):
    job(WORLD_SIZE="2", RANK="0")
    fails(run("analyze", "mlp"), 2, "without MASTER_ADDR and MASTER_PORT", "torchrun")


def test_what_is_not_shared_out_is_refused(run, job):
    job(**JOB)
    fails(run("train", "mlp"), 2, "libgraph train is not shared out", "without torchrun")


def test_a_number_of_processes_alone_is_no_job(capsys, job):
    job(WORLD_SIZE="4")
    with ranks_joined("cpu") as speaks:
        assert speaks
    assert "one process does all" in capsys.readouterr().err


def test_ranks_that_do_not_come_are_told(capsys, job, monkeypatch):
    import time

    from torch import distributed

    def wait(*_: object, **__: object) -> None:
        time.sleep(0.2)
        raise distributed.DistStoreError("Timed out after 1800 seconds.\nmore")

    monkeypatch.setattr(distributed, "rendezvous", wait)
    monkeypatch.setattr(ranks, "PATIENCE", 0.01)
    job(**JOB)
    with pytest.raises(UsageError, match="Timed out after 1800 seconds"), ranks_joined("cpu"):
        pass
    assert "Waiting for the other processes of WORLD_SIZE=2" in capsys.readouterr().err
