"""Loading a language model of Hugging Face into TransformerLens, and saying what is wrong with it.

What the libraries let pass is refused here: parameters that the file does not have, or has and the
model does not, numbers that are not finite, a model that TransformerLens computes otherwise than
Hugging Face. Code that comes with a model is never run, and nothing is asked.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from libgraph.backend import BackendError, missing_extra, unreadable
from libgraph_backends.lm.libraries import OWN_CODE, quiet, reason
from libgraph_backends.lm.tokenizer import read_tokenizer
from libgraph_backends.shared.state_dicts import check_finite

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("libgraph")


BUNDLED = files("libgraph_backends.lm") / "weights"


ADAPTER = "adapter_config.json"
"""Beside a model it says what is to be added to its weights, which not every library does."""


BUFFERS = re.compile(r"(^|\.)(masked_bias|attn\.bias|attention\.bias|inv_freq|position_ids)$")
"""Masks, angles and positions, which older files hold among the parameters."""


AGREEMENT = 1e-4
"""How far logits may differ, relative to the largest: models compute in single precision."""


class LanguageModel(NamedTuple):
    """A `TransformerBridge` in compatibility mode with unprocessed weights, and its tokenizer.

    Where there is no tokenizer, `trouble` may say why: there is one that cannot be read.
    """

    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase | None
    trouble: str | None = None

    def first_token(self) -> int:
        """What begins a text.

        Raises:
            BackendError: if the model has no such token.
        """
        for place in (self.tokenizer, config_of(self.bridge)):
            token = getattr(place, "bos_token_id", None)
            # TransformerLens gives a tokenizer one that the model does not know.
            if token is not None and 0 <= token < self.bridge.cfg.d_vocab:
                return int(token)
        raise BackendError(
            "The model has no begin-of-text token, which skip_first puts before every row."
        )


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
        BackendError: if it is not there, cannot be reached, is no model, lacks parameters, holds
            some that are left out, or is computed by TransformerLens otherwise than by Hugging
            Face.
        NumericalError: if a parameter is not finite.
    """
    try:
        import transformers  # noqa: F401
        from transformer_lens.model_bridge import TransformerBridge  # noqa: F401
    except ImportError as error:
        need = f"Language models need TransformerLens ({error})"
        raise BackendError(missing_extra(need, "lm")) from error
    with quiet():
        model = _from_pretrained(name, revision)
        for parameter, values in model.named_parameters():
            check_finite(f"Parameter '{parameter}' of the model '{name}'", values)
        bridge = _bridge(name, model)
        return LanguageModel(bridge, *read_tokenizer(name, revision))


def _bridge(name: str, model: PreTrainedModel) -> TransformerBridge:
    """The model in TransformerLens, found to compute the same logits."""
    from transformer_lens.model_bridge import TransformerBridge

    _check_kind(name, model)
    probe = torch.arange(2 * min(8, _positions(model))).unflatten(0, (2, -1))
    probe = probe % model.config.vocab_size
    try:
        with torch.no_grad():
            expected = model(probe).logits
        # A tokenizer would come back with tokens that are not the model's.
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=_stand_in(), device="cpu"
        )
        bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
        with torch.no_grad():
            actual = bridge(probe)
    except Exception as error:
        # Whatever a model of another structure leads these libraries to.
        raise _other_kind(
            name, model, f"TransformerLens cannot take it: {reason(error)}"
        ) from error
    difference = float((actual - expected).abs().max() / expected.abs().max())
    if not difference < AGREEMENT:
        raise BackendError(
            f"TransformerLens computes other logits for '{name}' than Hugging Face (by "
            f"{difference:.1e} of the largest): it does not know something in its configuration."
        )
    return bridge


def _check_kind(name: str, model: PreTrainedModel) -> None:
    """Refuse all but models of text, for which TransformerLens would install what they need."""
    from transformer_lens.utilities.architectures import classify_model_config

    # What it is, not what its configuration says that it is.
    model.config.architectures = [type(model).__name__]
    kind = classify_model_config(model.config)
    if kind != "causal_lm" or hasattr(model.config, "original_architecture"):
        raise _other_kind(name, model, "it does more than go on with a text")


