"""Memory that this process may still take: what the machine, the process and its container leave.

A limit of the process (`ulimit -v`, `ulimit -d`) counts addresses, one of a container (cgroups of
either version, as Docker, Kubernetes and Slurm set them) what is resident in all of its processes,
but for files that the system may drop. Each group counts, from the process's own up to the root.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

CGROUPS = Path("/sys/fs/cgroup")

OWN = Path("/proc/self/cgroup")


def available_memory() -> int:
    """Bytes that are free on the host and may be taken."""
    free = [int(psutil.virtual_memory().available), *_of_process(), *of_groups(CGROUPS, OWN)]
    return max(0, min(free))


def in_bytes(count: float) -> str:
    """A number of bytes to be read: 2.4 GB, 640 MB, 12 kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size or unit == 'GB' else 0}f} {unit}"
    return f"{math.ceil(count / 1e3)} kB"


def _of_process() -> Iterator[int]:
    """What limits of the process leave."""
    try:
        import resource
    except ImportError:
        # Of systems that have no such limits.
        return
    with suppress(OSError, ValueError, psutil.Error):
        used = psutil.Process().memory_info()
        for name, taken in (("RLIMIT_AS", used.vms), ("RLIMIT_DATA", getattr(used, "data", None))):
            limit = resource.getrlimit(getattr(resource, name))[0]
            if limit != resource.RLIM_INFINITY and taken is not None:
                yield limit - taken


def of_groups(root: Path, own: Path) -> Iterator[int]:
    """What each group of the process leaves that has a limit.

    Args:
        root: where cgroups are mounted.
        own: the file that says which are the process's own.
    """
    with suppress(OSError, ValueError):
        for line in own.read_text("utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                for mount in (root, root / "unified"):
                    yield from _up(mount, path, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
                yield from _up(root / "memory", path, *names)


def _up(mount: Path, path: str, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    """Of a group and all above it; within a container the path may be that of the host."""
    group = PurePosixPath(path.removeprefix("/"))
    for part in (group, *group.parents):
        folder = mount / part
        with suppress(OSError, ValueError):
            most = (folder / limit).read_text("utf-8").strip()
            if most == "max":
                continue
            taken = int((folder / used).read_text("utf-8"))
            yield int(most) - taken + _dropped(folder / "memory.stat", reclaimable)


def _dropped(file: Path, name: str) -> int:
    """Bytes of files in memory that the system drops where it needs room."""
    with suppress(OSError, ValueError):
        for line in file.read_text("utf-8").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
