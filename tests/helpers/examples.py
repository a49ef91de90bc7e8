"""How many examples Hypothesis tries: the same few every day, many new ones in `make test-all`."""

import os

from hypothesis import settings

PROFILE = os.environ.get("LIBGRAPH_TESTS", "ci")
"""`ci`, or `thorough`."""

MORE = 10
"""So many times as many examples are tried in the thorough profile."""

settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", deadline=None, derandomize=False, print_blob=True)


def examples(every_day: int) -> settings:
    """A decorator for a test that tries so many examples every day."""
    return settings(max_examples=every_day * MORE if PROFILE == "thorough" else every_day)
