"""Values that something is divided by: they are left in as they are where others are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from libgraph.cutting import functions
from libgraph.cutting.kinds import is_elementwise, name_of
from libgraph.cutting.values import Program, Value, run_once

VIEWS = {"reshape", "view", "expand", "unsqueeze", "squeeze", "every_channel"}


def is_divided_by(value: Value, users: Mapping[Value, Sequence[Value]]) -> bool:
    """Whether a function of each of its numbers alone is infinite where they are zero."""
    stack, ends = [value], []
    while stack:
        for user in users.get(stack.pop(), ()):
            alone = len(dict.fromkeys(user.sources)) == 1
            if user.target is functions.divide or not alone:
                continue
            if name_of(user) in VIEWS or is_elementwise(user):
                stack.append(user)
                if name_of(user) in ("reciprocal", "rsqrt", "pow", "log", "log2", "log10"):
                    ends.append(user)
    if not ends or value.shape is None:
        return False
    zeros = torch.zeros(value.concrete(1), dtype=torch.float64)
    results = run_once(Program([value], ends), zeros)
    return not all(bool(result.isfinite().all()) for result in results)
