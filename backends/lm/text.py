"""Text to sequences of tokens: from a file, a data set of Hugging Face, or token ids as they are.

Everything is tokenised once and packed end to end into rows of equal length; the tokens of a file
are kept in the user's cache under the hash of the file and of the tokenizer. What the tokenizer
does not know of a text is said, and refused where it is much.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import as_file
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from libgraph.backend import (
    BackendError,
    DataError,
    Split,
    UsageError,
    read_array,
    read_tensors,
    write_tensors,
)
from libgraph_backends.lm.documents import (
    data_set,
    decoded,
    is_there,
    lines_of_json,
    read_content,
)
from libgraph_backends.lm.libraries import reason
from libgraph_backends.lm.loading import BUNDLED, LanguageModel
from libgraph_backends.lm.memory import cache
from libgraph_backends.lm.options import LMOptions
from libgraph_backends.lm.tokenizer import (
    SPACE,
    Coverage,
    description,
    end_of_text,
    is_random,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("libgraph")


BUNDLED_CONTEXT = 64
"""Positions in a sequence of the bundled model, which knows twice as many."""


LARGEST_CONTEXT = 128
"""Positions in a sequence, unless asked for otherwise."""


BUNDLED_SEQUENCES = 128
"""Rows of the bundled text, unless asked for otherwise: an analysis is a matter of minutes."""


DATA_SET_SEQUENCES = 1024
"""Rows taken from a data set, unless asked for otherwise."""


MOST_UNKNOWN = 0.1
"""Share of tokens that a tokenizer may not know, and of characters that it may leave out."""


LARGEST_ID = 2**62
"""No vocabulary is larger: unsigned numbers beyond must not turn negative."""


ARRAY = b"\x93NUMPY"
"""What a .npy file begins with, whatever its name."""


SIGNS = {"\n": "⏎", "\t": "⇥", "|": "¦"}
"""For characters that have no place in a label."""


JOINERS = "\u200c\u200d"
"""What holds letters of one word, or the parts of one picture, apart or together."""


END_OF_WORD = "</w>"
"""How some vocabularies write the space after a token."""


class TextForm(NamedTuple):
    """How to read a file: what to call it, its encoding, the field of its lines if it has such."""

    source: str
    encoding: str
    column: str | None


def token_text(tokenizer: PreTrainedTokenizerBase | None, token: int) -> str:
    """The text of a token, with signs for characters that cannot be seen; a number without one.

    Spaces that belong to it are in it, whether a vocabulary writes ` the`, `▁the` or `the</w>`.
    """
    if tokenizer is None:
        return str(token)
    text, name = str(tokenizer.decode([token])), str(tokenizer.convert_ids_to_tokens(token) or "")
    if SPACE in name and SPACE not in text:
        text = name.replace(SPACE, " ")
    elif name.endswith(END_OF_WORD) and not text.endswith((" ", END_OF_WORD)):
        text += " "
    elif "\ufffd" in text or not text:
        # Part of a character, or of none: only the tokenizer's own name tells it from others.
        text = name or f"⟨{token}⟩"
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    """The character, or a sign or an escape for it where it cannot be seen."""
    if character in SIGNS or character in JOINERS:
        return SIGNS.get(character, character)
    if unicodedata.category(character)[0] != "C":
        return character
    # One that no other has: two tokens never look the same.
    return character.encode("unicode-escape", "surrogatepass").decode("ascii")


def is_word(tokenizer: PreTrainedTokenizerBase | None, token: int) -> bool:
    """Whether a space that is in no token comes between this one and the one before it."""
    if tokenizer is None:
        return True
    text = str(tokenizer.decode([token]))
    if not text or " " in token_text(tokenizer, token):
        return False
    return str(tokenizer.decode([token, token])) == f"{text} {text}"


def read_splits(
    options: LMOptions, model: LanguageModel, *, is_bundled: bool
) -> dict[Split, Int[Tensor, "n length"]]:
    """Rows of tokens, one longer than a sequence has positions, the last ones held out.

    Raises:
        DataError: if the text cannot be used, or is too short.
        UsageError: if there is no text, or the model knows fewer positions.
    """
    shape = model.model.shape
    positions = _positions(options, shape.positions, is_bundled)
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
            vocabulary=shape.vocabulary,
            column=options.column,
            encoding=options.encoding,
            trouble=model.trouble,
        )
    test = max(1, round(options.test_share * len(rows)))
    if test >= len(rows):
        raise DataError(
            f"Of {len(rows)} rows of {positions} tokens a test_share of "
            f"{options.test_share:g} leaves none to compute on: choose a smaller one, "
            "a smaller n_ctx or a longer text."
        )
    train = rows[:-test]
    if options.gram_sequences is not None and options.gram_sequences > len(train):
        log.warning(
            "Bases are made from %d rows, not from gram_sequences=%d: there are no more, as "
            "%d of %d are held out. With sequences=… more are taken.",
            len(train),
            options.gram_sequences,
            test,
            len(rows),
        )
    return {"train": train, "test": rows[-test:], "bases": train[: options.gram_sequences]}


def _positions(options: LMOptions, largest: int, is_bundled: bool) -> int:
    """Positions in a sequence of a model that knows so many."""
    largest -= options.skip_first
    usual = BUNDLED_CONTEXT if is_bundled else LARGEST_CONTEXT
    positions = options.n_ctx or min(usual, largest)
    if positions > largest:
        first = " beside the first one" if options.skip_first else ""
        raise UsageError(f"n_ctx={positions} is more than the model's {largest} positions{first}.")
    return positions


def _most_rows(options: LMOptions, source: str) -> int | None:
    """How many rows to take; None for all of a user's file."""
    if options.sequences is not None:
        return options.sequences
    if not options.text:
        return BUNDLED_SEQUENCES
    return None if is_there(source) else DATA_SET_SEQUENCES


