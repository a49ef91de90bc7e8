"""Running somebody's module: in evaluation, compiling nothing, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
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
        with evaluating(module), _as_it_was(module):
            outputs = module(inputs.clone())
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


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Buffers that a run changes are afterwards as before; parameters may not change.

    Raises:
        BackendError: naming a parameter that the module changes while it runs.
    """
    buffers = [
        (part, name, buffer, None if buffer is None else buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
    ]
    before = {name: (p, p._version, p.detach().clone()) for name, p in _plain_parameters(module)}
    changed = []
    try:
        yield
    finally:
        for part, name, buffer, content in buffers:
            part._buffers[name] = buffer
            if buffer is not None and content is not None and not buffer.equal(content):
                buffer.detach().copy_(content)
        for name, (parameter, version, content) in before.items():
            if parameter._version != version:
                changed.append(name)
                parameter.detach().copy_(content)
    if changed:
        raise BackendError(
            f"The model changes its parameter '{changed[0]}' while it runs: there is no function "
            "to analyse."
        )


def _plain_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that can be copied and compared; those of inference mode count no changes."""
    for name, parameter in module.named_parameters():
        if parameter.layout == torch.strided and not parameter.is_inference():
            yield name, parameter


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
