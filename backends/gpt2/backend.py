"""The backend `gpt2`: language models of Hugging Face, and a small one of characters bundled.

`hugging_face` loads the model (a hub name, a folder, the bundled one), `transformer` cuts it into
sections, `text` makes sequences of tokens, `token_labels` says what features respond to. The
score is the cross-entropy of each next token, in nats.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from libgraph.backend.contract import Backend, Batch, Encode, Split
from libgraph.backend.options import TypedOptions
from libgraph.errors import BackendError, DataError, UsageError
from libgraph.network.network import Network
from libgraph.progress import Progress
from libgraph.sections import Section
from libgraph_backends.gpt2.loading import AGREEMENT, LanguageModel, load_model
from libgraph_backends.gpt2.options import GPT2Options, TrainingOptions

if TYPE_CHECKING:
    from libgraph.graph.features import FeatureLabel
    from libgraph.network.basis import Bases
    from libgraph_backends.gpt2.cutting import CutTransformer


log = logging.getLogger("libgraph")


BUNDLED = files("libgraph_backends.gpt2") / "weights"


BUNDLED_CONTEXT = 64
"""Positions in a sequence of the bundled model, which knows twice as many."""


LARGEST_CONTEXT = 128
"""Positions in a sequence, unless asked for otherwise."""


BUNDLED_SEQUENCES = 128
"""Rows of the bundled text, unless asked for otherwise: an analysis is a matter of minutes."""


DATA_SET_SEQUENCES = 1024
"""Rows taken from a data set, unless asked for otherwise."""


CHECKED = 4
"""Sequences on which the logits of the sections are compared with the model's own."""


LABELLED_TOKENS = 8192
"""Tokens that features are labelled from."""


LARGEST_LOGITS = 2**25
"""Logits computed at a time: vocabularies are larger than node layers."""


