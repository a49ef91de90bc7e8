"""What TransformerLens knows of a kind of model: which of its modules is which."""

from __future__ import annotations

from typing import Any

import torch

from libgraph.backend import BackendError
from libgraph_backends.lm.libraries import reason


def adapter_of(name: str, model: Any) -> Any:
    """What TransformerLens knows of models of this kind."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformer_lens.utilities.architectures import classify_model_config

    config = model.config
    # What it is, not what its configuration says that it is.
    config.architectures = [type(model).__name__]
    if classify_model_config(config) != "causal_lm" or hasattr(config, "original_architecture"):
        raise other_kind(name, model, "it does more than go on with a text")
    try:
        cfg = build_bridge_config_from_hf(config, type(model).__name__, name, torch.float32)
        return ArchitectureAdapterFactory.select_architecture_adapter(cfg)
    except Exception as error:
        # Whatever a model of another structure leads these libraries to.
        raise other_kind(name, model, f"TransformerLens cannot take it: {reason(error)}") from error


def other_kind(name: str, model: Any, why: str) -> BackendError:
    """The error for a model of a kind that is not known."""
    return BackendError(
        f"The model '{name}' is of the kind '{model.config.model_type}' ({why}): use GPT-2, Llama "
        "or a model built like one of those in docs/language-models.md."
    )
