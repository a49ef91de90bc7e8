"""Somebody's samples: tensors, data sets and functions that give them, by split."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from libgraph.backend import DataError, Split
from libgraph_backends.pytorch.imports import called, named

TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")


class Samples(NamedTuple):
    """Inputs and targets of one split; targets are None where there are none."""

    inputs: Tensor
    targets: Tensor | None


def read(place: str) -> object:
    """What `data=` names: what it is, or what it returns, by split if it takes one.

    Raises:
        BackendError: if it is not there, or fails.
    """
    found = named(place, "data")
    if not callable(found) or isinstance(found, torch.utils.data.Dataset):
        return found
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    if "split" in parameters:
        return {split: called(place, found, split=split) for split in ("train", "test")}
    if "train" in parameters:
        flags = {"train": True, "test": False}
        return {split: called(place, found, train=flag) for split, flag in flags.items()}
    return called(place, found)


def splits_of(given: object, test_share: float, limit: int | None) -> dict[Split, Samples]:
    """Training and test samples of whatever somebody gives.

    Args:
        given: inputs, `(inputs, targets)`, a data set of such pairs, or two of these by split, as a
            mapping or a pair.
        test_share: of the samples, held out where there are no splits: the last ones.
        limit: of the training samples.

    Raises:
        DataError: if it is nothing of the kind, or there are too few.
    """
    train, test = _two(given)
    samples = _samples(train, "train")
    if test is None:
        held = max(1, round(test_share * len(samples.inputs)))
        if len(samples.inputs) - held < 2:
            raise DataError(f"{len(samples.inputs)} samples are too few: give at least 3.")
        tests = Samples(*(None if t is None else t[-held:] for t in samples))  # type: ignore[arg-type]
        samples = Samples(*(None if t is None else t[:-held] for t in samples))  # type: ignore[arg-type]
    else:
        tests = _samples(test, "test")
        if (tests.targets is None) != (samples.targets is None):
            raise DataError("One of the splits has targets and the other has none.")
    samples = Samples(*(None if t is None else t[:limit] for t in samples))  # type: ignore[arg-type]
    return {"train": samples, "test": tests}


def _two(given: object) -> tuple[object, object | None]:
    """Training and test data, where they are apart."""
    if isinstance(given, Mapping):
        train = next((given[name] for name in TRAIN if name in given), None)
        test = next((given[name] for name in TEST if name in given), None)
        if train is None:
            raise DataError(
                f"The data have {', '.join(map(repr, given))}: name the splits 'train' and 'test'."
            )
        return train, test
    if isinstance(given, (tuple, list)) and len(given) == 2 and not _is_array(given[0]):
        return given[0], given[1]
    return given, None


def _is_array(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _samples(given: object, split: str) -> Samples:
    if _is_array(given):
        return Samples(_tensor(given, split, "inputs"), None)
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(map(_is_array, given)):
        inputs, targets = (_tensor(part, split, name) for part, name in zip(
            given, ("inputs", "targets"), strict=True))  # fmt: skip
    elif hasattr(given, "__getitem__") and hasattr(given, "__len__") and len(given):
        inputs, targets = _of_data_set(given, split)
    else:
        raise DataError(
            f"The {split} data are a {type(given).__name__}: give (inputs, targets) as tensors, or "
            "a data set with a length whose items are such pairs."
        )
    if len(inputs) != len(targets):
        raise DataError(f"The {split} data have {len(inputs)} inputs, but {len(targets)} targets.")
    return Samples(inputs, targets)


def _of_data_set(given: object, split: str) -> tuple[Tensor, Tensor]:
    items = [given[i] for i in range(len(given))]  # type: ignore[index, arg-type]
    if not all(isinstance(item, (tuple, list)) and len(item) == 2 for item in items):
        raise DataError(f"The items of the {split} data are no pairs of an input and its target.")
    try:
        inputs = torch.stack([torch.as_tensor(item[0]) for item in items])
        targets = torch.stack([torch.as_tensor(item[1]) for item in items])
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"The items of the {split} data are not all tensors of one shape ({reason}): give the "
            "data set a transform that makes them so."
        ) from error
    return inputs, targets


def _tensor(given: object, split: str, what: str) -> Tensor:
    try:
        tensor = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"The {what} of the {split} data are no numbers.") from None
    if tensor.ndim == 0 or not len(tensor):
        raise DataError(f"The {what} of the {split} data have no samples, samples first.")
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise DataError(f"The {what} of the {split} data hold NaN or infinite values.")
    return tensor
