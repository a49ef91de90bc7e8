"""The backend `lm`: language models of Hugging Face, and a small one of characters bundled.

`loading` gets the model (a hub name, a folder, the bundled one), `network` cuts it into sections,
`text` makes sequences of tokens, `labels` says what features respond to. The score is the
cross-entropy of each next token, in nats.
"""

# Modules that need torch are imported where they are used: options are listed without it.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from libgraph import __version__
from libgraph.backend import Backend, Batch, UsageError
from libgraph_backends.lm.options import LMOptions, TrainingOptions

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


CHECKED = 2
"""Sequences on which logits are compared with those of the library that the model comes from."""


CHECKED_POSITIONS = 32
"""Positions in each of them, at most."""


class LM(Backend):
    """Language models.

    Args:
        options: which model, cut where, on which text.
        model: one that is loaded already, in place of `options.model`: of Hugging Face, or a
            `TransformerBridge` in compatibility mode, its weights unprocessed. It is not changed.
        tokenizer: of that model; a bridge has its own. Without one only token ids can be read.
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
        self,
        options: TypedOptions | None = None,
        *,
        model: PreTrainedModel | TransformerBridge | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__(options)
        if model is None and tokenizer is not None:
            raise UsageError("A tokenizer goes with a model: give both, or options.model alone.")
        self._given, self._tokenizer = model, tokenizer

    @cached_property
    def loaded(self) -> LanguageModel:
        """The model and its tokenizer.

        Raises:
            BackendError: if it cannot be found or loaded, saying what to do.
            NumericalError: if its parameters are not finite.
        """
        from libgraph_backends.lm import loading

        if self._given is not None:
            return loading.given(self._given, self._tokenizer)
        if self.options.model is not None:
            return loading.load_model(self.options.model, self.options.revision)
        return loading.load_bundled()

    @cached_property
    def cut(self) -> CutTransformer:
        """The model, some blocks of it as sections."""
        from libgraph_backends.lm.network import CutTransformer

        prefix = self.loaded.first_token() if self.options.skip_first else None
        return CutTransformer(self.loaded.model, self.options, prefix)

    def network(self) -> Network:
        """The blocks asked for, between the node layers asked for, in double precision."""
        network = self.cut.network()
        if self._given is not None:
            self._agreement  # noqa: B018
        return network

    @cached_property
    def _agreement(self) -> bool:
        """That sections and the library agree on logits: found out once for each model.

        It takes the whole model, so that a plan does without.
        """
        from libgraph_backends.lm.memory import remember, remembered

        key = None if self._given is not None else self._check_key()
        if key is None or self.options.check or not remembered("agreement", key):
            self.cut.check_logits(self._splits["train"][:CHECKED, :-1][:, :CHECKED_POSITIONS])
            if key is not None:
                remember("agreement", key, True)
        return True

    def _check_key(self) -> str:
        """What has to be the same where logits agreed before."""
        import torch
        import transformers

        versions = (__version__, torch.__version__, transformers.__version__)
        return repr((self.loaded.model.digest(), versions, self.options.skip_first))

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
        self._agreement  # noqa: B018
        return self.cut.head.losses(outputs, targets)

    def fingerprint(self) -> str:
        """Of the blocks and the unembedding after the network, through which scores run."""
        self._agreement  # noqa: B018
        return self.cut.head.fingerprint()

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Tokens in context, tokens or position that carry the variance, and effects on logits."""
        import torch

        from libgraph_backends.lm.labels import text_labels

        rows = self._splits["train"][:, :-1]
        unembed = self.cut.head.unembed(torch.float32)
        return text_labels(rows, encode, bases, self.loaded, unembed)

    def show(self, inputs: Int[Tensor, "n T"]) -> Sequence[Sequence[str]]:
        """The tokens, each with the space before it that is in no token."""
        from libgraph_backends.lm.text import is_word, token_text

        tokenizer = self.loaded.tokenizer
        texts = {
            token: " " * is_word(tokenizer, token) + token_text(tokenizer, token)
            for token in inputs.unique().tolist()
        }
        return [[texts[token] for token in row] for row in inputs.tolist()]

    def inputs_of(self, text: str) -> Int[Tensor, "1 T"]:
        """The tokens of a text, as many as the model has positions for.

        Raises:
            BackendError: if the model has no tokenizer.
            DataError: if the tokenizer does not know the text.
            UsageError: if there is no token in it, or too many.
        """
        from libgraph_backends.lm.text import prompt_tokens

        return prompt_tokens(text, self.loaded, self._most_positions)

    def continued(self, inputs: Int[Tensor, "1 T"], chosen: int) -> Int[Tensor, "1 T"]:
        """The tokens and one more; the first are left out where the model has no more positions."""
        import torch

        more = torch.cat([inputs, inputs.new_tensor([[chosen]])], dim=1)
        return more[:, -self._most_positions :]

    @property
    def _most_positions(self) -> int:
        return int(self.loaded.model.shape.positions) - self.options.skip_first

    def logits(self, outputs: Float[Tensor, "n t d"]) -> Float[Tensor, "n t vocabulary"]:
        """Of the next token, through the blocks and the unembedding that follow."""
        return self.cut.head.logits(outputs)

    def class_names(self, numbers: Sequence[int]) -> Sequence[str]:
        """The tokens."""
        return [self.token_name(number) for number in numbers]

    def token_name(self, token: int) -> str:
        """How a token is written in labels: spaces that belong to it can be seen."""
        from libgraph_backends.lm.labels import alone
        from libgraph_backends.lm.text import token_text

        return alone(token_text(self.loaded.tokenizer, token))

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Outcome:
        """Train a character-level GPT-2 on a text file, into a Hugging Face folder."""
        from libgraph_backends.lm.loading import require_libraries
        from libgraph_backends.lm.training import train

        require_libraries()
        return train(TrainingOptions.model_validate(options), directory, progress)


class GPT2(LM):
    """The backend `lm` by the name that it had: runs of that name go on."""

    name = "gpt2"
    summary = "the same as lm, which it was called before"
