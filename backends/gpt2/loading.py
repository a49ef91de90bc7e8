"""Loading a language model of Hugging Face into TransformerLens, and saying what is wrong with it.

What the libraries let pass is refused here: parameters that the file does not have, numbers that
are not finite, a model that TransformerLens computes otherwise than Hugging Face. Their own
warnings and progress bars stay off the screen, but for downloads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from libgraph.backend import BackendError, missing_extra, reading
from libgraph_backends.shared.state_dicts import check_finite

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

BUNDLED = files("libgraph_backends.gpt2") / "weights"


AGREEMENT = 1e-4
"""How far logits may differ, relative to the largest: models compute in single precision."""


class LanguageModel(NamedTuple):
    """A `TransformerBridge` in compatibility mode with unprocessed weights, and its tokenizer."""

    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase | None

    def first_token(self) -> int:
        """What begins a text.

        Raises:
            BackendError: if the model has no such token.
        """
        for place in (self.tokenizer, config_of(self.bridge)):
            token = getattr(place, "bos_token_id", None)
            if token is not None:
                break
        if token is None or not 0 <= token < self.bridge.cfg.d_vocab:
            raise BackendError(
                "The model has no begin-of-text token, which skip_first puts before every row."
            )
        return int(token)


def config_of(bridge: TransformerBridge) -> PretrainedConfig:
    """The configuration of Hugging Face's model."""
    return cast("PretrainedConfig", bridge.original_model.config)


def load_bundled() -> LanguageModel:
    """The model of characters that comes with the backend."""
    with as_file(BUNDLED) as folder:
        return load_model(str(folder), None)


def load_model(name: str, revision: str | None) -> LanguageModel:
    """A model from a folder, from the cache or from huggingface.co.

    Raises:
        BackendError: if it is not there, cannot be reached, is no model, lacks parameters, or is
            computed by TransformerLens otherwise than by Hugging Face.
        NumericalError: if a parameter is not finite.
    """
    try:
        import transformers  # noqa: F401
        from transformer_lens.model_bridge import TransformerBridge  # noqa: F401
    except ImportError as error:
        need = f"Language models need TransformerLens ({error})"
        raise BackendError(missing_extra(need, "gpt2")) from error
    with quiet():
        model = _from_pretrained(name, revision)
        for parameter, values in model.named_parameters():
            check_finite(f"Parameter '{parameter}' of the model '{name}'", values)
        tokenizer = _tokenizer(name, revision)
        return LanguageModel(_bridge(name, model, tokenizer), tokenizer)


def _bridge(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> TransformerBridge:
    """The model in TransformerLens, found to compute the same logits."""
    from transformer_lens.model_bridge import TransformerBridge

    probe = torch.arange(2 * min(8, _positions(model))).unflatten(0, (2, -1))
    probe = probe % model.config.vocab_size
    try:
        with torch.no_grad():
            expected = model(probe).logits
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=tokenizer or _stand_in(), device="cpu"
        )
        bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
        with torch.no_grad():
            actual = bridge(probe)
    except Exception as error:
        # Whatever a model of another structure leads these libraries to.
        raise BackendError(
            f"TransformerLens cannot take the model '{name}' of the kind "
            f"'{model.config.model_type}' ({_reason(error)}): use GPT-2, GPT-Neo, GPT-NeoX or "
            "a model built like one of them."
        ) from error
    difference = float((actual - expected).abs().max() / expected.abs().max())
    if not difference < AGREEMENT:
        raise BackendError(
            f"TransformerLens computes other logits for '{name}' than Hugging Face (by "
            f"{difference:.1e} of the largest): it does not know something in its configuration."
        )
    return bridge


def _from_pretrained(name: str, revision: str | None) -> PreTrainedModel:
    """The model with all its parameters; over the network only what is not there already."""
    import transformers

    folder = Path(name)
    with reading(name, BackendError, "The model "):
        is_folder = bool(name) and folder.is_dir()
    is_path = folder.is_absolute() or name.startswith((".", "~"))
    if not name or (is_path and not is_folder):
        raise BackendError(f"There is no folder '{name}': give one with a model, or a hub name.")
    # Typed as if it returned the model alone, whatever is asked for.
    loader: Any = transformers.AutoModelForCausalLM.from_pretrained
    options = {
        "revision": revision,
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "output_loading_info": True,
    }
    try:
        try:
            model, report = loader(name, local_files_only=True, **options)
        except OSError:
            if is_folder:
                raise
            model, report = loader(name, **options)
    except Exception as error:
        # Whatever a file that is no model leads these libraries to.
        advice = (
            "is it a folder of Hugging Face with config.json and model.safetensors, undamaged?"
            if is_folder
            else "is the name right, and is there a network? Without one only folders and models "
            "that were downloaded before can be used."
        )
        raise BackendError(
            f"The model '{name}' cannot be loaded ({_reason(error)}): {advice}"
        ) from error
    if report["missing_keys"]:
        raise BackendError(
            f"The model '{name}' has no parameter '{min(report['missing_keys'])}': its file does "
            "not fit its configuration."
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def _tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer, or None where there is none that makes tokens."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
        return tokenizer if tokenizer("e", add_special_tokens=False)["input_ids"] else None
    except Exception:
        # Without one, token ids can still be read.
        return None


def _stand_in() -> PreTrainedTokenizerBase:
    """What TransformerLens takes where a model has no tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"e": 0}, unk_token="e"))  # noqa: S106
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _positions(model: PreTrainedModel) -> int:
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
    levels = [logger.level for logger in loggers]
    tools = transformers.utils.logging
    verbosity, bars = tools.get_verbosity(), tools.is_progress_bar_enabled()
    tools.set_verbosity_error()
    tools.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        tools.set_verbosity(verbosity)
        if bars:
            tools.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
