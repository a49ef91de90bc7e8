"""Running somebody's module: in evaluation, compiling nothing, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from libgraph.backend import BackendError, NumericalError

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""Modules that compute what the one in them does."""


def runnable(module: nn.Module) -> nn.Module:
    """The module without a wrapper around it, if it can be run at all."""
    if not isinstance(module, nn.Module):
        raise BackendError(f"The model is a {type(module).__name__}, not a torch.nn.Module.")
    while isinstance(module, WRAPPERS) and not _has_hooks(module):
        module = module.module
    for name, part in module.named_modules():
        where = where_is(name)
        if isinstance(part, torch.jit.ScriptModule):
            raise BackendError(
                f"{capitalised(where)} is TorchScript, whose layers cannot be told apart: give "
                "the module that it was made of."
            )
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if is_lazy(tensor):
                raise BackendError(
                    f"{capitalised(where)} is {type(part).__name__}, whose sizes are not known "
                    "yet: run the model once before."
                )
            if tensor.is_meta:
                raise BackendError(
                    f"{capitalised(where)} is on the meta device: it has shapes, but no weights."
                )
            if tensor.is_floating_point() and tensor.element_size() == 1:
                raise BackendError(
                    f"{capitalised(where)} is in {tensor.dtype}, in which nothing can be "
                    "compared: give model.float()."
                )
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        layers = "*model" if isinstance(module, nn.ModuleList) else "*model.values()"
        raise BackendError(
            f"The model is a {type(module).__name__}, which does not say what to compute: give "
            f"torch.nn.Sequential({layers})."
        )
    return module


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def outputs_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """Outputs of a module in evaluation, which is left as it was, as are the inputs.

    Raises:
        BackendError: if it cannot be run, changes its own parameters, or has other outputs than
            one tensor.
    """
    try:
        with evaluating(module):
            versions = {name: p._version for name, p in _plain(module.named_parameters())}
            outputs = module(inputs.clone())
            _check_unchanged(module, versions)
    except (BackendError, NumericalError):
        raise
    except Exception as error:
        # Whatever somebody's module runs into.
        reason = " ".join(str(error).split())[:160].rstrip(". ")
        raise BackendError(
            f"The model cannot be run on its inputs ({type(error).__name__}: {reason})."
        ) from error
    if not isinstance(outputs, Tensor):
        raise BackendError(f"The model gives a {type(outputs).__name__}, not one tensor.")
    return dense(outputs)


def _check_unchanged(module: nn.Module, versions: Mapping[str, int]) -> None:
    """Raise a `BackendError` naming a parameter that the module has changed while it ran."""
    for name, parameter in _plain(module.named_parameters()):
        if parameter._version != versions.get(name):
            raise BackendError(
                f"The model changes its parameter '{name}' while it runs: there is no function to "
                "analyse."
            )


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers are afterwards as before, however often the module runs meanwhile."""
    buffers = [(part, dict(part._buffers)) for part in module.modules()]
    named = [*_plain(module.named_parameters()), *_plain(module.named_buffers())]
    before = [(tensor, tensor._version, tensor.detach().clone()) for _, tensor in named]
    try:
        yield
    finally:
        for part, tensors in buffers:
            part._buffers.update(tensors)
        for tensor, version, content in before:
            if tensor._version != version:
                tensor.detach().copy_(content)


def _plain(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors that can change in place; those of inference mode cannot, and count no changes."""
    for name, tensor in named:
        if tensor.layout == torch.strided and not tensor.is_inference():
            yield name, tensor


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation, without gradients, and without compiling anything."""
    # By hand: `eval` may be overridden, and do more than can be undone.
    modes = [(part, part.training) for part in module.modules()]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        set_stance = getattr(torch.compiler, "set_stance", None)
        if set_stance is not None:
            stack.enter_context(set_stance("force_eager"))
        try:
            for part, _ in modes:
                part.training = False
            yield
        finally:
            for part, training in modes:
                part.training = training


def placed(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs in the precision of the module, where it is."""
    tensors = (*module.parameters(), *module.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    return inputs.detach().to(like.device, like.dtype)


def dense(tensor: Tensor) -> Tensor:
    """The tensor without its gradient, written out if it is sparse."""
    tensor = tensor.detach()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


# Words


def where_is(name: str) -> str:
    """What to call a layer in a sentence."""
    return f"layer '{name}' of the model" if name else "the model"


def capitalised(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[0].upper() + text[1:]