class GPT2(Backend):
    """Language models."""

    name = "gpt2"
    summary = "language models: GPT-2, TinyStories, Pythia, or a small one of characters"
    Options = GPT2Options
    Training = TrainingOptions
    options: GPT2Options
    score_name = "cross-entropy"
    higher_is_better = False
    tolerances = (0.05,)
    concept = "token"

    def __init__(self, options: TypedOptions | None = None, *, model: Any = None) -> None:
        """Args: `model`, a `TransformerBridge` that is loaded already."""
        super().__init__(options)
        self._model = model
        self._ends: dict[tuple[torch.dtype, torch.device], tuple[list[Section], Tensor]] = {}

    # The model

    @cached_property
    def loaded(self) -> LanguageModel:
        """The model and its tokenizer.

        Raises:
            BackendError: if it cannot be found or loaded, saying what to do.
            NumericalError: if its parameters are not finite.
        """
        if self._model is not None:
            return LanguageModel(self._model, self._model.tokenizer)
        if self.options.model is not None:
            return load_model(self.options.model, self.options.revision)
        with as_file(BUNDLED) as folder:
            return load_model(str(folder), None)

    @property
    def bridge(self) -> Any:
        """The model, as TransformerLens sees it."""
        return self.loaded.bridge

    @cached_property
    def cut(self) -> CutTransformer:
        """The model in sections, found to compute the same logits."""
        from libgraph_backends.gpt2.cutting import cut_transformer

        first, last = self._blocks()
        with torch.no_grad():
            cut = cut_transformer(
                self.bridge,
                first=first,
                last=last,
                cuts=self.options.cuts,
                prefix=self._first_token() if self.options.skip_first else None,
            )
        self._check(cut)
        return cut

    def _blocks(self) -> tuple[int, int]:
        count = self.bridge.cfg.n_layers
        start, _, stop = (self.options.layers or ":").partition(":")
        first, last = int(start or 0), int(stop or count)
        if not 0 <= first < last <= count:
            raise UsageError(
                f"The model has blocks 0 to {count - 1}: layers={self.options.layers} is no "
                f"range of them, 0:{count} is all."
            )
        return first, last

    def _first_token(self) -> int:
        places = (self.loaded.tokenizer, self.bridge.original_model.config)
        found = (getattr(place, "bos_token_id", None) for place in places)
        token = next((each for each in found if each is not None), None)
        if token is None or not 0 <= token < self.bridge.cfg.d_vocab:
            raise BackendError(
                "The model has no begin-of-text token, which skip_first puts before every row."
            )
        return int(token)

    def _check(self, cut: CutTransformer) -> None:
        """Compare with the model's own logits.

        Raises:
            BackendError: if they differ: the model has something that sections do not.
        """
        inputs = self._splits["train"][:CHECKED, :-1]
        whole = inputs
        if self.options.skip_first:
            first = torch.full_like(inputs[:, :1], self._first_token())
            whole = torch.cat([first, inputs], dim=1)
        with torch.no_grad():
            expected = self.bridge(whole)[:, -inputs.shape[1] :].double()
            found = self._logits(cut, cut.network(inputs))
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < AGREEMENT:
            kind = self.bridge.original_model.config.model_type
            raise BackendError(
                f"Cut into sections the model '{kind}' gives other logits (by {error:.1e} of the "
                "largest): it has a part for which there is no section."
            )
        log.info("Sections and model agree on logits to %.1e of the largest.", error)

    def network(self) -> Network:
        """The blocks asked for, between the node layers asked for, in double precision."""
        return deepcopy(self.cut.network)

    def _logits(self, cut: CutTransformer, outputs: Tensor) -> Tensor:
        key = (outputs.dtype, outputs.device)
        if key not in self._ends:
            rest = [deepcopy(section).to(outputs) for section in cut.rest]
            self._ends[key] = rest, cut.unembed.to(outputs)
        rest, unembed = self._ends[key]
        for section in rest:
            outputs = section(outputs)
        return outputs @ unembed

    def score(
        self, outputs: Float[Tensor, "n t d"], targets: Int[Tensor, "n t"]
    ) -> Float[Tensor, " n"]:
        """Mean cross-entropy of the next token, in nats."""
        vocabulary = self.bridge.cfg.d_vocab
        rows = max(1, LARGEST_LOGITS // (targets.shape[1] * vocabulary))
        losses = [
            cross_entropy(
                self._logits(self.cut, some).flatten(0, 1), wanted.flatten(), reduction="none"
            )
            for some, wanted in zip(outputs.split(rows), targets.split(rows), strict=True)
        ]
        by_row: Tensor = torch.cat(losses).unflatten(0, targets.shape)
        return by_row.mean(1)

    # The text

    @property
    def bases_split(self) -> Split:
        """Bases may be made from more text than interactions."""
        return "train" if self.options.gram_sequences is None else "bases"

    @cached_property
    def _splits(self) -> dict[Split, Int[Tensor, "n length"]]:
        known = self.bridge.cfg.n_ctx - int(self.options.skip_first)
        usual = BUNDLED_CONTEXT if self._is_bundled else LARGEST_CONTEXT
        positions = self.options.n_ctx or min(usual, known)
        if positions > known:
            first = " beside the first one" if self.options.skip_first else ""
            raise UsageError(
                f"n_ctx={positions} is more than the model's {known} positions{first}."
            )
        most = self.options.sequences
        from libgraph_backends.gpt2.text import sequences

        with as_file(BUNDLED / "text.txt") as bundled:
            source = self.options.text or (str(bundled) if self._is_bundled else None)
            if source is None:
                raise UsageError(
                    f"There is no text to run '{self.options.model or 'the model'}' on: give a "
                    "file or a data set with -o text=…"
                )
            if most is None and not self.options.text:
                most = BUNDLED_SEQUENCES
            elif most is None and not Path(source).is_file():
                most = DATA_SET_SEQUENCES
            rows = sequences(
                source,
                self.loaded.tokenizer,
                length=positions + 1,
                most=most,
                vocabulary=self.bridge.cfg.d_vocab,
                column=self.options.column,
            )
        test = max(1, round(self.options.test_share * len(rows)))
        if test >= len(rows):
            raise DataError(
                f"Of {len(rows)} rows of {positions} tokens a test_share of "
                f"{self.options.test_share:g} leaves none to compute on: choose a smaller one, "
                "a smaller n_ctx or a longer text."
            )
        train = rows[:-test]
        return {
            "train": train,
            "test": rows[-test:],
            "bases": train[: self.options.gram_sequences],
        }

    @property
    def _is_bundled(self) -> bool:
        return self._model is None and self.options.model is None

    def samples(self, split: Split) -> int:
        """Rows of text."""
        return len(self._splits[split])

    def batches(self, split: Split, batch_size: int) -> Iterator[Batch]:
        """Rows of tokens, and the same one token on."""
        for rows in self._splits[split].split(batch_size):
            yield Batch(rows[:, :-1], rows[:, 1:])

    # What features stand for

    def labels(self, encode: Encode, bases: Bases) -> Mapping[str, Sequence[FeatureLabel]]:
        """Tokens in context, tokens or position that carry the variance, and effects on logits."""
        from libgraph_backends.gpt2.labels import EXAMPLES, token_labels

        rows = self._splits["train"][:, :-1]
        count = max(2, LABELLED_TOKENS // rows.shape[1])
        unembed, d = self.cut.unembed[:-1].float(), self.bridge.cfg.d_model

        def effect(decoder: Tensor) -> tuple[Tensor, Tensor]:
            # The residual stream is last but for the constant.
            stream = decoder[:, -d - 1 : -1].cpu().float()
            if self.bridge.cfg.normalization_type == "LN":
                stream = stream - stream.mean(1, keepdim=True)
            count = min(EXAMPLES, unembed.shape[1])
            parts = stream.split(max(1, LARGEST_LOGITS // unembed.shape[1]))
            found = [
                [(sign * part @ unembed).topk(count).indices for part in parts] for sign in (1, -1)
            ]
            return torch.cat(found[0]), torch.cat(found[1])

        return token_labels(
            rows[:count],
            encode,
            bases,
            name=self.token_name,
            effect=effect,
            batch_size=max(1, 512 // rows.shape[1]),
        )

    def token_name(self, token: int) -> str:
        """The text of a token, with signs for characters that cannot be seen."""
        tokenizer = self.loaded.tokenizer
        if tokenizer is None:
            return str(token)
        text = tokenizer.decode([token])
        if "\ufffd" in text:
            # Part of a character: only the tokenizer's own name tells it from others.
            text = str(tokenizer.convert_ids_to_tokens(token))
        return "".join(SIGNS.get(c, c if unicodedata.category(c)[0] != "C" else "�") for c in text)

    @classmethod
    def train(cls, options: TypedOptions, directory: Path, progress: Progress) -> Mapping[str, Any]:
        """Train a character-level GPT-2 on a text file, into a Hugging Face folder."""
        from libgraph_backends.gpt2.training import train

        return train(TrainingOptions.model_validate(options.model_dump()), directory, progress)


SIGNS = {"\n": "⏎", "\t": "⇥", "|": "¦"}
"""For characters that have no place in a label."""
