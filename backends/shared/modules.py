"""Layers of somebody's module: found by running it, and held against what it computes.

A module is read by the calls that it makes: linear layers and pointwise activations, in whatever
order and however often it calls them. What it does beside them, in a forward of its own or in
hooks, is found by comparing outputs, and refused. Modules are taken as they are in evaluation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from libgraph.backend import BackendError, own_state
from libgraph_backends.shared.layers import ACTIVATIONS, Layer, affine, check_width, forward
from libgraph_backends.shared.running import (
    as_it_was,
    capitalised,
    dense,
    evaluating,
    outputs_of,
    placed,
    runnable,
    where_is,
)
from libgraph_backends.shared.state_dicts import check_finite

POINTWISE = (*ACTIVATIONS.values(), nn.Hardtanh, nn.ReLU6, nn.Mish, nn.Softsign, nn.LogSigmoid)
"""Modules that act on each unit by itself and hold no parameters."""


IGNORED = (nn.Identity, nn.Dropout, nn.AlphaDropout, nn.Flatten)
"""Modules that do nothing to a row of activations when nothing is trained."""


PROBES, TRACED, AT_ONCE = 64, 4, 4096
"""Samples that are made up where none are given; that are traced; that are compared at a time."""


AGREEMENT = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}
"""How far outputs may differ, relative to the largest of them: what precision comes to."""


NOISE = 8
"""Times the rounding of the layers themselves by which outputs may differ as well."""


SHAKEN = 4
"""Units in the last place by which inputs are moved, to see how rounding grows on the way."""


# Layers


@own_state()
def from_module(module: nn.Module, inputs: Tensor | None = None) -> list[Layer]:
    """The layers of a module that calls linear layers and activations one after the other.

    Args:
        module: any; it is left as it is.
        inputs: `(n, …)`, as the module takes them or to be flattened; by default normal ones.

    Raises:
        BackendError: naming the first layer that is neither; if the module cannot be run, or
            computes something else than its layers.
        NumericalError: naming the parameter that is not finite.
    """
    module = runnable(module)
    with as_it_was(module):
        return _read(module, inputs)


def _read(module: nn.Module, inputs: Tensor | None) -> list[Layer]:
    problems = []
    for candidate in _candidates(module, inputs):
        try:
            calls = _calls_of(module, candidate[:TRACED])
            break
        except BackendError as error:
            problems.append(error)
    else:
        raise problems[-1 if inputs is not None else 0]
    # Weights may be computed, and otherwise in training.
    with evaluating(module):
        layers = _layers(calls)
    _compare(module, layers, candidate)
    return layers


def _candidates(module: nn.Module, inputs: Tensor | None) -> Iterator[Tensor]:
    """What the module may take: inputs as they are or as rows, or normal ones of some width."""
    if inputs is None:
        generator = torch.Generator().manual_seed(0)
        widths = [part.in_features for part in module.modules() if isinstance(part, nn.Linear)]
        for width in dict.fromkeys(widths) or (1,):
            yield torch.randn(PROBES, width, generator=generator)
        return
    yield inputs
    if inputs.ndim > 2:
        yield inputs.flatten(1)


def _layers(calls: Sequence[tuple[str, nn.Module]]) -> list[Layer]:
    layers: list[Layer] = []
    for name, part in calls:
        if isinstance(part, nn.Linear):
            if 0 in (part.in_features, part.out_features):
                raise BackendError(
                    f"{capitalised(where_is(name))} has {part.in_features} inputs and "
                    f"{part.out_features} outputs: there is nothing to analyse."
                )
            if layers and part.in_features != layers[-1].matrix.shape[1]:
                raise BackendError(
                    f"The model does not call its layers one after the other: {where_is(name)} "
                    "reads something else than what the one before it gives."
                )
            layers.append(Layer(_affine(part, where_is(name)), None))
        elif isinstance(part, POINTWISE) and not isinstance(part, IGNORED):
            if not layers:
                raise BackendError(
                    f"The model begins with {_described(part)}: it has to begin with a linear "
                    "layer."
                )
            layers[-1] = _then(layers[-1], _plain(part, where_is(name)))
    if not layers:
        raise BackendError("The model has no linear layer.")
    return layers


def _affine(part: nn.Linear, where: str) -> Tensor:
    """Weight and bias, whatever they are computed from."""
    with torch.no_grad():
        weight, bias = part.weight, part.bias
    return affine(dense(weight), None if bias is None else dense(bias), where).cpu()


def _plain(part: nn.Module, where: str) -> nn.Module:
    """The same activation without hooks, and never in place."""
    kind: Callable[..., nn.Module] = next(kind for kind in type(part).__mro__ if kind in POINTWISE)
    names = [name for name in inspect.signature(kind).parameters if name != "inplace"]
    settings = {name: getattr(part, name) for name in names if hasattr(part, name)}
    for name, value in settings.items():
        if isinstance(value, Tensor):
            raise BackendError(
                f"{capitalised(where)} is {_described(part)} with a {name} that is a tensor: "
                "activations with parameters have no section."
            )
    return kind(**settings)


def _then(layer: Layer, part: nn.Module) -> Layer:
    before = layer.activation
    both = nn.Sequential(before, part) if isinstance(before, nn.Module) else part
    return layer._replace(activation=both)


# Calls


class _Calls:
    """Notes which layers are called, while hooks are on a module; refuses those without section."""

    def __init__(self, module: nn.Module) -> None:
        self.names = {id(part): name for name, part in reversed(list(module.named_modules()))}
        self.calls: list[tuple[str, nn.Module]] = []
        self.width: int | None = None
        self._layer: nn.Module | None = None
        self._containers: list[int] = []

    def before(self, part: nn.Module, arguments: tuple[Any, ...]) -> None:
        """A module is about to run."""
        if self._layer is not None:
            # What a layer does within itself, such as computing its weight.
            return
        if not isinstance(part, (nn.Linear, *POINTWISE, *IGNORED)):
            if next(part.children(), None) is None and not isinstance(part, nn.Sequential):
                raise self._refused(part)
            self._containers.append(len(self.calls))
            return
        if isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) != (1, -1):
            raise self._refused(part)
        if isinstance(part, nn.Linear) and arguments and isinstance(arguments[0], Tensor):
            self._check_width(part, arguments[0])
        self._layer = part

    def after(self, part: nn.Module, _: tuple[Any, ...], __: object) -> None:
        """A module has run."""
        if part is self._layer:
            self.calls.append((self.names[id(part)], part))
            self._layer = None
        elif self._layer is None:
            called = len(self.calls) - self._containers.pop()
            if not called and not isinstance(part, nn.Sequential):
                raise self._refused(part)

    def _check_width(self, part: nn.Linear, x: Tensor) -> None:
        if x.ndim and x.shape[-1] != part.in_features:
            if self.width is None:
                raise BackendError(
                    f"The model takes {part.in_features} inputs, but the data have "
                    f"{x.shape[-1]} for each sample."
                )
            raise BackendError(
                f"{capitalised(where_is(self.names[id(part)]))} takes {part.in_features} inputs, "
                f"but the one before it has {self.width} outputs."
            )
        self.width = part.out_features

    def _refused(self, part: nn.Module) -> BackendError:
        return BackendError(
            f"{capitalised(where_is(self.names[id(part)]))} is {_described(part)}, for which there "
            "is no section: a model may call Linear, Flatten, Dropout, Identity and pointwise "
            "activations (others need a backend of their own, docs/backends.md)."
        )


def _calls_of(module: nn.Module, inputs: Tensor) -> list[tuple[str, nn.Module]]:
    """Names and layers in the order in which the module calls them."""
    notes = _Calls(module)
    handles = []
    try:
        for part in module.modules():
            handles.append(part.register_forward_pre_hook(notes.before))
            handles.append(part.register_forward_hook(notes.after))
        outputs_of(module, placed(module, inputs))
    finally:
        for handle in handles:
            handle.remove()
    return notes.calls


# What it computes


@own_state()
def check_agrees(module: nn.Module, layers: Sequence[Layer], inputs: Tensor) -> None:
    """Compare the layers with their module, in its precision.

    Args:
        module: as it was given.
        layers: that it was taken for.
        inputs: as the module takes them.

    Raises:
        BackendError: if outputs differ by more than rounding: the module has something that its
            layers do not.
        NumericalError: if its outputs are not finite.
    """
    module = runnable(module)
    with as_it_was(module):
        _compare(module, layers, inputs)


def _compare(module: nn.Module, layers: Sequence[Layer], inputs: Tensor) -> None:
    for part in inputs.split(AT_ONCE):
        x = placed(module, part)
        outputs = outputs_of(module, x)
        kind = str(x.dtype).removeprefix("torch.")
        check_finite(f"The model's output in {kind}", outputs)
        rows = x.flatten(1)
        check_width(rows, layers)
        # In double precision nothing is more exact: inputs are moved a little instead.
        rounded = _shaken(rows) if rows.dtype == torch.float64 else rows
        own, exact = (_outcome(layers, each).double() for each in (rounded, rows.double()))
        expected = outputs.double()
        if expected.numel() != exact.numel() or len(expected) != len(exact):
            raise BackendError(
                f"The model gives outputs {tuple(outputs.shape)} for inputs {tuple(x.shape)}, but "
                f"its last layer gives {tuple(exact.shape)}: it does more than its layers."
            )
        # Not relative to what is between: large activations may come to small outputs.
        largest = float(exact.abs().max())
        rounding = float((own - exact).abs().max())
        error = float((expected.reshape(exact.shape) - exact).abs().max())
        agreement = AGREEMENT.get(x.dtype, AGREEMENT[torch.float32])
        if not error <= agreement * largest + NOISE * rounding:
            raise BackendError(
                f"The model does not compute what its {len(layers)} linear layers and their "
                f"activations do one after the other: outputs differ by {error:.2g}, for which "
                "hooks, functions or a forward of its own may be the reason, and there is no "
                "section."
            )


def _outcome(layers: Sequence[Layer], rows: Tensor) -> Tensor:
    """Of the last layer, in the precision of the rows and where they are."""
    with torch.no_grad():
        placed = [layer._replace(matrix=layer.matrix.to(rows)) for layer in layers]
        *_, outcome = forward(placed, rows)
        return outcome


def _shaken(rows: Tensor) -> Tensor:
    """The rows, each number a few units in its last place up or down."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, rows.shape, generator=generator, dtype=torch.float64) * 2 - 1
    moved: Tensor = rows.double() * (
        1 + SHAKEN * torch.finfo(rows.dtype).eps * signs.to(rows.device)
    )
    return moved


# Words


def _described(part: nn.Module) -> str:
    """The kind of a layer, with what it was made with if that is short."""
    details = part.extra_repr() if next(part.children(), None) is None else ""
    kind = type(part).__name__
    if kind in {layer.__name__ for layer in (nn.Linear, *POINTWISE, *IGNORED)}:
        # One that is called like a layer that can be read, such as quantized ones.
        plain = type(part).__module__.startswith("torch.nn.modules.")
        kind = kind if plain else f"{type(part).__module__}.{kind}"
    return f"{kind}({details})" if 0 < len(details) < 80 and "\n" not in details else kind
