"""A first look at a backend: what an author gets wrong, told before anything long runs.

Its data are gone through once, its network is run on a few samples, its scores are looked at. What
is found is one sentence that names the method and says what to do.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from libgraph.backend.contract import Backend, Batch, Split
from libgraph.errors import (
    BackendError,
    DataError,
    LibgraphError,
    is_out_of_memory,
)
from libgraph.network.network import Network, check_shape

FEW = 4
"""Samples that the network is run on."""


TOGETHER = 1e-4
"""How far outputs of a sample alone may be from those among others, relative to the largest."""


Result = TypeVar("Result")


def attempt(what: str, call: Callable[[], Result], advice: str = "") -> Result:
    """What somebody's method gives; what it runs into becomes one sentence with its line.

    Raises:
        BackendError: if it raises anything but an error of this package, or a lack of memory.
    """
    try:
        return call()
    except LibgraphError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        text = " ".join(str(error).split())[:160].rstrip(". ")
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "/torch/" not in frame.filename and "/libgraph/" not in frame.filename
        ]
        line = f", at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        if "dtype" in text or "scalar type" in text:
            advice = (
                "a tensor in it is no parameter, buffer or part of a module, and so is not cast "
                "with the network: register it (nn.Module.register_buffer)"
            )
        advice = f" ({advice})" if advice else ""
        kind = type(error).__name__
        raise BackendError(f"{what} fails with {kind}: {text}{line}{advice}.") from error


def network_of(backend: Backend) -> Network:
    """The backend's network, if it is one.

    Raises:
        BackendError: if network() fails or gives something else.
    """
    network = attempt("network() of the backend", backend.network)
    if isinstance(network, Network):
        return network
    kind = type(network).__name__
    advice = (
        "lg.cut(module, example_inputs) makes one of it"
        if isinstance(network, nn.Module)
        else "it has to return a libgraph.Network"
    )
    raise BackendError(f"network() of the backend returns a {kind}: {advice}.")


def check_batch(batch: object, split: str, most: int | None = None) -> Batch:
    """A batch that is one: tensors, as many inputs as targets, no more than were asked for.

    Raises:
        BackendError: naming the split and what is wrong.
    """
    whose = f"batches('{split}') of the backend yields"
    if not isinstance(batch, Batch):
        raise BackendError(
            f"{whose} a {type(batch).__name__}: it has to yield Batch(inputs, targets) of "
            "libgraph.backend."
        )
    for name, tensor in zip(Batch._fields, batch, strict=True):
        if not isinstance(tensor, Tensor):
            raise BackendError(
                f"{whose} {name} that are a {type(tensor).__name__}: they have to be a tensor, "
                f"such as of torch.as_tensor({name})."
            )
        if tensor.ndim == 0:
            raise BackendError(f"{whose} {name} without a dimension of samples.")
    if len(batch.inputs) != len(batch.targets):
        raise BackendError(
            f"{whose} {len(batch.inputs)} inputs with {len(batch.targets)} targets: there has to "
            "be one target for each."
        )
    if most is not None and len(batch.inputs) > most:
        raise BackendError(
            f"{whose} {len(batch.inputs)} samples where {most} were asked for: it has to yield "
            "batch_size or fewer at a time."
        )
    return batch


def check_samples(backend: Backend, split: Split) -> int:
    """The number of samples that the backend says a split has.

    Raises:
        BackendError: if it is no number of samples.
    """
    count = attempt(f"samples('{split}') of the backend", lambda: backend.samples(split))
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise BackendError(
            f"samples('{split}') of the backend returns {count!r}: it has to return how many there "
            "are, a whole number."
        )
    return count


def check_data(backend: Backend, split: Split, batch_size: int) -> None:
    """Go through a split: as many samples as were said, the same ones each time.

    Raises:
        BackendError: naming the split and what is wrong.
        DataError: if it has no samples.
    """
    said = check_samples(backend, split)
    count, first = 0, None
    for batch in batches_of(backend, split, batch_size):
        batch = check_batch(batch, split, batch_size)
        first = batch if first is None else first
        count += len(batch.inputs)
    if first is None or not count:
        raise DataError(f"The {split} split of '{backend.name}' has no samples.")
    if count != said:
        raise BackendError(
            f"samples('{split}') of the backend is {said}, but its batches have {count} samples: "
            "both have to be the same."
        )
    again = check_batch(next(iter(batches_of(backend, split, batch_size))), split)
    if not all(_equal(a, b) for a, b in zip(first, again, strict=True)):
        raise BackendError(
            f"batches('{split}') of the backend yields other samples the second time: it has to "
            "yield the same ones in the same order, so shuffle with a seed, or not at all."
        )


def batches_of(backend: Backend, split: Split, batch_size: int) -> Iterable[object]:
    """The batches of a split, whatever they are.

    Raises:
        BackendError: if there is nothing to go through.
    """
    what = f"batches('{split}') of the backend"
    batches = attempt(what, lambda: backend.batches(split, batch_size))
    if not isinstance(batches, Iterable):
        raise BackendError(
            f"{what} returns a {type(batches).__name__}: it has to yield Batch(inputs, targets)."
        )
    iterator = iter(batches)
    while True:
        batch = attempt(what, lambda: next(iterator, None))
        if batch is None:
            return
        yield batch


def check_network(backend: Backend, network: Network, batch: Batch) -> None:
    """Run a network on a few samples of a batch, and score what comes out.

    Args:
        backend: whose network it is.
        network: in the precision of the batch.
        batch: its inputs are cast as the network is.

    Raises:
        BackendError: naming the node layer, section or method, and what is wrong.
    """
    inputs, targets = (tensor[:FEW] for tensor in batch)
    with torch.no_grad():
        x = attempt("The embedding of the network", lambda: network.embed(inputs.clone()))
        _check_activations(x, network, 0)
        for i, section in enumerate(network.sections):
            names = [layer.name for layer in network.node_layers[i : i + 2]]
            given = x
            what = f"The section {'->'.join(names)}"
            x = attempt(what, lambda section=section, given=given: section(given))  # type: ignore[misc]
            _check_activations(x, network, i + 1)
        if len(inputs) > 1 and x.is_floating_point():
            alone = attempt("The network", lambda: network(inputs[:1].clone()))
            scale = max(float(x.abs().max()), 1e-30)
            apart = float((alone - x[:1]).abs().max()) > TOGETHER * scale
            if apart and bool(x.isfinite().all()):
                raise BackendError(
                    "The network gives other outputs for a sample alone than among others: samples "
                    "must not see each other, as they do in a batch norm in training."
                )
        scores = attempt("score() of the backend", lambda: backend.score(x, targets))
    check_scores(scores, len(inputs))
    names, count = backend.output_names(), network.node_layers[-1].size
    if names and len(names) != count:
        raise BackendError(
            f"output_names() of the backend gives {len(names)} names for {count} outputs: it has "
            "to give one for each, or none."
        )


def check_scores(scores: object, count: int) -> Tensor:
    """Scores that are one number for each sample.

    Raises:
        BackendError: if they are not.
    """
    if not isinstance(scores, Tensor):
        raise BackendError(
            f"score() of the backend returns a {type(scores).__name__}: it has to return a tensor "
            "with one score a sample, not their mean."
        )
    if scores.shape != (count,):
        raise BackendError(
            f"score() of the backend returns shape {tuple(scores.shape)} for {count} samples: it "
            "has to return one score a sample."
        )
    if scores.is_complex():
        raise BackendError("score() of the backend returns complex numbers: scores are real ones.")
    return scores


def _check_activations(x: object, network: Network, index: int) -> None:
    layer = network.node_layers[index]
    if not isinstance(x, Tensor):
        raise BackendError(
            f"Node layer '{layer.name}' is given a {type(x).__name__}: activations are one tensor "
            "(samples, positions, coordinates)."
        )
    check_shape(x, layer)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
