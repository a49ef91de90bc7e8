"""What limits of the process and of its container leave, beside what the machine has."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from libgraph.files.limits import available_memory, in_bytes, of_groups

GB = 2**30


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 kB"),
        (1, "1 kB"),
        (20_480, "21 kB"),
        (1_048_576, "1.0 MB"),
        (52_428_800, "52 MB"),
        (999_000_000, "999 MB"),
        (1_073_741_824, "1.1 GB"),
        (8e12, "8000.0 GB"),
    ],
)
def test_bytes_are_told_in_a_unit_that_says_something(count, text):
    assert in_bytes(count) == text


def group(folder, names, most, used, dropped, key):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (most, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"cache 1\n{key} {dropped}\nrss 2\n")


SECOND = (("memory.max", "memory.current"), "inactive_file")
FIRST = (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file")


def own(tmp_path, text):
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


@pytest.mark.parametrize("mount", ["", "unified"])
def test_the_second_version_of_groups_up_to_the_root(tmp_path, mount):
    root = tmp_path / "sys"
    names, key = SECOND
    group(root / mount / "a" / "b", names, 4 * GB, 3 * GB, GB, key)
    group(root / mount / "a", names, 8 * GB, 7.5 * GB // 1, 0, key)
    (root / mount / "a" / "memory.current").write_text(str(7 * GB))
    group(root / mount, names, "max", 9 * GB, 0, key)
    found = list(of_groups(root, own(tmp_path, "3:cpu:/x\n0::/a/b\n")))
    assert found == [2 * GB, GB]


def test_the_first_version_of_groups(tmp_path):
    names, key = FIRST
    group(tmp_path / "sys" / "memory" / "a", names, 2 * GB, GB, 512, key)
    text = "5:cpu,cpuacct:/a\n4:memory,hugetlb:/a\n"
    assert list(of_groups(tmp_path / "sys", own(tmp_path, text))) == [GB + 512]


def test_a_path_of_the_host_within_a_container(tmp_path):
    names, key = FIRST
    group(tmp_path / "sys" / "memory", names, 2 * GB, GB, 0, key)
    text = "4:memory:/docker/0123\n"
    assert list(of_groups(tmp_path / "sys", own(tmp_path, text))) == [GB]


@pytest.mark.parametrize("text", ["", "nonsense\n", "4:memory:/gone\n", "\xff"])
def test_groups_of_which_nothing_is_known(tmp_path, text):
    assert list(of_groups(tmp_path / "sys", own(tmp_path, text))) == []
    assert list(of_groups(tmp_path / "sys", tmp_path / "missing")) == []


def test_what_is_free_is_no_more_than_the_machine_has():
    assert 0 < available_memory() <= psutil.virtual_memory().total


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process(name):
    pytest.importorskip("resource")
    code = (
        "import resource, psutil\n"
        "from libgraph.files.limits import available_memory\n"
        "used = psutil.Process().memory_info()\n"
        f"taken = used.vms if {name!r} == 'RLIMIT_AS' else used.data\n"
        f"resource.setrlimit(resource.{name}, (taken + 2**28, resource.RLIM_INFINITY))\n"
        "print(available_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**27 < int(done.stdout) <= 2**28
