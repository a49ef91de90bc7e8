"""Pages of mapped files are given back when there are enough of them, and not looked for before."""

import sys

import pytest

from libgraph_backends.lm import memory

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere pages are left to the system"
)


def test_pages_are_looked_for_when_there_are_enough(monkeypatch, tmp_path):
    mapped, looked = [0], []
    monkeypatch.setattr(memory, "_mapped_bytes", lambda: mapped[0])
    monkeypatch.setattr(memory, "_clean_mappings", lambda names: looked.append(mapped[0]) or [])
    let_go = memory.letting_go([tmp_path / "model.safetensors"])
    megabyte = 2**20
    # Nothing comes back here, so that as much again has to be mapped; others may unmap theirs.
    for size in (10, 63, 64, 100, 127, 128, 20, 83, 84):
        mapped[0] = size * megabyte
        let_go()
    assert looked == [64 * megabyte, 128 * megabyte, 84 * megabyte]
