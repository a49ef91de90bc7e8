"""Random language models, texts for them, and no way out of this machine."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch

# Read when the libraries are imported.
os.environ["HF_HUB_OFFLINE"] = "1"

if find_spec("transformer_lens"):
    from helpers.language_models import CONFIGURATIONS, TEXT, VOCABULARY
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from libgraph_backends.lm.training import character_tokenizer
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _cache_of_tokens(tmp_path_factory):
    """Tokens are not kept in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    character_tokenizer(TEXT).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def bridges(tokenizer):
    """Random models whose weights are all random, norms and biases too."""
    bridges = {}
    for seed, (kind, config) in enumerate(CONFIGURATIONS.items()):
        generator = torch.Generator().manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        bridges[kind] = TransformerBridge.boot_transformers(
            kind, hf_model=model, tokenizer=tokenizer, device="cpu"
        )
        bridges[kind].enable_compatibility_mode(disable_warnings=True, no_processing=True)
    return bridges


@pytest.fixture(scope="session")
def ids(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, VOCABULARY, 400))
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path
