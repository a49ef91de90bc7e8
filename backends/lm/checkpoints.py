"""Language models from checkpoints: a file or folder of weights, and a configuration beside it.

What Hugging Face's own loading does not read: weights under the names of a wrapper, nested beside
an optimizer's state, in a file of any name; and state dicts of HookedTransformer. Such weights are
read into memory, where a folder as Hugging Face saves it stays memory-mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from libgraph.backend import BackendError, read_json_text, reading
from libgraph_backends.lm.bounds import Held, no_larger_than
from libgraph_backends.lm.hooked import HookedModel, is_hooked, read_config
from libgraph_backends.lm.libraries import OWN_CODE, reason
from libgraph_backends.shared.checkpoints import fitting, tied_names, widest
from libgraph_backends.shared.state_dicts import StateDict, read_checkpoint

CONFIG = "config.json"


def hooked_model(path: Path) -> HookedModel | None:
    """A model of HookedTransformer, or None where no configuration beside it is one of that.

    Raises:
        BackendError: if a `config.json` is no JSON object, or the weights do not fit.
    """
    folder = path if path.is_dir() else path.parent
    # By the name of a file first; an index of shards is JSON itself.
    places = dict.fromkeys([path.with_suffix(".json"), folder / CONFIG])
    for place in places:
        if place == path or not place.is_file():
            continue
        config = _object(place)
        if config is None and place.name == CONFIG:
            raise BackendError(f"'{place}' is damaged, or no configuration: it is no JSON object.")
        if config is not None and is_hooked(config):
            return HookedModel(read_checkpoint(path), read_config(config, f"'{place}'"))
    return None


def _object(path: Path) -> Mapping[str, object] | None:
    with reading(path, BackendError, "The configuration "):
        try:
            value = read_json_text(path)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def model_of_file(path: Path) -> Any:
    """Hugging Face's model from a file of weights and the `config.json` beside it.

    Raises:
        BackendError: if there is no configuration, or the weights do not fit it.
    """
    if not (path.parent / CONFIG).is_file():
        raise BackendError(
            f"There is no '{CONFIG}' beside '{path}': put that of Hugging Face there, or what "
            "json.dump(model.cfg.to_dict(), file, default=str) writes of a HookedTransformer."
        )
    return _fitted(path.parent, read_checkpoint(path))


def unwrapped_model(folder: Path) -> Any | None:
    """Hugging Face's model from a folder that its loading does not read; None if it is not that."""
    with suppress(BackendError):
        return _fitted(folder, read_checkpoint(folder))
    return None


def _fitted(folder: Path, state: StateDict) -> Any:
    """A model by the configuration in a folder, with these weights."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, **{OWN_CODE: False}
        )
        with torch.device("meta"), no_larger_than(Held.by_state(state)):
            empty: Any = transformers.AutoModelForCausalLM.from_config(config, **{OWN_CODE: False})
    except BackendError:
        raise
    except Exception as error:
        # Whatever a file that is no configuration leads the library to.
        raise BackendError(
            f"'{folder / CONFIG}' cannot be read as a configuration ({reason(error)})."
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    tensors = fitting(state, wanted, tied_names(empty))
    model: Any = type(empty).from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        dtype=widest(tensor.dtype for tensor in tensors.values()),
        attn_implementation="eager",
    )
    return model.eval()
