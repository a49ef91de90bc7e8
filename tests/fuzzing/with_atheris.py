"""A reader under atheris, guided by which lines of ours are run; arguments are READER and RUNS."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))

with atheris.instrument_imports(include=["libgraph", "libgraph_backends", "libgraph_cli"]):
    from helpers.readers import READERS, attempt, prepared


def main(name: str, runs: int) -> None:
    """Try so many files; one that is not read as it should be ends the process."""
    reader, folder, corpus = READERS[name], Path(mkdtemp()), Path(mkdtemp())
    for number, content in enumerate(prepared(reader, folder)):
        (corpus / str(number)).write_bytes(content)
    longest = 4 * max(path.stat().st_size for path in corpus.iterdir())
    # Memory is watched in `attempt`, against the size of each file.
    arguments = [f"-runs={runs}", f"-max_len={longest}", "-rss_limit_mb=0"]
    arguments += [f"-artifact_prefix={folder}/"]
    atheris.Setup(
        [sys.argv[0], *arguments, str(corpus)], lambda content: attempt(reader, folder, content)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