def sequences(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    length: int,
    most: int | None,
    vocabulary: int,
    column: str,
    encoding: str = "utf-8",
    trouble: str | None = None,
) -> Int[Tensor, "n length"]:
    """Rows of `length` tokens, as many as there are or `most`.

    Args:
        source: a file (`.txt`, `.jsonl`, `.npy` with token ids), a pipe (`-` for standard input)
            or the name of a data set.
        tokenizer: of Hugging Face; None where only token ids can be read.
        length: tokens in a row.
        most: rows to take, None for all.
        vocabulary: number of tokens that the model knows.
        column: the field of a data set or of a line of `.jsonl` that holds the text.
        encoding: of a text file without a mark that says so.
        trouble: why there is no tokenizer, if there should be one.

    Raises:
        DataError: if there is no such text, if it is shorter than one row, or if the model does
            not know a token.
    """
    content = _content(source)
    if isinstance(content, Tensor):
        tokens = content
        if trouble is not None:
            log.warning("%s: tokens are called by their numbers.", trouble)
    elif tokenizer is None:
        problem = trouble or f"The model has no tokenizer for '{source}'"
        raise DataError(f"{problem}: give token ids (.npy).")
    else:
        if is_random(tokenizer):
            raise DataError(
                "The model's tokenizer leaves out merges at random (dropout): take the dropout out "
                "of its tokenizer.json, or give token ids (.npy)."
            )
        end = end_of_text(tokenizer, vocabulary)
        if content is None:
            needed = None if most is None else most * length
            tokens, coverage = _tokenised(data_set(source, column), tokenizer, end, needed)
        else:
            kind = Path(source).suffix.lower()
            form = TextForm(source, encoding, column if kind == ".jsonl" else None)
            tokens, coverage = _file_tokens(content, form, tokenizer, end)
        _check(coverage)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        wrong = int(tokens[(tokens < 0) | (tokens >= vocabulary)][0])
        shown = f"over {wrong - 1}" if wrong == LARGEST_ID else wrong
        raise DataError(
            f"'{source}' has token {shown}, but the model knows tokens 0 to {vocabulary - 1}: "
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


def _content(source: str) -> Int[Tensor, " tokens"] | bytes | None:
    """Token ids or the content of a file or a pipe; None for the name of a data set."""
    path = Path(source)
    is_array = path.suffix.lower() == ".npy"
    if not is_there(source):
        if is_array or path.suffix.lower() in (".txt", ".jsonl"):
            raise DataError(
                f"The text '{source}' does not exist: give a file or the name of a data set."
            )
        return None
    if is_array and path.is_file():
        return _token_ids(source, path)
    content = read_content(source)
    if is_array or content.startswith(ARRAY):
        return _token_ids(source, BytesIO(content))
    return content


def _token_ids(source: str, file: Path | BytesIO) -> Int[Tensor, " tokens"]:
    """Whole numbers of any size and byte order."""
    try:
        ids = read_array(file)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"The token ids '{source}' cannot be read: {reason}.") from None
    if ids is None:
        raise DataError(f"'{source}' is not a NumPy array of token ids, or it is damaged.")
    if ids.dtype.kind not in "iu":
        raise DataError(f"'{source}' holds {ids.dtype} numbers, not token ids: save whole numbers.")
    flat = ids.reshape(-1)
    if flat.dtype.kind == "u" and flat.dtype.itemsize == 8:
        flat = np.minimum(flat, np.uint64(LARGEST_ID))
    return torch.from_numpy(flat.astype(np.int64))


