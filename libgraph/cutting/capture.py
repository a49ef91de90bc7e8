"""Capturing what a module computes, in double precision, for any number of samples.

The module is copied, and left as it is. `torch.export` captures it as operations; where that does
not go, `torch.fx` follows the module's own code first. A branch that depends on data is no function
that could be cut, and is refused with its line.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import embedding_bag
from torch.overrides import TorchFunctionMode

from libgraph.cutting.cells import decompositions, written_out
from libgraph.errors import BackendError, DataError, NumericalError, is_out_of_memory

TRACED, TWIN = 5, 7
"""Samples that a module is captured with, and captured once more."""


HALVES = (torch.float32, torch.float16, torch.bfloat16)


CASTS = {Tensor.float: Tensor.double, Tensor.half: Tensor.double, Tensor.bfloat16: Tensor.double}


class Capture(NamedTuple):
    """What was captured.

    Attributes:
        program: as torch.export has it.
        module: the copy in double precision and in evaluation.
        inputs: what it was captured with, samples first; others stay as they are.
        how: `torch.export`, or `torch.fx and torch.export`.
        twin: the same with `TWIN` samples, where numbers of samples became constants: what differs
            depends on them.
    """

    program: torch.export.ExportedProgram
    module: nn.Module
    inputs: tuple[Tensor, ...]
    how: str
    twin: torch.export.ExportedProgram | None = None


class InDouble(TorchFunctionMode):
    """Casts to less than double precision become casts to double precision."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function with other types of numbers."""
        func = CASTS.get(func, func)
        if func is embedding_bag:
            written = written_out(*args, **(kwargs or {}))
            if written is not None:
                return written
        args = tuple(map(_in_double, args))
        return func(*args, **{name: _in_double(value) for name, value in (kwargs or {}).items()})


def _in_double(value: Any) -> Any:
    """A type of numbers, a tensor that is no part of the module, or several of them, in double."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value in HALVES else value
    if isinstance(value, Tensor):
        return value.double() if value.dtype in HALVES else value
    return type(value)(map(_in_double, value)) if type(value) in (tuple, list) else value


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """What a module makes meanwhile is in double precision, whatever it asks for."""
    before = torch.get_default_dtype()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_default_dtype(torch.float64)
    stance = getattr(torch.compiler, "set_stance", None)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if stance is not None:
                stack.enter_context(stance("force_eager"))
            stack.enter_context(InDouble())
            yield
    finally:
        torch.set_default_dtype(before)
        torch.backends.mha.set_fastpath_enabled(fast)


def doubled(module: nn.Module) -> nn.Module:
    """A copy in evaluation and in double precision, on the CPU.

    Raises:
        BackendError: if it is no module, has no weights yet, or cannot be copied.
    """
    if not isinstance(module, nn.Module):
        raise BackendError(f"The model is a {type(module).__name__}, not a torch.nn.Module.")
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, wrappers) or hasattr(module, "_orig_mod"):
        module = module.module if isinstance(module, wrappers) else module._orig_mod  # type: ignore[assignment]
    if isinstance(module, torch.jit.ScriptModule):
        raise BackendError("The model is TorchScript: give the module that it was made of.")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise BackendError(f"'{name}' of the model has no size yet: run the model once before.")
        if tensor.is_meta:
            raise BackendError(f"'{name}' of the model is on the meta device: it has no numbers.")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise NumericalError(f"'{name}' of the model holds NaN or infinite values.")
    try:
        # Torch copies no tensor that was computed with gradients, such as an activation kept.
        kept = {id(tensor): tensor.detach().clone() for tensor in _made_tensors(module)}
        copied = copy.deepcopy(module, kept)
        copied = copied.cpu().double()
    except Exception as error:
        raise BackendError(
            f"The model cannot be copied ({_reason(error)}): give one that copy.deepcopy copies."
        ) from error
    for part in copied.modules():
        part.training = False
        for name, value in list(vars(part).items()):
            # Tensors that are no buffers, which `double` does not reach.
            if not name.startswith("_") and next(_tensors(value), None) is not None:
                with contextlib.suppress(Exception):
                    setattr(part, name, _changed(value, in_double_precision))
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied


def in_double_precision(tensor: Tensor) -> Tensor:
    """The same numbers on the CPU, in double precision where they are no whole ones."""
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _made_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module holds and that were computed with gradients."""
    for part in module.modules():
        yield from (tensor for tensor in _tensors(vars(part)) if not tensor.is_leaf)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (list, tuple, dict):
        parts = value.values() if isinstance(value, dict) else value
        for part in parts:  # type: ignore[attr-defined]
            yield from _tensors(part)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Tensors in lists and dictionaries changed."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_changed(part, change) for part in value)
    if type(value) is dict:
        return {key: _changed(part, change) for key, part in value.items()}
    return value


