"""A state of PyTorch's own for what is computed, whatever its caller has set.

Under autocast products would be rounded to 16 bits, whatever the dtype asked for, and where quick
products of single precision are allowed, to 11 bits (TF32) or 8; in inference mode nothing can be
fitted; other default devices and dtypes would make tensors that do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from libgraph.sections.carrying import look_again

DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where autocast may be on."""


@contextmanager
def whole_products() -> Iterator[None]:
    """Products and convolutions of single precision with all of its digits; afterwards as before.

    PyTorch takes TF32 for convolutions on a GPU unless told otherwise.
    """
    cudnn, parts = torch.backends.cudnn, []
    with ExitStack() as stack:
        # Since PyTorch 2.9 every part has a setting of its own. Where these were used, the ones of
        # before cannot be read; PyTorch's own readers want both to be told the same.
        for part in map(_backend_part, _PARTS):
            if hasattr(part, "fp32_precision"):
                parts.append(part)
                stack.callback(setattr, part, "fp32_precision", part.fp32_precision)
        with suppress(RuntimeError):
            stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
        with suppress(RuntimeError):
            precision = torch.get_float32_matmul_precision()
            stack.callback(torch.set_float32_matmul_precision, precision)
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        for part in parts:
            part.fp32_precision = "ieee"
        yield


_PARTS = (
    "cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn",
)  # fmt: skip


def _backend_part(name: str) -> Any:
    """What a dotted name within `torch.backends` stands for, None where there is no such thing."""
    place: Any = torch.backends
    for part in name.split("."):
        place = getattr(place, part, None)
    return place


@contextmanager
def own_state() -> Iterator[None]:
    """PyTorch and NumPy as they are when they have just been imported; afterwards as before.

    Products of single precision keep all of its digits, on every device. Random numbers of the CPU
    that are drawn meanwhile leave no trace either. Weights are looked at afresh, whoever changed
    them since. It can be used as a decorator.
    """
    look_again()
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(torch.random.fork_rng(devices=[]))
        enter(whole_products())
        enter(torch.inference_mode(False))
        enter(torch.enable_grad())
        enter(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        for device in DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                enter(torch.autocast(device, enabled=False))
        if torch.empty(0).device.type != "cpu":
            enter(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        stack.callback(torch.set_default_dtype, dtype)
        yield


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor as it is, or a copy of one that inference mode made: nothing derives those."""
    return tensor.clone() if tensor.is_inference() else tensor


def make_ordinary(module: nn.Module) -> None:
    """Put copies in the place of parameters and buffers that inference mode made."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.is_inference():
                setattr(part, name, nn.Parameter(parameter.clone(), parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            if buffer.is_inference():
                setattr(part, name, buffer.clone())
