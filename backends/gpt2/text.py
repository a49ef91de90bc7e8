"""Text to sequences of tokens: from a file, a data set of Hugging Face, or token ids as they are.

Everything is tokenised once and packed end to end into rows of equal length; the tokens of a file
are kept in the user's cache under the hash of the file and of the tokenizer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.resources import as_file
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs
import torch
from jaxtyping import Int
from torch import Tensor

from libgraph.backend import DataError, Split, UsageError, read_tensors, reading, write_tensors
from libgraph_backends.gpt2.loading import BUNDLED, LanguageModel
from libgraph_backends.gpt2.options import GPT2Options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUNDLED_CONTEXT = 64
"""Positions in a sequence of the bundled model, which knows twice as many."""


LARGEST_CONTEXT = 128
"""Positions in a sequence, unless asked for otherwise."""


BUNDLED_SEQUENCES = 128
"""Rows of the bundled text, unless asked for otherwise: an analysis is a matter of minutes."""


DATA_SET_SEQUENCES = 1024
"""Rows taken from a data set, unless asked for otherwise."""


MOST_UNKNOWN = 0.1
"""Share of tokens that a tokenizer may not know."""


SIGNS = {"\n": "⏎", "\t": "⇥", "|": "¦"}
"""For characters that have no place in a label."""


JOINERS = "\u200c\u200d"
"""What holds letters of one word, or the parts of one picture, apart or together."""


def token_text(tokenizer: PreTrainedTokenizerBase | None, token: int) -> str:
    """The text of a token, with signs for characters that cannot be seen; a number without one."""
    if tokenizer is None:
        return str(token)
    text = str(tokenizer.decode([token]))
    if "\ufffd" in text:
        # Part of a character: only the tokenizer's own name tells it from others.
        text = str(tokenizer.convert_ids_to_tokens(token))
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    """The character, or a sign or an escape for it where it cannot be seen."""
    if character in SIGNS or character in JOINERS:
        return SIGNS.get(character, character)
    if unicodedata.category(character)[0] != "C":
        return character
    # One that no other has: two tokens never look the same.
    return character.encode("unicode-escape", "surrogatepass").decode("ascii")


def read_splits(
    options: GPT2Options, model: LanguageModel, *, is_bundled: bool
) -> dict[Split, Int[Tensor, "n length"]]:
    """Rows of tokens, one longer than a sequence has positions, the last ones held out.

    Raises:
        DataError: if the text cannot be used, or is too short.
        UsageError: if there is no text, or the model knows fewer positions.
    """
    cfg = model.bridge.cfg
    positions = _positions(options, cfg.n_ctx, is_bundled)
    with as_file(BUNDLED / "text.txt") as bundled:
        source = options.text or (str(bundled) if is_bundled else None)
        if source is None:
            raise UsageError(
                f"There is no text to run '{options.model or 'the model'}' on: give a "
                "file or a data set with -o text=…"
            )
        rows = sequences(
            source,
            model.tokenizer,
            length=positions + 1,
            most=_most_rows(options, source),
            vocabulary=cfg.d_vocab,
            column=options.column,
        )
    test = max(1, round(options.test_share * len(rows)))
    if test >= len(rows):
        raise DataError(
            f"Of {len(rows)} rows of {positions} tokens a test_share of "
            f"{options.test_share:g} leaves none to compute on: choose a smaller one, "
            "a smaller n_ctx or a longer text."
        )
    train = rows[:-test]
    return {"train": train, "test": rows[-test:], "bases": train[: options.gram_sequences]}


def _positions(options: GPT2Options, largest: int, is_bundled: bool) -> int:
    """Positions in a sequence of a model that knows so many."""
    largest -= options.skip_first
    usual = BUNDLED_CONTEXT if is_bundled else LARGEST_CONTEXT
    positions = options.n_ctx or min(usual, largest)
    if positions > largest:
        first = " beside the first one" if options.skip_first else ""
        raise UsageError(f"n_ctx={positions} is more than the model's {largest} positions{first}.")
    return positions


def _most_rows(options: GPT2Options, source: str) -> int | None:
    """How many rows to take; None for all of a user's file."""
    if options.sequences is not None:
        return options.sequences
    if not options.text:
        return BUNDLED_SEQUENCES
    with reading(source, DataError, "The text "):
        return None if Path(source).is_file() else DATA_SET_SEQUENCES


def sequences(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    length: int,
    most: int | None,
    vocabulary: int,
    column: str,
) -> Int[Tensor, "n length"]:
    """Rows of `length` tokens, as many as there are or `most`.

    Args:
        source: a file (`.txt`, `.jsonl`, `.npy` with token ids) or the name of a data set.
        tokenizer: of Hugging Face; None where only token ids can be read.
        length: tokens in a row.
        most: rows to take, None for all.
        vocabulary: number of tokens that the model knows.
        column: the field of a data set or of a line of `.jsonl` that holds the text.

    Raises:
        DataError: if there is no such text, if it is shorter than one row, or if the model does
            not know a token.
    """
    tokens = _tokens(source, tokenizer, None if most is None else most * length, column)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        wrong = int(tokens.max()) if int(tokens.max()) >= vocabulary else int(tokens.min())
        raise DataError(
            f"'{source}' has token {wrong}, but the model knows tokens 0 to {vocabulary - 1}: "
            "the tokenizer or the token ids are not this model's."
        )
    rows = len(tokens) // length
    if not rows:
        raise DataError(
            f"'{source}' has {len(tokens)} tokens, fewer than one sequence of {length}: "
            "choose a smaller n_ctx or a longer text."
        )
    packed: Tensor = tokens[: rows * length].unflatten(0, (rows, length))
    return packed[:most]


