"""Data sets from the network: fetched once, checked against their checksums, kept in the cache.

Nothing is fetched unless a user asks for it. What is in the cache under its final name is complete
and the very file that was published; each way to fail becomes one sentence that says what else to
do. The work is pooch's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from libgraph.backend import BackendError, DataError, missing_extra

ELSEWHERE = "download it elsewhere and give its folder with -o data=DIR"


def fetch(name: str, files: Mapping[str, str], *, extra: str) -> Path:
    """Files in the user's cache, downloaded unless they are there already.

    Args:
        name: of the data set, and of its folder in the cache.
        files: the checksum of each file by its URL, such as `md5:…`.
        extra: of this package, that installs what downloads need.

    Returns:
        The folder, with the files under the last part of their URLs.

    Raises:
        BackendError: if pooch is not installed.
        DataError: if a file cannot be reached, is not the one expected, or cannot be kept.
    """
    pooch = _pooch(extra)
    folder = Path(pooch.os_cache("libgraph")) / name
    for url, checksum in files.items():
        with _explained(url, folder):
            pooch.retrieve(
                url,
                checksum,
                fname=url.rpartition("/")[2],
                path=folder,
                progressbar=sys.stderr.isatty(),
            )
    return folder


def fetch_archive(name: str, url: str, checksum: str, content: str, *, extra: str) -> Path:
    """A folder out of a tar archive, in the user's cache, downloaded unless it is there already.

    Args:
        name: of the data set, and of its folder in the cache.
        url: of the archive.
        checksum: of the archive, such as `md5:…`.
        content: name of the folder in the archive.
        extra: of this package, that installs what downloads need.

    Returns:
        That folder, unpacked.

    Raises:
        BackendError: if pooch is not installed.
        DataError: if the archive cannot be reached, is not the one expected, or cannot be kept.
    """
    pooch = _pooch(extra)
    unpacked = Path(pooch.os_cache("libgraph")) / name / content
    with _explained(url, unpacked.parent):
        if unpacked.is_dir():
            return unpacked
    folder = fetch(name, {url: checksum}, extra=extra)
    # Unpacked beside its place and renamed: a full disk leaves no half of it under its name.
    with _explained(url, folder), TemporaryDirectory(dir=folder) as aside:
        unpack = pooch.Untar(extract_dir=Path(aside).name)
        unpack(str(folder / url.rpartition("/")[2]), "download", None)
        try:
            os.replace(Path(aside) / content, unpacked)
        except OSError:
            # Another process may have been faster.
            if not unpacked.is_dir():
                raise
    return unpacked


def _pooch(extra: str) -> Any:
    try:
        import pooch
        import tqdm  # noqa: F401  # Without it pooch has no progress bar.
    except ImportError as error:
        raise BackendError(
            missing_extra(f"Downloads need pooch and tqdm ({error})", extra)
        ) from error
    return pooch


@contextlib.contextmanager
def _explained(url: str, folder: Path) -> Iterator[None]:
    """Turn a failed download into one sentence; pooch's log stays off the screen."""
    import pooch
    from requests import exceptions

    log = pooch.get_logger()
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    except exceptions.HTTPError as error:
        # The status and its name stand before the address, which is said here anyway.
        answer = str(error).partition(" for url")[0]
        raise DataError(f"The server answers '{answer}' for '{url}': {ELSEWHERE}.") from None
    except (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError):
        raise DataError(f"The download of '{url}' broke off: run again, or {ELSEWHERE}.") from None
    except exceptions.RequestException:
        raise DataError(
            f"'{url}' cannot be reached: run again with a network, or {ELSEWHERE}."
        ) from None
    except ValueError:
        raise DataError(
            f"What came from '{url}' does not have the right checksum, and was not kept: run "
            f"again, or {ELSEWHERE}."
        ) from None
    # After the errors of requests, which are errors of the system too.
    except OSError as error:
        advice = "free some space" if error.errno == errno.ENOSPC else "make it writable"
        raise DataError(
            f"'{folder}' cannot keep '{url}' ({error.strerror or error}): {advice}, or {ELSEWHERE}."
        ) from None
    finally:
        log.setLevel(level)
