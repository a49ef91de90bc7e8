"""Loading a language model of Hugging Face, and saying what is wrong with it.

Parameters stay where they are stored, in a file that is memory-mapped, in the precision that they
are stored in. What the libraries let pass is refused here: parameters that the file does not have,
or has and the model does not. Code that comes with a model is never run, and nothing is asked.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from libgraph.backend import BackendError, missing_extra, read_json_text, unreadable
from libgraph_backends.lm.bounds import Held, no_larger_than
from libgraph_backends.lm.bridged import BridgedModel
from libgraph_backends.lm.bundled import BundledModel
from libgraph_backends.lm.checkpoints import hooked_model, model_of_file, unwrapped_model
from libgraph_backends.lm.hugging_face import HuggingFaceModel
from libgraph_backends.lm.libraries import OWN_CODE, quiet, reason
from libgraph_backends.lm.memory import digest_of_model, letting_go
from libgraph_backends.lm.parts import Model
from libgraph_backends.lm.tokenizer import read_tokenizer
from libgraph_backends.shared.checkpoints import widest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("libgraph")


BUNDLED = files("libgraph_backends.lm") / "weights"


ADAPTER = "adapter_config.json"
"""Beside a model it says what is to be added to its weights, which not every library does."""


BUFFERS = re.compile(r"(^|\.)(masked_bias|attn\.bias|attention\.bias|inv_freq|position_ids)$")
"""Masks, angles and positions, which older files hold among the parameters."""


LET_GO = 2**28
"""Bytes of files from which on their pages are given back after each block."""


DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""What safetensors call them."""


class LanguageModel(NamedTuple):
    """A model and its tokenizer.

    Where there is no tokenizer, `trouble` may say why: there is one that cannot be read.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase | None
    trouble: str | None = None

    def first_token(self) -> int:
        """What begins a text.

        Raises:
            BackendError: if the model has no such token.
        """
        for token in (getattr(self.tokenizer, "bos_token_id", None), self.model.first):
            # TransformerLens gives a tokenizer one that the model does not know.
            if token is not None and 0 <= token < self.model.shape.vocabulary:
                return int(token)
        raise BackendError(
            "The model has no begin-of-text token, which skip_first puts before every row."
        )


def load_bundled() -> LanguageModel:
    """The model of characters that comes with the backend.

    Raises:
        BackendError: if a library is missing, or its files are damaged.
    """
    _require(transformer_lens=False)
    with as_file(BUNDLED) as folder, quiet():
        try:
            model = BundledModel(folder, _bundled_of_library)
        except (OSError, ValueError, SafetensorError):
            # Loading it as any other says what is wrong.
            return load_model(str(folder), None)
        return LanguageModel(model, *read_tokenizer(str(folder), None))


def _bundled_of_library() -> Model:
    with as_file(BUNDLED) as folder:
        return load_model(str(folder), None).model


def require_libraries() -> None:
    """Say it where what reads and trains language models is not installed.

    Raises:
        BackendError: with the command that installs it.
    """
    _require(transformer_lens=True)


def _require(*, transformer_lens: bool) -> None:
    """Import what is needed; TransformerLens, which takes seconds, or find that it is there."""
    try:
        import platformdirs  # noqa: F401
        import transformers  # noqa: F401

        if transformer_lens:
            from transformer_lens.model_bridge import architecture_adapter  # noqa: F401
        elif find_spec("transformer_lens") is None:
            raise ModuleNotFoundError("No module named 'transformer_lens'")
    except ImportError as error:
        need = f"Language models need TransformerLens ({error})"
        raise BackendError(missing_extra(need, "lm")) from error


def load_model(name: str, revision: str | None) -> LanguageModel:
    """A model from a folder, from the cache or from huggingface.co.

    Raises:
        BackendError: if it is not there, cannot be reached, is no model, lacks parameters, holds
            some that are left out, or is of a kind that TransformerLens does not know.
    """
    require_libraries()
    with quiet():
        return LanguageModel(_read(name, revision), *read_tokenizer(_folder_of(name), revision))


def _read(name: str, revision: str | None) -> Model:
    path = Path(name)
    if _is_folder(name) or _is_file(name):
        hooked = hooked_model(path)
        if hooked is not None:
            return hooked
    if _is_file(name):
        return HuggingFaceModel(name, model_of_file(path))
    model, as_saved = _from_pretrained(name, revision)
    return taken(name, revision, model) if as_saved else HuggingFaceModel(name, model)


def _folder_of(name: str) -> str:
    return str(Path(name).parent) if _is_file(name) else name


def given(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> LanguageModel:
    """A model that is loaded already: of Hugging Face, or a `TransformerBridge`.

    Raises:
        BackendError: if it is neither.
    """
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return LanguageModel(HuggingFaceModel(type(model).__name__, model), tokenizer)
    if hasattr(model, "original_model") and hasattr(model, "blocks"):
        return LanguageModel(BridgedModel(model), tokenizer or model.tokenizer)
    raise BackendError(
        f"A {type(model).__name__} is no language model that is known: give a model of Hugging "
        "Face or a TransformerBridge."
    )


def taken(name: str, revision: str | None, model: PreTrainedModel) -> Model:
    """A model that was read from files, which it goes on reading from."""
    files = weight_files(name, revision)
    if not files:
        return HuggingFaceModel(name, model)
    size = sum(path.stat().st_size for path in files)
    identity = digest_of_model(files, model.config)
    return HuggingFaceModel(name, model, identity, letting_go(files) if size >= LET_GO else None)


def weight_files(name: str, revision: str | None) -> list[Path]:
    """The safetensors files of a folder, or of a model in the hub's cache; none of pickles."""
    from huggingface_hub import try_to_load_from_cache

    def find(file: str) -> Path | None:
        if _is_folder(name):
            path = Path(name) / file
            return path if path.is_file() else None
        # What is no name on the hub is told where it is loaded.
        with suppress(ValueError):
            found = try_to_load_from_cache(name, file, revision=revision)
            return Path(found) if isinstance(found, str) else None
        return None

    whole = find("model.safetensors")
    if whole is not None:
        return [whole]
    index = find("model.safetensors.index.json")
    if index is None:
        return []
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        places: Any = read_json_text(index)
        shards = [find(str(file)) for file in sorted(set(places["weight_map"].values()))]
        return [shard for shard in shards if shard is not None]
    return []


