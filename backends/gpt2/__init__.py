"""Language models: GPT-2 and those built like it, on any text."""

from libgraph_backends.gpt2.backend import GPT2

__all__ = ["GPT2"]
