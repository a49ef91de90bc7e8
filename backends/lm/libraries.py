"""What loading and saving with the libraries of Hugging Face has in common: keeping them in check.

They show warnings and bars, ask about code that a model brings, and convert weights on the hub.
Here they are quiet, and how they fail becomes part of a sentence.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

OWN_CODE = "trust_remote_code"
"""What these libraries name in errors about a model that is code of its own."""


NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"
"""Unless it is set, loading a pickle has a service on the hub make a copy of it, unasked."""


def reason(error: Exception) -> str:
    """The first sentence of an error of another library."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:160]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries, no bar over loading and saving weights, nothing converted."""
    import transformers

    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in loggers]
    tools = transformers.utils.logging
    verbosity, bars = tools.get_verbosity(), tools.is_progress_bar_enabled()
    conversion = os.environ.get(NO_CONVERSION)
    tools.set_verbosity_error()
    tools.disable_progress_bar()
    os.environ[NO_CONVERSION] = "1"
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tools.set_verbosity(verbosity)
        if bars:
            tools.enable_progress_bar()
        if conversion is None:
            os.environ.pop(NO_CONVERSION, None)
        else:
            os.environ[NO_CONVERSION] = conversion
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
