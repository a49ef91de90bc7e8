"""Watching what a call takes: time of the processor, and memory of the process."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 5.0
"""Seconds of the processor that a small file may take."""

TIMES, SMALL = 10, 2**26
"""Bytes that may be taken for each byte of a file, and so many more for any."""

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TooMuch(BaseException):
    """No reader takes it for an error of its file."""


def _kilobytes(*names: str) -> list[int]:
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return [int(lines[name].split()[0]) * 1024 for name in names]


@contextmanager
def within_limits(size: int) -> Iterator[None]:
    """Raise `TooMuch` if reading a file of so many bytes takes too long, or too much memory."""

    def stop(*_: object) -> None:
        raise TooMuch(f"takes more than {LONGEST} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    began = time.process_time()
    counts = STATUS.exists() and REFERENCES.exists()
    if counts:
        REFERENCES.write_text("5")
        resident, mapped, peak = _kilobytes("VmRSS", "VmSize", "VmPeak")
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if time.process_time() - began > LONGEST:
        raise TooMuch(f"took {time.process_time() - began:.1f} s")
    if counts:
        most, highest = _kilobytes("VmHWM", "VmPeak")
        room = TIMES * size + SMALL
        if most - resident > room:
            raise TooMuch(f"took {(most - resident) >> 20} MiB for {size} bytes")
        # Addresses count where a peak of before hides nothing; threads take some, unused.
        if highest > peak and highest - mapped > room + 2**28:
            raise TooMuch(f"asked for {(highest - mapped) >> 20} MiB for {size} bytes")
