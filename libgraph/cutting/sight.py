"""Masks of attention: who sees whom."""

from __future__ import annotations

import torch

from libgraph.cutting.values import Value
from libgraph.sections import AttentionMask


def sight_of(mask: Value | None, causal: bool, count: int) -> AttentionMask | None:
    """Who sees whom, if it is one of the ways that sections know."""
    back = torch.arange(count).unsqueeze(1) - torch.arange(count)
    hidden = AttentionMask(causal=causal).hidden(back)
    if mask is not None:
        constant = mask.constant
        if constant is None and mask.target is not None and not mask.depends:
            constant = mask.args[0].constant
        if constant is None:
            return None
        if constant.shape[-2:] != (count, count):
            constant = constant.expand(*constant.shape[:-2], count, count)
        table = constant.reshape(-1, count, count)
        if not bool((table == table[:1]).all()):
            return None
        if table.dtype == torch.bool:
            hidden = hidden | ~table[0]
        else:
            away = table[0] <= -1e4
            if bool(table[0][~away].any()):
                return None
            hidden = hidden | away
    kinds = [(kind, window) for window in (None, *range(1, count)) for kind in (False, True)]
    for kind, window in kinds:
        sight = AttentionMask(causal=kind, window=window)
        if torch.equal(sight.hidden(back), hidden):
            return sight
    return None