def _tokens(
    source: str, tokenizer: PreTrainedTokenizerBase | None, needed: int | None, column: str
) -> Int[Tensor, " tokens"]:
    """All tokens of a file, or as many as are needed of a data set."""
    path = Path(source)
    kind = path.suffix.lower()
    with reading(source, DataError, "The text "):
        exists = path.exists()
    if path.is_dir() or (not exists and kind in (".txt", ".jsonl", ".npy")):
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"The text '{source}' {what}: give a file or the name of a data set.")
    if kind == ".npy":
        return _token_ids(path)
    if tokenizer is None:
        raise DataError(f"The model has no tokenizer for '{source}': give token ids (.npy).")
    if path.is_file():
        return _file_tokens(path, tokenizer, column)
    return _tokenised(_data_set(source, column), tokenizer, needed)


def _token_ids(path: Path) -> Int[Tensor, " tokens"]:
    try:
        ids = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"The token ids '{path}' cannot be read: {error.strerror}.") from None
    except (ValueError, EOFError):
        ids = None
    if not isinstance(ids, np.ndarray):
        raise DataError(f"'{path}' is not a NumPy array of token ids.")
    if ids.dtype.kind not in "iu":
        raise DataError(f"'{path}' holds {ids.dtype} numbers, not token ids.")
    # No vocabulary is larger; unsigned numbers beyond must not turn negative.
    return torch.from_numpy(np.minimum(ids.reshape(-1), 2**62).astype(np.int64))


def _file_tokens(
    path: Path, tokenizer: PreTrainedTokenizerBase, column: str
) -> Int[Tensor, " tokens"]:
    """Tokens of a file; kept in the user's cache, because large files take minutes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"The text '{path}' cannot be read: {error.strerror}.") from None
    key = hashlib.sha256(content)
    key.update(repr((column, path.suffix, tokenizer.eos_token_id)).encode())
    key.update(_description(tokenizer))
    cached = Path(platformdirs.user_cache_dir("libgraph")) / f"tokens-{key.hexdigest()[:32]}"
    # A home that may not be looked into has no cache.
    if os.path.isfile(cached):
        try:
            return read_tensors(cached)["tokens"]
        except (UsageError, KeyError):
            with suppress(OSError):
                cached.unlink()
    tokens = _tokenised(_texts(content, path, column), tokenizer, None)
    # A cache that cannot be written only costs time.
    with suppress(UsageError):
        write_tensors(cached, {"tokens": tokens})
    return tokens


def _texts(content: bytes, path: Path, column: str) -> Iterable[str]:
    """The text of a file, or those in its lines of JSON."""
    try:
        # Line ends are those of Python, as in training.
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not text in UTF-8.") from None
    return _lines(text, path, column) if path.suffix.lower() == ".jsonl" else [text]


def _description(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """All that decides which tokens a tokenizer makes."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    text = fast.to_str() if fast is not None else repr(sorted(tokenizer.get_vocab().items()))
    return f"{type(tokenizer).__name__} {text}".encode()


def _lines(text: str, path: Path, column: str) -> Iterator[str]:
    # Not `splitlines`, which also ends lines at signs that JSON allows within them.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)[column]
        except (json.JSONDecodeError, RecursionError, TypeError, KeyError):
            value = None
        if not isinstance(value, str):
            raise DataError(
                f"Line {number} of '{path}' is not a JSON object with text in a field '{column}': "
                "choose another with -o column=…"
            )
        yield value


def _tokenised(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, needed: int | None
) -> Int[Tensor, " tokens"]:
    """Tokens of all texts end to end, the tokenizer's end-of-text between them."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts: list[list[int]] = []
    count = unknown = 0
    for text in texts:
        # Half of a surrogate pair, which JSON can spell, is no character.
        text = text.encode("utf-8", "replace").decode()
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        parts += [end] if parts else []
        parts.append(ids)
        count += len(ids)
        unknown += ids.count(tokenizer.unk_token_id) - text.count(tokenizer.unk_token or "\0")
        if needed is not None and count >= needed:
            break
    if unknown > MOST_UNKNOWN * count:
        raise DataError(
            f"The model's tokenizer does not know {unknown} of {count} tokens of this text: use a "
            "text like the one that the model was trained on."
        )
    return torch.tensor(list(itertools.chain.from_iterable(parts)), dtype=torch.int64)


def _data_set(name: str, column: str) -> Iterator[str]:
    """Texts of a data set, as they come over the network or from the cache."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(name, split="train", streaming=True)
        for row in rows:
            if column not in row:
                raise DataError(
                    f"The data set '{name}' has no column '{column}': choose one of "
                    f"{', '.join(row)} with -o column=…"
                )
            if not isinstance(row[column], str):
                raise DataError(f"The column '{column}' of the data set '{name}' holds no text.")
            yield row[column]
    except (DatasetNotFoundError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"'{name}' is neither a file nor a data set that can be reached ({reason}): give a "
            "text file, or a name on huggingface.co."
        ) from None
