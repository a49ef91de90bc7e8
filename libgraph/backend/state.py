"""A state of PyTorch's own for what is computed, whatever its caller has set.

Under autocast products would be rounded to 16 bits, whatever the dtype asked for; in inference mode
nothing can be fitted; other default devices and dtypes would make tensors that do not fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where autocast may be on."""


@contextmanager
def own_state() -> Iterator[None]:
    """PyTorch and NumPy as they are when they have just been imported; afterwards as before.

    Random numbers of the CPU that are drawn meanwhile leave no trace either. It can be used as a
    decorator.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(torch.random.fork_rng(devices=[]))
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
