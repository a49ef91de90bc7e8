"""Language models: GPT-2, Llama and those built like them, on any text."""

from libgraph_backends.lm.backend import GPT2, LM

__all__ = ["GPT2", "LM"]
