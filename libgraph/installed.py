"""What is installed of this project, and the command that adds to it.

The distribution is called otherwise than the package: `libgraph` on the package index is somebody
else's. How to add an extra depends on where this installation came from: a clone, a file, the
index, a repository. Installers note that in `direct_url.json` (PEP 610) and `INSTALLER`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path

DISTRIBUTION = "libgraph-interp"
"""What the package index calls this project."""


def pip_install(*requirements: str) -> str:
    """The command that installs something into this very environment.

    Args:
        requirements: as installers take them, such as `pandas` or `libgraph-interp[report]`.
    """
    return " ".join((_installer(), *map(shlex.quote, requirements)))


def install_extra(extra: str, distribution: str = DISTRIBUTION) -> str:
    """The command that adds an extra of a distribution, from where that was installed from.

    Args:
        extra: its name, such as `report`.
        distribution: whose extra it is.
    """
    of_index = f"{distribution}[{extra}]"
    source = _source(distribution)
    address = str(source.get("url", ""))
    path = _path(address)
    if path is None:
        return pip_install(f"{of_index} @ {_pinned(source, address)}" if address else of_index)
    if not path.exists():
        # What it was installed from is gone.
        return pip_install(of_index)
    folder = source.get("dir_info")
    editable = isinstance(folder, dict) and folder.get("editable") is True
    place = "." if path == _here() else str(path)
    return pip_install(*["-e"] * editable, f"{place}[{extra}]")


def extras(distribution: str = DISTRIBUTION) -> list[str]:
    """Names of the extras that a distribution has; none if it is not installed."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        return list(metadata(distribution).get_all("Provides-Extra") or [])
    except PackageNotFoundError:
        return []


def _installer() -> str:
    """`pip install`, if that is the pip of this Python, or what does the same for it."""
    if _noted("INSTALLER", DISTRIBUTION).strip() == "uv":
        return "uv pip install"
    python = Path(sys.executable)
    found = shutil.which("pip")
    if found is not None and Path(found).parent == python.parent:
        return "pip install"
    here = _here()
    if here is not None and python.is_relative_to(here):
        python = python.relative_to(here)
    return f"{shlex.quote(str(python))} -m pip install"


def _source(distribution: str) -> dict[str, object]:
    """Where the distribution came from, as its installer has noted it; nothing for the index."""
    with suppress(ValueError):
        noted = json.loads(_noted("direct_url.json", distribution) or "{}")
        if isinstance(noted, dict):
            return noted
    return {}


def _noted(file: str, distribution: str) -> str:
    """What stands in a file of the distribution's metadata, if there is one."""
    from importlib.metadata import PackageNotFoundError, files

    with suppress(PackageNotFoundError, OSError, UnicodeError):
        for path in files(distribution) or ():
            if path.name == file and path.parent.name.endswith(".dist-info"):
                return path.read_text(encoding="utf-8")
    return ""


def _path(address: str) -> Path | None:
    """The place on this disk that an address names, if it names one."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    parts = urlsplit(address)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _pinned(source: dict[str, object], address: str) -> str:
    """An address that an installer takes, of a repository with its commit."""
    repository = source.get("vcs_info")
    if not isinstance(repository, dict):
        return address
    return f"{repository.get('vcs', 'git')}+{address}@{repository.get('commit_id', 'HEAD')}"


def _here() -> Path | None:
    """The current directory, if there still is one."""
    with suppress(OSError):
        return Path(os.getcwd())
    return None