def stored_precision(files: Sequence[Path]) -> torch.dtype:
    """In which all parameters of files can be held as they are; single where nothing is known."""
    kinds = set()
    with suppress(OSError, SafetensorError):
        for path in files:
            with safe_open(path, "pt") as file:
                kinds |= {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    dtypes = {DTYPES[kind] for kind in kinds if kind in DTYPES}
    return widest(dtypes)


def _from_pretrained(name: str, revision: str | None) -> tuple[PreTrainedModel, bool]:
    """The model with all its parameters, and whether its files are as Hugging Face saves them.

    Over the network only what is not there already.
    """
    import transformers

    is_folder = _is_folder(name)
    is_path = os.path.isabs(name) or name.startswith((".", "~"))
    if not name or (is_path and not is_folder):
        raise BackendError(
            f"There is no folder or file '{name}': give one with a model, or a hub name."
        )
    if is_folder and os.path.exists(os.path.join(name, ADAPTER)):
        raise BackendError(
            f"The folder '{name}' holds an adapter ({ADAPTER}): merge it into its model, save that "
            "and give its folder."
        )
    # Typed as if it returned the model alone, whatever is asked for.
    loader: Any = transformers.AutoModelForCausalLM.from_pretrained
    options = {
        "revision": revision,
        "dtype": stored_precision(weight_files(name, revision)),
        "attn_implementation": "eager",
        "output_loading_info": True,
        # In place of an error that does not say which; those are refused below.
        "ignore_mismatched_sizes": True,
        # Neither modules nor pickles of a model are run, nor is a terminal asked about it.
        OWN_CODE: False,
        "weights_only": True,
    }
    bounds = no_larger_than(Held.by_folder(Path(name))) if is_folder else nullcontext()
    try:
        try:
            with bounds:
                model, report = loader(name, local_files_only=True, **options)
        except OSError:
            if is_folder:
                raise
            model, report = loader(name, **options)
    except BackendError:
        raise
    except Exception as error:
        # Whatever a file that is no model leads these libraries to.
        unwrapped = unwrapped_model(Path(name)) if is_folder else None
        if unwrapped is not None:
            return unwrapped, False
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
        unwrapped = unwrapped_model(Path(name)) if is_folder else None
        if unwrapped is not None:
            return unwrapped, False
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
    return loaded, True


def _is_folder(name: str) -> bool:
    return _is_kind(name, stat.S_ISDIR)


def _is_file(name: str) -> bool:
    return _is_kind(name, stat.S_ISREG)


def _is_kind(name: str, kind: Callable[[int], bool]) -> bool:
    try:
        return bool(name) and kind(os.stat(name).st_mode)
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
