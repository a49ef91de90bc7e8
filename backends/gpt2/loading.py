"""Loading a language model of Hugging Face into TransformerLens, and saying what is wrong with it.

What the libraries let pass is refused here: parameters that the file does not have, numbers that
are not finite, a model that TransformerLens computes otherwise than Hugging Face. Their own
warnings and progress bars stay off the screen, but for downloads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from libgraph.errors import BackendError, NumericalError, missing_extra

AGREEMENT = 1e-4
"""How far logits may differ, relative to the largest: models compute in single precision."""


class LanguageModel(NamedTuple):
    """A `TransformerBridge` in compatibility mode with unprocessed weights, and its tokenizer."""

    bridge: Any
    tokenizer: Any


def load_model(name: str, revision: str | None) -> LanguageModel:
    """A model from a folder, from the cache or from huggingface.co.

    Raises:
        BackendError: if it is not there, cannot be reached, is no model, lacks parameters, or is
            computed by TransformerLens otherwise than by Hugging Face.
        NumericalError: if a parameter is not finite.
    """
    try:
        import transformers
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError as error:
        need = f"Language models need TransformerLens ({error})"
        raise BackendError(missing_extra(need, "gpt2")) from error
    with quiet():
        model = _from_pretrained(transformers, name, revision)
        _check_finite(name, model)
        tokenizer = _tokenizer(transformers, name, revision)
        probe = torch.arange(2 * min(8, _positions(model))).unflatten(0, (2, -1))
        probe = probe % model.config.vocab_size
        try:
            with torch.no_grad():
                expected = model(probe).logits
            bridge = TransformerBridge.boot_transformers(
                name, hf_model=model, tokenizer=tokenizer or _stand_in(transformers), device="cpu"
            )
            bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
            with torch.no_grad():
                found = bridge(probe)
        except Exception as error:
            # Whatever a model of another structure leads these libraries to.
            raise BackendError(
                f"TransformerLens cannot take the model '{name}' of the kind "
                f"'{model.config.model_type}' ({_reason(error)}): use GPT-2, GPT-Neo, GPT-NeoX or "
                "a model built like one of them."
            ) from error
    differ = float((found - expected).abs().max() / expected.abs().max())
    if not differ < AGREEMENT:
        raise BackendError(
            f"TransformerLens computes other logits for '{name}' than Hugging Face (by "
            f"{differ:.1e} of the largest): it does not know something in its configuration."
        )
    return LanguageModel(bridge, tokenizer)


def _from_pretrained(transformers: Any, name: str, revision: str | None) -> Any:
    """The model with all its parameters; over the network only what is not there already."""
    loader = transformers.AutoModelForCausalLM.from_pretrained
    options = {
        "revision": revision,
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "output_loading_info": True,
    }
    folder = Path(name)
    here = bool(name) and folder.is_dir()
    if not name or ((folder.is_absolute() or name.startswith((".", "~"))) and not here):
        raise BackendError(f"There is no folder '{name}': give one with a model, or a hub name.")
    try:
        try:
            model, found = loader(name, local_files_only=True, **options)
        except OSError:
            if here:
                raise
            model, found = loader(name, **options)
    except Exception as error:
        # Whatever a file that is no model leads these libraries to.
        advice = (
            "is it a folder of Hugging Face with config.json and model.safetensors, undamaged?"
            if here
            else "is the name right, and is there a network? Without one only folders and models "
            "that were downloaded before can be used."
        )
        raise BackendError(
            f"The model '{name}' cannot be loaded ({_reason(error)}): {advice}"
        ) from error
    if found["missing_keys"]:
        raise BackendError(
            f"The model '{name}' has no parameter '{min(found['missing_keys'])}': its file does "
            "not fit its configuration."
        )
    return model.eval()


def _check_finite(name: str, model: Any) -> None:
    for parameter, values in model.named_parameters():
        if not bool(values.isfinite().all()):
            raise NumericalError(
                f"Parameter '{parameter}' of the model '{name}' holds NaN or infinite values."
            )


def _tokenizer(transformers: Any, name: str, revision: str | None) -> Any:
    """The model's tokenizer, or None where there is none that makes tokens."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
        return tokenizer if tokenizer("e", add_special_tokens=False)["input_ids"] else None
    except Exception:
        # Without one, token ids can still be read.
        return None


def _stand_in(transformers: Any) -> Any:
    """What TransformerLens takes where a model has no tokenizer."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({"e": 0}, unk_token="e"))  # noqa: S106
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _positions(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", 8))


def _reason(error: Exception) -> str:
    """The first sentence of an error of another library."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0].rstrip(".")[:160]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries and no bar over the loading and saving of weights."""
    import transformers

    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub", "httpx")]
    levels = [each.level for each in loggers]
    tools = transformers.utils.logging
    verbosity, bars = tools.get_verbosity(), tools.is_progress_bar_enabled()
    tools.set_verbosity_error()
    tools.disable_progress_bar()
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tools.set_verbosity(verbosity)
        if bars:
            tools.enable_progress_bar()
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
