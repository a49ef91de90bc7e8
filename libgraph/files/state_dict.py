"""Which of the things that a checkpoint holds is the state dict of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor

from libgraph.errors import BackendError


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
    (_, part), *others = found
    if others or not isinstance(part, Mapping):
        places = ", ".join(f"'{name}'" if name else "its top" for name, _ in found)
        raise BackendError(
            f"{where} holds tensors in several places ({places}), which may not be left out: save "
            "the one state dict that is meant alone."
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
