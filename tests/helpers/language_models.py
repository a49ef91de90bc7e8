"""Small random language models of every kind, and a text for them."""

import torch
import transformers

from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.options import LMOptions

VOCABULARY, CONTEXT = 30, 16


TEXT = "the cat sat on the mat, and the dog lay by the door.\n" * 40


_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
_NEOX = {
    "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12,
    "max_position_embeddings": CONTEXT, **_TOKENS,
}  # fmt: skip
_GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": CONTEXT, **_TOKENS}
_NEO = {
    "num_layers": 2, "num_heads": 2, "hidden_size": 8, "max_position_embeddings": CONTEXT,
    "attention_types": [[["global", "local"], 1]], "window_size": 3, "intermediate_size": 12,
    **_TOKENS,
}  # fmt: skip


CONFIGURATIONS = {
    "gpt2": transformers.GPT2Config(**_GPT2),
    "gpt2-untied": transformers.GPT2Config(**_GPT2, tie_word_embeddings=False),
    "gpt2-relu": transformers.GPT2Config(**_GPT2, activation_function="relu"),
    "neo": transformers.GPTNeoConfig(**_NEO),
    "neox": transformers.GPTNeoXConfig(
        **_NEOX, rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 100.0}
    ),
    "neox-sequential": transformers.GPTNeoXConfig(**_NEOX, use_parallel_residual=False),
    "neox-tied": transformers.GPTNeoXConfig(**_NEOX, tie_word_embeddings=True),
    "llama": transformers.LlamaConfig(
        **{**_NEOX, "num_attention_heads": 4, "num_key_value_heads": 2}
    ),
}


_PADDED = {**_TOKENS, "pad_token_id": 0}
_PLAIN = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16, "intermediate_size": 12,
    "max_position_embeddings": CONTEXT, **_PADDED,
}  # fmt: skip
GROUPED = {**_PLAIN, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 6}
_GPT = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "n_positions": CONTEXT,
    "pad_token_id": 0,
    **_TOKENS,
}
_KINDS = ["full_attention", "sliding_attention"]


FAMILIES = {
    "GPTJ": {**_GPT, "rotary_dim": 2},
    "OPT": {**_PLAIN, "ffn_dim": 12, "word_embed_proj_dim": 16},
    "Mistral": {**GROUPED, "sliding_window": 3},
    "Qwen2": {**GROUPED, "use_sliding_window": True, "sliding_window": 3, "layer_types": _KINDS},
    "Qwen3": WIDE,
    "Phi": GROUPED,
    "Phi3": GROUPED,
    "Gemma": WIDE,
    "Gemma2": {**WIDE, "sliding_window": 3, "layer_types": _KINDS, "attn_logit_softcapping": 2.0},
    "Gemma3Text": {**WIDE, "sliding_window": 3, "layer_types": _KINDS},
    "Olmo": GROUPED,
    "Olmo2": GROUPED,
    "StableLm": {**GROUPED, "hidden_size": 32, "use_qkv_bias": True},
    "Starcoder2": GROUPED,
    "Granite": {**GROUPED, "residual_multiplier": 0.5, "logits_scaling": 3.0},
    "Cohere": GROUPED,
    "SmolLM3": GROUPED,
    "Glm": WIDE,
    "Nemotron": GROUPED,
}


def random_model(family):
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def language_model(bridge, text, **options):
    """A backend of rows of nine positions."""
    return LM(LMOptions(text=str(text), n_ctx=9, **options), model=bridge)


def tokenizer_of(model, folder, *, pre_tokenizer=None, decoder=None, **special):
    """A tokenizer around a model of the library `tokenizers`, saved in a folder and read back."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    whole.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)
