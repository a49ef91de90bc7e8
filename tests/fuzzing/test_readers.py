"""Files that are damaged or made up: one sentence, soon, and without much memory."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.damage import damaged
from helpers.readers import READERS, attempt, prepared
from hypothesis import HealthCheck, given, settings

EVERY_DAY, THOROUGH = 1000, 100_000
"""Files that are tried, of all readers together."""


def damage(name, folder, count):
    """Have a reader read so many damaged files."""
    reader = READERS[name]

    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(damaged(prepared(reader, folder)))
    def attempted(content):
        attempt(reader, folder, content)

    attempted()


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, tmp_path):
    damage(name, tmp_path, -(-EVERY_DAY // len(READERS)))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files(name, tmp_path):
    count = -(-THOROUGH // len(READERS))
    if find_spec("atheris") is None:
        damage(name, tmp_path, count)
        return
    script = Path(__file__).with_name("with_atheris.py")
    done = subprocess.run(
        [sys.executable, script, name, str(count)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {count} runs" in done.stderr, done.stderr[-4000:]
