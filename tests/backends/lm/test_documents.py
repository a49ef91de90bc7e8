"""Texts are read in the encoding that they have, from files and pipes; what is no text is told."""

import io
import json
import os
import sys
import threading

import datasets
import numpy as np
import pytest
import torch
from helpers.commands import fails
from helpers.language_models import TEXT, language_model

from libgraph.errors import DataError, UsageError
from libgraph_backends.lm.documents import decoded, read_content
from libgraph_backends.lm.options import LMOptions, TrainingOptions
from libgraph_backends.lm.training import read_text


class Input(io.TextIOWrapper):
    """Standard input with these bytes in it."""

    def __init__(self, content):
        super().__init__(io.BytesIO(content))


def tokens(backend):
    return torch.cat([batch.inputs for batch in backend.batches("train", 100)])


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin-1", "cp1252"]
)
def test_the_same_text_in_every_encoding(encoding, line_end, tmp_path):
    text = "naïve café\nof “two” lines\n" if encoding != "latin-1" else "naïve café\nof two lines\n"
    path = tmp_path / "a.txt"
    path.write_bytes(text.replace("\n", line_end).encode(encoding))
    # What a mark at the beginning says needs no option.
    option = "utf-8" if encoding in ("utf-8-sig", "utf-16", "utf-32") else encoding
    assert decoded(path.read_bytes(), "a.txt", option) == text
    assert read_text(path, option) == text


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("é".encode("latin-1"), "utf-8"),
        ("the cat".encode("utf-16-le"), "utf-8"),
        (np.arange(60, dtype=np.uint16).tobytes(), "utf-8"),
        (b"\xff\xfe\xfa", "utf-8"),
        ("é".encode(), "ascii"),
    ],
)
def test_what_is_no_text_in_an_encoding(content, encoding):
    with pytest.raises(DataError, match=r"'a.txt' is not text in .*encoding=….*\.npy"):
        decoded(content, "a.txt", encoding)


@pytest.mark.parametrize("encoding", ["klingon", "hex", "", "a\0b"])
@pytest.mark.parametrize("options", [LMOptions, TrainingOptions])
def test_encodings_that_there_are_not(encoding, options):
    with pytest.raises(UsageError, match="'encoding': use an encoding"):
        options(text="a.txt", encoding=encoding)


def test_empty_texts(bridges, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        language_model(bridges["gpt2"], path).samples("train")
    path.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(DataError, match="0 tokens, fewer"):
        language_model(bridges["gpt2"], path).samples("train")
    path.write_bytes(b"\xef\xbb\xbf \n")
    with pytest.raises(DataError, match="is empty"):
        read_text(path)


@pytest.mark.parametrize("kind", ["text", "ids"])
def test_standard_input(kind, bridges, text, ids, monkeypatch):
    path = {"text": text, "ids": ids}[kind]
    expected = tokens(language_model(bridges["gpt2"], path))
    monkeypatch.setattr(sys, "stdin", Input(path.read_bytes()))
    assert tokens(language_model(bridges["gpt2"], "-")).equal(expected)
    assert len(expected) > 3


def test_a_pipe_with_a_name(bridges, text, tmp_path):
    """As a shell makes one of `<(zcat text.gz)`; all of it is read, as of a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(text.read_bytes()))
    writer.start()
    read = tokens(language_model(bridges["gpt2"], pipe))
    writer.join()
    assert read.equal(tokens(language_model(bridges["gpt2"], text)))


def test_pipes_that_cannot_be_read(bridges, monkeypatch):
    for stream, message in ((Input(b""), "is empty"), (None, "cannot be read: there is none")):
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(DataError, match=message):
            read_content("-")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="read once, and not by several processes"):
        language_model(bridges["gpt2"], "-").samples("train")


def test_training_on_a_pipe(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Input(TEXT.encode()))
    code, _, err = run(
        "train", "lm", "-o", "text=-", "-o", "steps=1", "-o", "n_ctx=12", "-o", "layers=1",
        "-o", "d_model=8", "-o", "heads=2", "-o", "batch_size=1", "--out", tmp_path / "model",
    )  # fmt: skip
    assert code == 0, err


def test_token_ids_by_what_is_in_the_file(bridges, ids, tmp_path):
    path = tmp_path / "ids.dat"
    path.write_bytes(ids.read_bytes())
    assert tokens(language_model(bridges["gpt2"], path)).equal(
        tokens(language_model(bridges["gpt2"], ids))
    )


def test_files_that_nobody_may_read(run, text, ids, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    for name, source in (("a.txt", text), ("ids.npy", ids)):
        (tmp_path / name).write_bytes(source.read_bytes())
        (tmp_path / name).chmod(0)
        result = run("analyze", "lm", "-o", f"text={tmp_path / name}", "--dry-run")
        fails(result, 4, name, "Permission denied")
    (tmp_path / "closed").mkdir(mode=0)
    fails(run("analyze", "lm", "-o", "text=closed/a.txt"), 4, "Permission denied")
    fails(run("analyze", "lm", "-o", "model=closed/model"), 3, "Permission denied")


def test_names_that_no_file_can_have(bridges):
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        language_model(bridges["gpt2"], "x" * 10_000).samples("train")
    with pytest.raises(DataError, match="neither a file nor a data set"):
        language_model(bridges["gpt2"], "a\0b").samples("train")


def test_data_sets_that_cannot_be_used(bridges, monkeypatch):
    def rows(content):
        def load(name, **options):
            assert options == {"split": "train", "streaming": True}
            if isinstance(content, Exception):
                raise content
            return content

        return load

    script = RuntimeError("Dataset scripts are no longer supported, but found a.py")
    for content, message in (
        (script, "no longer supported"),
        ([{"story": "x"}], "no column 'text': choose one of story"),
        ([{"text": 3}], "holds no text"),
    ):
        monkeypatch.setattr(datasets, "load_dataset", rows(content))
        with pytest.raises(DataError, match=message):
            language_model(bridges["gpt2"], "somebody/texts").samples("train")
    monkeypatch.setattr(datasets, "load_dataset", rows([{"text": TEXT}]))
    assert language_model(bridges["gpt2"], "somebody/texts", sequences=8).samples("train") == 6


def test_lines_of_json_in_another_encoding(bridges, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"text": TEXT}).encode("utf-16"))
    assert language_model(bridges["gpt2"], path).samples("train") > 3