def _other_kind(name: str, model: PreTrainedModel, why: str) -> BackendError:
    return BackendError(
        f"The model '{name}' is of the kind '{model.config.model_type}' ({why}): use GPT-2, "
        "GPT-Neo, GPT-NeoX or a model built like one of them."
    )


def _from_pretrained(name: str, revision: str | None) -> PreTrainedModel:
    """The model with all its parameters; over the network only what is not there already."""
    import transformers

    is_folder = _is_folder(name)
    is_path = os.path.isabs(name) or name.startswith((".", "~"))
    if not name or (is_path and not is_folder):
        raise BackendError(f"There is no folder '{name}': give one with a model, or a hub name.")
    if is_folder and os.path.exists(os.path.join(name, ADAPTER)):
        raise BackendError(
            f"The folder '{name}' holds an adapter ({ADAPTER}): merge it into its model, save that "
            "and give its folder."
        )
    # Typed as if it returned the model alone, whatever is asked for.
    loader: Any = transformers.AutoModelForCausalLM.from_pretrained
    options = {
        "revision": revision,
        "dtype": torch.float32,
        "attn_implementation": "eager",
        "output_loading_info": True,
        # In place of an error that does not say which; those are refused below.
        "ignore_mismatched_sizes": True,
        # Neither modules nor pickles of a model are run, nor is a terminal asked about it.
        OWN_CODE: False,
        "weights_only": True,
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
        if OWN_CODE in str(error):
            raise BackendError(
                f"The model '{name}' is Python code of its own, which is not run: use a model of a "
                "kind that transformers knows."
            ) from None
        advice = (
            "is it a folder of Hugging Face with config.json and model.safetensors, undamaged?"
            if is_folder
            else "is the name right, and is there a network? Without one only folders and models "
            "that were downloaded before can be used."
        )
        raise BackendError(
            f"The model '{name}' cannot be loaded ({reason(error)}): {advice}"
        ) from error
    if report["missing_keys"]:
        raise BackendError(
            f"The model '{name}' has no parameter '{min(report['missing_keys'])}': its file does "
            "not fit its configuration."
        )
    if report["mismatched_keys"]:
        parameter, found, wanted = min(report["mismatched_keys"])
        raise BackendError(
            f"The parameter '{parameter}' of the model '{name}' is of shape {tuple(found)}, and "
            f"{tuple(wanted)} by its configuration: its file does not fit its configuration."
        )
    loaded: PreTrainedModel = model.eval()
    _check_nothing_is_left_out(name, loaded, report["unexpected_keys"])
    if getattr(loaded.config, "auto_map", None):
        log.warning(
            "The model '%s' comes with Python code, which is not run: it is read as "
            "transformers' own %s.",
            name,
            type(loaded).__name__,
        )
    return loaded


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and stat.S_ISDIR(os.stat(name).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        # Names on the hub are no paths, or impossible ones.
        return False
    except OSError as error:
        raise unreadable(name, BackendError, error, "The model ") from None


def _check_nothing_is_left_out(name: str, model: PreTrainedModel, unused: Iterable[str]) -> None:
    """Refuse a file with more of the model than its configuration; name another head that it has.

    Args:
        name: of the model.
        model: as it was loaded.
        unused: names of parameters in its file that the model does not have.
    """
    left_out = sorted(key for key in unused if not BUFFERS.search(key))
    if not left_out:
        return
    parts = {part for whole in (model, model.base_model) for part, _ in whole.named_children()}
    belonging = [key for key in left_out if key.partition(".")[0] in parts]
    if belonging:
        raise BackendError(
            f"The file of the model '{name}' holds '{belonging[0]}'{_more(belonging)}, for which "
            "its configuration has no place: its file does not fit its configuration."
        )
    log.warning(
        "The file of the model '%s' holds '%s'%s, left out as not of the language model.",
        name,
        left_out[0],
        _more(left_out),
    )


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _stand_in() -> PreTrainedTokenizerBase:
    """What TransformerLens takes in place of a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"e": 0}, unk_token="e"))  # noqa: S106
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _positions(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", 8))
