"""The command as one rank of a job, with something that goes wrong: `python job.py FAULT …`.

FAULT is `none`, or `KIND-RANK-BATCH`: what happens to a rank before it measures that batch; or
`KIND-RANK-step-NUMBER`: after so many steps of a descent.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable


def inject(kind: str, at: int, *, steps: bool) -> None:
    """Have it happen before batch `at` that this process measures, or step that it takes."""
    import torch

    from libgraph.accumulate.exact import ExactSums
    from libgraph.errors import DataError

    place, name = (torch.optim.Adam, "step") if steps else (ExactSums, "add")
    inner: Callable[..., object] = getattr(place, name)
    count = 0

    def faulty(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count == at:
            if kind == "raise":
                raise DataError("The data of this rank alone are damaged: look at them.")
            if kind == "break":
                raise ZeroDivisionError("a mistake of ours")
            if kind == "sleep":
                time.sleep(8)
            else:
                os.kill(os.getpid(), getattr(signal, kind))
        return inner(*arguments)

    setattr(place, name, faulty)


def main() -> None:
    """Run the command."""
    from libgraph_cli.main import main as command

    # Whoever starts tests in the background may ignore it, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fault = sys.argv.pop(1)
    if fault != "none":
        kind, rank, *what, at = fault.split("-")
        if os.environ["RANK"] == rank:
            inject(kind, int(at), steps=what == ["step"])
    command()


if __name__ == "__main__":
    main()
