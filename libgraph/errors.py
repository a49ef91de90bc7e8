"""Errors that a user can do something about.

Every message is one sentence: what is wrong, and what to do. The command line prints it and exits
with the class's `exit_code`; anything else that is raised is a bug in this project.
"""

import errno


class LibgraphError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device: PyTorch says so in several ways."""
    allocator = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    named = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return named or allocator or system


class UsageError(LibgraphError):
    """A wrong option, a missing extra, or an output that cannot be written."""

    exit_code = 2


class DamagedFile(UsageError):  # noqa: N818
    """A file of a run that is missing, or not what was written."""


class MissingExtra(UsageError):  # noqa: N818
    """A library that is not installed; its message is made by :func:`missing_extra`."""


class TooLarge(UsageError):  # noqa: N818
    """More than can be shown or held, where less can be asked for."""


class LostRank(LibgraphError):  # noqa: N818
    """Another process of a `torchrun` job that has ended, or is not heard of any more."""


def missing_extra(need: str, extra: str, distribution: str = "") -> str:
    """The message about a library that is not installed, with the command that installs it.

    Args:
        need: who needs what, such as "Pictures need matplotlib".
        extra: that brings it.
        distribution: whose extra it is; ours by default, a plug-in names its own.
    """
    from libgraph.installed import DISTRIBUTION, install_extra

    return f"{need}: run {install_extra(extra, distribution or DISTRIBUTION)}."


class BackendError(LibgraphError):
    """An unknown backend, or a model or weights that cannot be used."""

    exit_code = 3


class DataError(LibgraphError):
    """Data that are missing, empty or malformed."""

    exit_code = 4


class NumericalError(LibgraphError):
    """NaN, infinity or a vanishing quantity where a finite number is needed."""

    exit_code = 5
