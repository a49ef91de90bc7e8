"""A model's tokenizer: reading it, and what it does not know of a text.

A tokenizer that is there and cannot be read is told from none: token ids can be used without, text
cannot. What a tokenizer leaves out of a text it says nothing about; it is found out here.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from libgraph_backends.lm.libraries import OWN_CODE, reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("libgraph")


FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""A folder with one of these has a tokenizer, whole or not."""


PAIRS = {"vocab.json": "merges.txt", "merges.txt": "vocab.json"}
"""Files that are a tokenizer together, where there is no tokenizer.json."""


SPACE = "▁"
"""How the vocabularies of SentencePiece write a space."""


INVISIBLE = ("C", "Z")
"""Categories of characters that a tokenizer may leave out: spaces, and those without a glyph."""


class Tokens(NamedTuple):
    """A model's tokenizer, or None; and why there is none where there should be one."""

    tokenizer: PreTrainedTokenizerBase | None
    trouble: str | None = None


def read_tokenizer(name: str, revision: str | None) -> Tokens:
    """The tokenizer of a folder or of a model on the hub, over the network only if it has to be."""
    folder = Path(name)
    is_folder = folder.is_dir()
    if is_folder:
        there = [file for file in FILES if (folder / file).is_file()]
        if not there:
            return Tokens(None)
        absent = [PAIRS[file] for file in there if file in PAIRS and PAIRS[file] not in there]
        if absent and "tokenizer.json" not in there:
            return Tokens(None, f"The tokenizer of '{name}' is not all there: '{absent[0]}' is not")
    try:
        tokenizer = _from_pretrained(name, revision, is_folder=is_folder)
    except Exception as error:
        # Whatever a file that is no tokenizer leads these libraries to.
        if OWN_CODE in str(error):
            return Tokens(None, f"The tokenizer of '{name}' is Python code, which is not run")
        return Tokens(None, f"The tokenizer of '{name}' cannot be read ({reason(error)})")
    if _is_empty(tokenizer):
        return Tokens(None, f"The tokenizer of '{name}' is not all there: it has no vocabulary")
    if tokenizer.init_kwargs.get("auto_map"):
        log.warning(
            "The tokenizer of '%s' comes with Python code, which is not run: it is read from its "
            "other files.",
            name,
        )
    return Tokens(tokenizer)


def _from_pretrained(
    name: str, revision: str | None, *, is_folder: bool
) -> PreTrainedTokenizerBase:
    import transformers

    load = transformers.AutoTokenizer.from_pretrained
    options: dict[str, Any] = {"revision": revision, OWN_CODE: False}
    try:
        local: PreTrainedTokenizerBase = load(name, local_files_only=True, **options)
        if is_folder or not _is_empty(local):
            return local
    except Exception:
        if is_folder:
            raise
    remote: PreTrainedTokenizerBase = load(name, **options)
    return remote


def _is_empty(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there are special tokens alone, as where a file was not found."""
    return not set(tokenizer.get_vocab()) - {*tokenizer.all_special_tokens, SPACE}


def end_of_text(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int | None:
    """What stands between texts; None without such a token, or if the model does not know it.

    TransformerLens gives a tokenizer one of its own, beyond the model's vocabulary.
    """
    token = tokenizer.eos_token_id
    return token if isinstance(token, int) and 0 <= token < vocabulary else None


def description(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """All that decides which tokens a tokenizer makes."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = fast.to_str() if fast is not None else repr(sorted(tokenizer.get_vocab().items()))
    split = bool(getattr(tokenizer, "split_special_tokens", False))
    return f"{type(tokenizer).__name__} {split} {text}".encode()


def is_random(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text may get other tokens the next time: by dropout of merges."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    model = getattr(fast, "model", None)
    return bool(getattr(model, "dropout", None))


# What it does not know


@dataclass
class Coverage:
    """How much of some texts a tokenizer knows.

    Args:
        tokenizer: of Hugging Face.
        tokens: of all texts so far.
        unknown: those of them that stand for something unknown.
        characters: of all texts so far, but for spaces.
        dropped: those of them that are in no token.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens: int = 0
    unknown: int = 0
    characters: int = 0
    dropped: int = 0
    _seen: set[str] = field(default_factory=set)
    _lost: set[str] = field(default_factory=set)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """What there is of it, and how much is lost: tokens, then characters."""
        return self.tokens, self.unknown, self.characters, self.dropped

    def add(self, text: str, ids: list[int]) -> None:
        """Take in a text and its tokens."""
        self.tokens += len(ids)
        token = self._unknown_token
        if token is not None:
            written = str(self.tokenizer.convert_ids_to_tokens(token))
            self.unknown += max(0, ids.count(token) - text.count(written))
        characters = set(text)
        self._look_at(characters - self._seen)
        self.characters += len("".join(text.split()))
        self.dropped += sum(text.count(character) for character in self._lost & characters)

    @cached_property
    def _unknown_token(self) -> int | None:
        """The token that stands for what is not known, also where only the model names it."""
        if self.tokenizer.unk_token_id is not None:
            return int(self.tokenizer.unk_token_id)
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return None
        model = json.loads(fast.to_str())["model"]
        name = model.get("unk_token")
        token = model.get("unk_id") if name is None else fast.token_to_id(name)
        return None if token is None else int(token)

    def _look_at(self, characters: set[str]) -> None:
        """Find those that make no token: written twice they are what they are written once."""
        self._seen |= characters
        visible = [c for c in sorted(characters) if unicodedata.category(c)[0] not in INVISIBLE]
        if not visible:
            return
        once, twice = (
            self.tokenizer([c * n for c in visible], add_special_tokens=False, verbose=False)
            for n in (1, 2)
        )
        ids = zip(visible, once["input_ids"], twice["input_ids"], strict=True)
        unknown = self._unknown_token
        self._lost |= {c for c, one, two in ids if one == two and unknown not in one}
