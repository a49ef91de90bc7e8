"""The backend `lm`: language models of Hugging Face, and a small one of characters bundled.

`loading` gets the model (a hub name, a folder, the bundled one), `network` cuts it into sections,
`text` makes sequences of tokens, `labels` says what features respond to. The score is the
cross-entropy of each next token, in nats.
"""

# Modules that need torch are imported where they are used: options are listed without it.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph.backend import Backend, Batch
from libgraph_backends.lm.options import LMOptions, TrainingOptions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformer_lens.model_bridge import TransformerBridge

    from libgraph.backend import (
        Bases,
        Encode,
        FeatureLabel,
        Network,
        Outcome,
        Progress,
        Split,
        TypedOptions,
    )
    from libgraph_backends.lm.loading import LanguageModel
    from libgraph_backends.lm.network import CutTransformer


CHECKED = 4
"""Sequences on which the logits of the sections are compared with the model's own."""


class LM(Backend):
    """Language models.

    Args:
        options: which model, cut where, on which text.
        model: a `TransformerBridge` that is loaded already, in compatibility mode, its weights
            unprocessed; in place of `options.model`.
    """

    name = "lm"
    summary = "language models: GPT-2, Llama, Pythia, Qwen, … or a small one of characters"
    Options = LMOptions
    Training = TrainingOptions
    options: LMOptions
    score_name = "cross-entropy"
    higher_is_better = False
    tolerances = (0.05,)
    concept = "token"

    def __init__(
        self, options: TypedOptions | None = None, *, model: TransformerBridge | None = None
    ) -> None:
        super().__init__(options)
        self._given = model

    @cached_property
    def loaded(self) -> LanguageModel:
        """The model and its tokenizer.

        Raises:
            BackendError: if it cannot be found or loaded, saying what to do.
            NumericalError: if its parameters are not finite.
        """
        from libgraph_backends.lm import loading

        if self._given is not None:
            return loading.LanguageModel(self._given, self._given.tokenizer)
        if self.options.model is not None:
            return loading.load_model(self.options.model, self.options.revision)
        return loading.load_bundled()

    @cached_property
    def cut(self) -> CutTransformer:
        """The model in sections, found to compute the same logits."""
        import torch

        from libgraph_backends.lm.network import check_logits, cut_transformer

        bridge = self.loaded.bridge
        prefix = self.loaded.first_token() if self.options.skip_first else None
        with torch.no_grad():
            cut = cut_transformer(bridge, self.options, prefix)
        check_logits(cut, bridge, self._splits["train"][:CHECKED, :-1], prefix)
        return cut

    def network(self) -> Network:
        """The blocks asked for, between the node layers asked for, in double precision."""
        return deepcopy(self.cut.network)

    @property
    def bases_split(self) -> Split:
        """Bases may be made from more text than interactions."""
        return "train" if self.options.gram_sequences is None else "bases"

    @cached_property
    def _splits(self) -> Mapping[Split, Int[Tensor, "n length"]]:
        from libgraph_backends.lm.text import read_splits

        is_bundled = self._given is None and self.options.model is None
        return read_splits(self.options, self.loaded, is_bundled=is_bundled)

    def samples(self, split: Split) -> int:
        """Rows of text."""
        return len(self._splits[split])

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Rows of tokens, and the same one token on."""
        for rows in self._splits[split].split(batch_size):
            yield Batch(rows[:, :-1], rows[:, 1:])

    def score(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, "n t"]
    ) -> Float[Tensor, " n"]:
        """Mean cross-entropy of the next token, in nats."""
        return self.cut.head.losses(outputs, targets)

    def fingerprint(self) -> str:
        """Of the blocks and the unembedding after the network, through which scores run."""
        return self.cut.head.fingerprint()

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Tokens in context, tokens or position that carry the variance, and effects on logits."""
        from libgraph_backends.lm.labels import text_labels

        rows = self._splits["train"][:, :-1]
        return text_labels(rows, encode, bases, self.loaded, self.cut.head.unembed)

    def token_name(self, token: int) -> str:
        """How a token is written in labels: spaces that belong to it can be seen."""
        from libgraph_backends.lm.labels import alone
        from libgraph_backends.lm.text import token_text

        return alone(token_text(self.loaded.tokenizer, token))

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Outcome:
        """Train a character-level GPT-2 on a text file, into a Hugging Face folder."""
        from libgraph_backends.lm.training import train

        return train(TrainingOptions.model_validate(options), directory, progress)


class GPT2(LM):
    """The backend `lm` by the name that it had: runs of that name go on."""

    name = "gpt2"
    summary = "the same as lm, which it was called before"