def as_inputs(given: object) -> tuple[Tensor, ...]:
    """Example inputs as tensors, floating-point ones in double precision.

    Raises:
        DataError: if they are no tensors, or there is no sample.
    """
    parts = given if isinstance(given, (tuple, list)) else (given,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise DataError(
            "Example inputs have to be a tensor with samples first, or a tuple of tensors of which "
            f"the first has samples, not a {type(given).__name__}."
        )
    tensors = [part.detach().cpu() for part in parts]
    if tensors[0].ndim == 0 or not len(tensors[0]):
        raise DataError("Example inputs need at least one sample, samples first.")
    tensors = [t.double() if t.is_floating_point() else t for t in tensors]
    if not all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point()):
        raise DataError("Example inputs hold NaN or infinite values.")
    return tuple(tensors)


def outputs_of(module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """The one output of a module that `doubled` made.

    Raises:
        BackendError: if it cannot be run, or does not give one tensor.
    """
    try:
        with in_double():
            outputs = module(*(part.clone() for part in inputs))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise BackendError(
            f"The model cannot be run on the example inputs in double precision ("
            f"{_reason(error)}{_at_line(error)}): are they as it takes them?"
        ) from error
    return only_tensor(outputs)


def only_tensor(outputs: object) -> Tensor:
    """The output, where it is one tensor, or holds one or one that is called logits."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping) and isinstance(outputs.get("logits"), Tensor):
        logits: Tensor = outputs["logits"]
        return logits
    parts = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    if isinstance(parts, (list, tuple)):
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len(tensors) == 1:
            return tensors[0]
    raise BackendError(
        f"The model gives a {type(outputs).__name__}, not one tensor: wrap it in a module whose "
        "forward returns the output that is meant."
    )


def capture(module: nn.Module, inputs: Sequence[Tensor]) -> Capture:
    """What a module that `doubled` made computes of the first of its inputs.

    Raises:
        BackendError: if it branches on data, naming the line; or cannot be captured.
    """
    others = inputs[1:]
    # More than one, or torch would take the number of samples for a constant.
    given, more = ((inputs[0][torch.arange(n) % len(inputs[0])], *others) for n in (TRACED, TWIN))
    try:
        return _with_twin(module, given, more, "torch.export")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if _is_data_dependent(error):
            raise _branches(error) from error
        problem = error
    try:
        traced = fx.symbolic_trace(module)
        return _with_twin(traced, given, more, "torch.fx and torch.export")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if _is_data_dependent(error):
            raise _branches(error) from error
        raise BackendError(
            f"The model cannot be captured as a graph ({_reason(problem)}{_at_line(problem)}): "
            "write that part with operations of torch, or give a backend its sections "
            "(docs/backends.md)."
        ) from problem


def _with_twin(
    module: nn.Module, given: tuple[Tensor, ...], more: tuple[Tensor, ...], how: str
) -> Capture:
    wrapped = _OneOutput(module)
    program = _exported(wrapped, given)
    name = next(name for name in program.graph_signature.user_inputs if isinstance(name, str))
    node = next(node for node in program.graph.nodes if node.name == name)
    size = node.meta["val"].shape[0]
    counted = isinstance(size, int) or not size.node.expr.free_symbols
    twin = _exported(wrapped, more) if counted else None
    return Capture(program, module, given, how, twin)


class _OneOutput(nn.Module):
    """A module that returns its output alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output."""
        return only_tensor(self.inner(*inputs))


def _exported(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    shapes: list[object] = [None] * len(inputs)
    shapes[0] = {0: torch.export.Dim.AUTO}
    level = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            in_double(),
            contextlib.redirect_stdout(None),
            contextlib.redirect_stderr(None),
        ):
            program = torch.export.export(
                module, inputs, dynamic_shapes={"inputs": tuple(shapes)}, strict=False
            )
            plain: torch.export.ExportedProgram = program.run_decompositions(decompositions())
            return plain
    finally:
        logging.getLogger("torch").setLevel(level)


# Words


def _is_data_dependent(error: BaseException | None) -> bool:
    while error is not None:
        kind = type(error).__name__
        text = str(error)
        if (
            "DataDependent" in kind
            or "data-dependent" in text
            or "control flow" in text
            or ("item" in text and "FakeTensor" in text)
        ):
            return True
        error = error.__cause__
    return False


def _branches(error: BaseException) -> BackendError:
    where = user_line(error)
    return BackendError(
        f"The model does something else depending on its data{f', at {where}' if where else ''}: "
        "what it computes is then no one function that could be cut; write it without that branch, "
        "such as with torch.where."
    )


def user_line(error: BaseException) -> str:
    """File, number and text of the innermost line that is not PyTorch's own."""
    found = ""
    inside = re.compile(r"[/\\](torch|libgraph)[/\\]|^<")
    for frame in traceback.extract_tb(error.__traceback__):
        if not inside.search(frame.filename):
            found = (
                f"{frame.filename}:{frame.lineno} ({frame.line})"
                if frame.line
                else (f"{frame.filename}:{frame.lineno}")
            )
    return found


def _at_line(error: BaseException) -> str:
    where = user_line(error)
    return f", at {where}" if where else ""


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = re.split(r"(?<=[a-z)])\. |; | consider using| For more", text)[0]
    return f"{type(error).__name__}: {text[:160].rstrip('. ')}"