def _file_tokens(
    content: bytes, form: TextForm, tokenizer: PreTrainedTokenizerBase, end: int | None
) -> tuple[Int[Tensor, " tokens"], Coverage]:
    """Tokens of a file; kept in the user's cache, because large files take minutes."""
    key = hashlib.sha256(content)
    key.update(repr((form.encoding, form.column, end)).encode())
    key.update(description(tokenizer))
    cached = cache() / f"tokens-{key.hexdigest()[:32]}"
    # One that is not there, is damaged or of an earlier version, or may not be read, is made anew.
    with suppress(UsageError, KeyError, OSError):
        kept = read_tensors(cached)
        return kept["tokens"], Coverage(tokenizer, *kept["coverage"].tolist())
    text = decoded(content, form.source, form.encoding)
    column = form.column
    texts = [text] if column is None else lines_of_json(text, form.source, column)
    tokens, coverage = _tokenised(texts, tokenizer, end, None)
    # A cache that cannot be written only costs time.
    with suppress(UsageError, OSError):
        write_tensors(cached, {"tokens": tokens, "coverage": torch.tensor(coverage.counts)})
    return tokens, coverage


def _tokenised(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, end: int | None, needed: int | None
) -> tuple[Int[Tensor, " tokens"], Coverage]:
    """Tokens of all texts end to end, or of as many as needed; `end` stands between them."""
    between = [] if end is None else [end]
    parts: list[list[int]] = []
    coverage = Coverage(tokenizer)
    for text in texts:
        # Half of a surrogate pair, which JSON can spell, is no character.
        text = text.encode("utf-8", "replace").decode()
        try:
            ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            coverage.add(text, ids)
        except Exception as error:
            # Whatever a word that it does not know leads a tokenizer to.
            raise DataError(
                f"The model's tokenizer fails on this text ({reason(error)}): use a text like the "
                "one that the model was trained on, or give token ids (.npy)."
            ) from None
        parts += [between] if parts else []
        parts.append(ids)
        if needed is not None and coverage.tokens >= needed:
            break
    tokens = torch.tensor(list(itertools.chain.from_iterable(parts)), dtype=torch.int64)
    return tokens, coverage


def prompt_tokens(text: str, loaded: LanguageModel, most: int) -> Int[Tensor, "1 T"]:
    """The tokens of what somebody typed.

    Raises:
        BackendError: if the model has no tokenizer.
        DataError: if the tokenizer does not know the text.
        UsageError: if there is no token in it, or more than the model has positions for.
    """
    if loaded.tokenizer is None:
        why = "" if loaded.trouble is None else f" ({loaded.trouble})"
        raise BackendError(
            f"The model has no tokenizer{why}: choose a sample of its token ids by its number."
        )
    tokens, coverage = _tokenised([text], loaded.tokenizer, None, None)
    _check(coverage)
    if not 0 < len(tokens) <= most:
        raise UsageError(f"This text has {len(tokens)} tokens: the model needs 1 to {most}.")
    return tokens[None]


def _check(coverage: Coverage) -> None:
    """Refuse a text of which the tokenizer does not know much; say so where it is little.

    Raises:
        DataError: if it is more than `MOST_UNKNOWN`.
    """
    for does, lost, count, things in (
        ("does not know", coverage.unknown, coverage.tokens, "tokens"),
        ("leaves out", coverage.dropped, coverage.characters, "characters"),
    ):
        what = f"The model's tokenizer {does} {lost} of {count} {things} of this text"
        if lost > MOST_UNKNOWN * count:
            raise DataError(f"{what}: use a text like the one that the model was trained on.")
        if lost:
            log.warning("%s.", what)
