"""Small random language models of every kind, and a text for them."""

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
