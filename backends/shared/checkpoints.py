"""Checkpoints as people have them: which of their parameters are a model's.

What wrappers put before names, weights that are stored once for two places, parameters of other
models beside: all of that is read here. What does not fit is refused by name.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from libgraph.backend import BackendError
from libgraph_backends.shared.state_dicts import (
    StateDict,
    check_finite,
    read_checkpoint,
    wrong_shape,
)

log = logging.getLogger("libgraph")


BUFFERS = ("num_batches_tracked", "position_ids", "inv_freq", "attn.bias", "masked_bias")
"""Ends of names of what is no parameter, and is made anew."""


# What fits a module


def load_into(module: nn.Module, path: Path) -> None:
    """Put the parameters of a checkpoint into a module.

    A module that computes with fewer digits than are stored is converted first.

    Raises:
        BackendError: naming a parameter that is missing, of another shape, or has no place.
        NumericalError: naming one that is not finite.
    """
    state = read_checkpoint(path)
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = module.state_dict().keys()
    wanted = {name: tensor for name, tensor in own.items() if name in names}
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    fitted = fitting(state, shapes, tied_names(module))
    pairs = [(wanted[name].dtype, tensor.dtype) for name, tensor in fitted.items()]
    if any(
        torch.promote_types(own, stored) != own for own, stored in pairs if own.is_floating_point
    ):
        module.to(widest(kind for pair in pairs for kind in pair))
        wanted = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, tensor in fitted.items():
            check_finite(f"{state.where}: parameter '{name}'", tensor)
            wanted[name].copy_(tensor)


def widest(kinds: Iterable[torch.dtype]) -> torch.dtype:
    """The floating-point numbers that hold all of these as they are; single ones for none."""
    floating = [kind for kind in kinds if kind.is_floating_point]
    return reduce(torch.promote_types, floating) if floating else torch.float32


def fitting(
    state: StateDict,
    wanted: Mapping[str, tuple[int, ...]],
    tied: Sequence[Sequence[str]] = (),
) -> dict[str, Tensor]:
    """The tensors of a state dict by the names of a model.

    Names may have a prefix more or less than the model's, of whatever held the model. Of weights
    that the model uses in two places one is enough. Others than the model's own are left out, and
    named in a warning, if all of these are there; what begins as they do is refused.

    Args:
        state: what was read.
        wanted: shapes by name.
        tied: names that stand for one tensor.

    Raises:
        BackendError: naming a parameter that is missing, of another shape, or left over.
    """
    tensors = renamed(state.tensors, wanted)
    alike = {name: group for group in tied for name in group}
    fitted: dict[str, Tensor] = {}
    for name, shape in wanted.items():
        choices = [name, *(other for other in alike.get(name, ()) if other != name)]
        found = next((tensors[choice] for choice in choices if choice in tensors), None)
        if found is None:
            if name.endswith(BUFFERS):
                continue
            held = ", ".join(list(state.tensors)[:4])
            raise BackendError(
                f"{state.where}: there is no parameter '{name}' of the model in it; it holds {held}"
                f"{', …' if len(state.tensors) > 4 else ''}."
            )
        if tuple(found.shape) != shape:
            raise wrong_shape(state.where, name, found, shape)
        fitted[name] = found
    _check_rest(state, tensors, wanted, alike)
    return fitted


def renamed(tensors: Mapping[str, Tensor], wanted: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors by the names of a model, without the prefix that most of these have, or with it."""
    if not wanted or any(name in wanted for name in tensors):
        return dict(tensors)
    first = next(iter(wanted))
    found = Counter(prefix for name in tensors for prefix, rest in _parts(name) if rest in wanted)
    prefixes = {prefix for prefix in found if prefix + first in tensors}
    if prefixes:
        prefix = max(sorted(prefixes), key=lambda prefix: found[prefix])
        return {
            name.removeprefix(prefix) if name.startswith(prefix) else f"\0{name}": tensor
            for name, tensor in tensors.items()
        }
    ends: dict[str, str] = {}
    for name in wanted:
        for prefix, rest in _parts(name):
            ends.setdefault(rest, prefix)
    for name in tensors:
        if name in ends:
            return {ends[name] + key: tensor for key, tensor in tensors.items()}
    return dict(tensors)


def _parts(name: str) -> Iterator[tuple[str, str]]:
    """A name in two, after each of its dots."""
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def own_part(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """What `renamed` found to be of the model; says what is left out beside it."""
    rest = [name.removeprefix("\0") for name in tensors if name.startswith("\0")]
    if rest:
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        log.warning("%s holds '%s'%s, left out as not of the model.", where, rest[0], more)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("\0")}


def _check_rest(
    state: StateDict,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, object],
    alike: Mapping[str, Sequence[str]],
) -> None:
    """Refuse what is of this model and has no place; say what is of something else."""
    rest = [name for name in tensors if name not in wanted and name not in alike]
    rest = [name for name in rest if not name.endswith(BUFFERS)]
    parts = {name.partition(".")[0] for name in wanted}
    own = [name for name in rest if name.partition(".")[0] in parts]
    if own:
        raise BackendError(
            f"{state.where}: '{own[0]}' has no place in the model: it is of another one."
        )
    if rest:
        shown = rest[0].removeprefix("\0")
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        log.warning("%s holds '%s'%s, left out as not of the model.", state.where, shown, more)


def tied_names(module: nn.Module) -> list[list[str]]:
    """Names that stand for one tensor."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]
