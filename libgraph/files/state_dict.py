"""Which of the things that a checkpoint holds is the state dict of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from torch import Tensor

from libgraph.errors import BackendError

NOTES = {"hyper_parameters", "hparams", "config", "args", "loops", "callbacks", "lr_schedulers"}
"""What describes a training, beside a model; weights of classes may be in it."""


def state_dict_of(loaded: object, where: str) -> dict[str, Tensor]:
    """The tensors by name that a checkpoint holds, at its top or in the one state dict in it.

    Args:
        loaded: the checkpoint.
        where: what to call it in messages.

    Raises:
        BackendError: if it is no mapping, or holds several state dicts, or tensors in lists beside
            one.
    """
    if not isinstance(loaded, Mapping):
        raise BackendError(f"{where} holds a {type(loaded).__name__}, not a state dict.")
    found = list(_parts(loaded, "", set()))
    if not found:
        return _tensors(loaded)
    (place, part), *others = found
    if others or not isinstance(part, Mapping):
        places = ", ".join(f"'{name}'" if name else "its top" for name, _ in found)
        raise BackendError(
            f"{where} holds tensors in several places ({places}), which may not be left out: save "
            "the one state dict that is meant alone."
        )
    for name in _left_out(loaded, part, "", set()):
        raise BackendError(
            f"{where} holds '{name}' beside the state dict{f' {place!r}' if place else ''}, which "
            "may not be left out: save the state dict alone, whole."
        )
    return _tensors(part)


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without what DataParallel (`module.`) and torch.compile (`_orig_mod.`) add."""
    names = {name: name.replace("_orig_mod.", "") for name in tensors}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {old: new.removeprefix("module.") for old, new in names.items()}
    if len(set(names.values())) < len(names):
        return dict(tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def _left_out(value: object, part: object, path: str, seen: set[int]) -> Iterator[str]:
    """Paths of vectors of numbers, beside a state dict or as lists in it; none of an optimizer's.

    Whole numbers, such as states of random generators, and single ones, such as losses, are notes.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        if "param_groups" in value:
            return
        items = [(str(key), item) for key, item in value.items() if str(key) not in NOTES]
    elif isinstance(value, (list, tuple)):
        items = [(str(number), item) for number, item in enumerate(value)]
    else:
        return
    for key, item in items:
        name = f"{path}.{key}" if path else key
        if isinstance(item, Tensor):
            if value is not part and item.ndim and item.is_floating_point():
                yield name
        elif value is part and isinstance(item, (list, tuple)) and _are_numbers(item):
            yield name
        else:
            yield from _left_out(item, part, name, seen)


def _are_numbers(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(value, (int, float)) for value in values)


def _tensors(mapping: Mapping[object, object]) -> dict[str, Tensor]:
    return {str(name): value for name, value in mapping.items() if isinstance(value, Tensor)}


def _parts(value: object, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    """Where in a checkpoint there are matrices, by path; none of an optimizer's.

    A mapping of which some are values is one part. Numbers and vectors by themselves are notes,
    such as losses and weights of classes.
    """
    # What is in several places, or in itself, is looked at once.
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        if "param_groups" in mapping:
            return
        if any(_is_matrix(item) for item in mapping.values()):
            yield path, mapping
        for key, item in mapping.items():
            if not isinstance(item, Tensor):
                yield from _parts(item, f"{path}.{key}" if path else str(key), seen)
    elif isinstance(value, (list, tuple)):
        if any(_is_matrix(item) for item in value):
            yield path, value
        for item in value:
            if not isinstance(item, Tensor):
                yield from _parts(item, path, seen)


def _is_matrix(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_nested or value.ndim >= 2)
