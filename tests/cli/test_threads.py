"""Threads of commands that wait do not keep others from computing, unless the user wants that."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from libgraph_cli.threads import SETTINGS, SPIN_COUNT, spin_briefly

QUIET = {name: value for name, value in os.environ.items() if name not in SETTINGS}


def shown(code: str, **settings: str) -> str:
    """What libgomp says of itself when it is loaded."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**QUIET, "OMP_DISPLAY_ENV": "verbose", **settings},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch does not run on libgomp here")
    return done.stderr


def test_nothing_is_changed_that_the_user_has_set():
    environment: dict[str, str] = {}
    spin_briefly(environment)
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
    for name in SETTINGS:
        environment = {name: "1"}
        spin_briefly(environment)
        assert environment == {name: "1"}


def test_libgomp_reads_it_before_a_command_needs_torch():
    command = (
        "import sys; from libgraph_cli.main import main\n"
        "sys.argv = ['libgraph', 'backends', 'modular-addition']\nmain()"
    )
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in shown(command + "; import torch")


def test_the_library_leaves_the_environment_of_its_caller_alone():
    code = (
        "import os; before = dict(os.environ)\n"
        "import libgraph as lg; lg.analyze; lg.load_backend('mlp')\n"
        "import libgraph_cli.main\n"
        "assert {k: v for k, v in os.environ.items() if 'GOMP' in k or 'OMP_' in k} == "
        "{k: v for k, v in before.items() if 'GOMP' in k or 'OMP_' in k}"
    )
    assert f"'{SPIN_COUNT}'" not in shown(code)
