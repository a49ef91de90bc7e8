"""Text becomes rows of tokens, once, whatever its form; what cannot be read is told."""

import json

import numpy as np
import pytest
import torch
from helpers.language_models import TEXT, VOCABULARY, language_model

import libgraph as lg
from libgraph.backend.data import Data
from libgraph.errors import DataError, UsageError
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.options import LMOptions
from libgraph_backends.lm.text import sequences, token_text


def tokens(backend, split):
    """All rows of a split."""
    return torch.cat([batch.inputs for batch in backend.batches(split, 7)])


def read_back(backend):
    """The training text, from its tokens."""
    tokenizer = backend.loaded.tokenizer
    rows = [torch.cat([x, y[:, -1:]], dim=1) for x, y in backend.batches("train", 7)]
    return "".join(token_text(tokenizer, int(token)) for token in torch.cat(rows).flatten())


def test_rows_are_packed_and_held_out(bridges, ids):
    backend = language_model(bridges["gpt2"], ids, gram_sequences=11)
    rows = np.load(ids)[:400].reshape(40, 10)
    assert [backend.samples(split) for split in ("train", "test", "bases")] == [30, 10, 11]
    assert np.array_equal(tokens(backend, "train"), rows[:30, :-1])
    assert np.array_equal(tokens(backend, "bases"), rows[:11, :-1])
    targets = torch.cat([batch.targets for batch in backend.batches("test", 7)])
    assert np.array_equal(targets, rows[30:, 1:])
    assert backend.bases_split == "bases"
    assert language_model(bridges["gpt2"], ids).bases_split == "train"


def test_more_rows_for_bases_than_there_are_is_said(ids, bridges, caplog):
    with caplog.at_level("WARNING", "libgraph"):
        backend = language_model(bridges["gpt2"], ids, gram_sequences=10_000)
        count = backend.samples("bases")
    assert count == backend.samples("train")
    assert f"Bases are made from {count} rows, not from gram_sequences=10000" in caplog.text


def test_as_many_rows_as_asked_for(bridges, ids):
    backend = language_model(bridges["gpt2"], ids, sequences=12, test_share=0.5)
    assert (backend.samples("train"), backend.samples("test")) == (6, 6)


def test_bases_may_come_from_more_text_than_interactions(bridges, ids):
    def variance(**options):
        backend = language_model(bridges["gpt2"], ids, layers="0:1", cuts="sublayers", **options)
        run = lg.analyze(backend, limit=3, ablate=False)
        return float(run.bases("pca")["0.resid_pre"].importance[1:].sum())

    backend = language_model(bridges["gpt2"], ids)
    with torch.no_grad():
        x = torch.cat([batch.inputs for batch in Data(backend, "train")])
        x = backend.network().embed(x).flatten(0, 1)[:, :-1]
    total = float((x - x.mean(0)).square().mean(0).sum())
    assert variance(gram_sequences=30) == pytest.approx(total, rel=1e-9)
    assert variance() != pytest.approx(total)


def test_text_files_are_tokenised_once(bridges, text, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = language_model(bridges["gpt2"], text)
    assert read_back(backend).startswith(TEXT[:10])
    (file,) = (tmp_path / "libgraph").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("libgraph_backends.lm.text._tokenised", None)
        again = language_model(bridges["gpt2"], text)
        assert torch.equal(tokens(again, "test"), tokens(backend, "test"))
    file.write_bytes(b"damaged")
    after_damage = language_model(bridges["gpt2"], text)
    assert torch.equal(tokens(after_damage, "test"), tokens(backend, "test"))


def test_lines_of_json(bridges, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"story": line}) + "\n" for line in TEXT.splitlines()))
    backend = language_model(bridges["gpt2"], path, column="story")
    start = "the cat sat on the mat, and the dog lay by the door.⏎the cat"
    assert read_back(backend).startswith(start)
    with pytest.raises(DataError, match=r"Line 1 of .* field 'text'"):
        language_model(bridges["gpt2"], path).samples("train")


def test_line_ends_and_separators_within_lines(bridges, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    backend = language_model(bridges["gpt2"], path)
    start = "the cat sat on the mat, and the dog lay by the door.⏎the"
    assert read_back(backend).startswith(start)
    lines = tmp_path / "a.JSONL"
    lines.write_text('{"text": "' + "the cat sat " * 10 + '\u2028\\ud800"}\n', encoding="utf-8")
    assert language_model(bridges["gpt2"], lines).samples("train") == 9


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "short", "5 tokens, fewer than one sequence of 10"),
        ("a.txt", "the cat on", "none to compute on"),
        ("a.txt", "ΔΔΔ the cat ΔΔΔ sat", "does not know 6 of 19"),
        ("a.jsonl", '{"text": null}\n', "Line 1"),
        ("a.jsonl", "[" * 100_000, "Line 1"),
        ("a.txt", b"\xff\xfe\xfa", "not text in UTF-8"),
        ("a.npy", "no array", "not a NumPy array"),
        ("a.jsonl", "[1]\n", "Line 1"),
    ],
)
def test_texts_that_cannot_be_used(name, content, message, bridges, tmp_path):
    with pytest.raises(DataError, match=message):
        language_model(bridges["gpt2"], write(tmp_path / name, content)).samples("train")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, 2, VOCABULARY] * 20), f"token {VOCABULARY}, but .* 0 to {VOCABULARY - 1}"),
        (np.array([1, 2, -1] * 20), "token -1"),
        (np.ones(40), "not token ids"),
        (np.array([object()]), "not a NumPy array"),
        (np.array([2**64 - 5] * 40, dtype=np.uint64), "has token over 4611686018427387903"),
        (np.ones(40, dtype="timedelta64[s]"), "not token ids"),
        (np.array([1, 2, -1] * 20, dtype=">i2"), "token -1"),
        (np.ones(40, dtype=bool), "bool numbers, not token ids"),
    ],
)
def test_token_ids_that_cannot_be_used(ids, message, bridges, tmp_path):
    np.save(tmp_path / "ids.npy", ids)
    with pytest.raises(DataError, match=message):
        language_model(bridges["gpt2"], tmp_path / "ids.npy").samples("train")


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64", ">i8", ">i4", ">u2"]
)
def test_token_ids_of_every_kind(kind, bridges, ids, tmp_path):
    expected = tokens(language_model(bridges["gpt2"], ids), "train")
    # Two dimensions and the order of Fortran tell nothing about the order of tokens either.
    for array in (np.load(ids), np.asfortranarray(np.load(ids).reshape(20, 20))):
        np.save(tmp_path / "ids.npy", array.astype(kind))
        again = language_model(bridges["gpt2"], tmp_path / "ids.npy")
        assert torch.equal(tokens(again, "train"), expected)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<i8', 'fortran_order': False, 'shape': ((5,), ",
        b"{'descr': '<i8', 'fortran_order': False, 'shape': (5,)",
        b"{'descr': 'no such type', 'fortran_order': False, 'shape': (5,)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (5,)}",
        b"[" * 90,
    ],
)
def test_damaged_arrays(header, bridges, tmp_path):
    header = header.ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(40)
    for name in ("ids.npy", "ids"):
        path = write(tmp_path / name, content)
        with pytest.raises(DataError, match="not a NumPy array of token ids"):
            language_model(bridges["gpt2"], path).samples("train")


def test_texts_that_are_not_there(bridges, tmp_path):
    for name, message in (("none.txt", "does not exist"), ("", "is a folder")):
        with pytest.raises(DataError, match=message):
            language_model(bridges["gpt2"], tmp_path / name).samples("train")
    np.savez(tmp_path / "zip", a=np.ones(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(DataError, match="not a NumPy array"):
        language_model(bridges["gpt2"], tmp_path / "zip.npy").samples("train")


def test_a_model_of_ones_own_needs_a_text(bridges):
    with pytest.raises(UsageError, match="no text to run 'the model' on"):
        LM(LMOptions(), model=bridges["gpt2"]).samples("train")


def test_a_model_without_a_tokenizer_needs_token_ids(bridges, text, ids, monkeypatch):
    monkeypatch.setattr(bridges["gpt2"], "tokenizer", None)
    with pytest.raises(DataError, match=r"no tokenizer .* give token ids"):
        language_model(bridges["gpt2"], text).samples("train")
    assert language_model(bridges["gpt2"], ids).samples("train") == 30


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".npy"])
def test_a_text_that_cannot_be_read(name):
    with pytest.raises(DataError, match=r"The text 'x+.*' cannot be read \(File name too long\)"):
        sequences(name, None, length=4, most=None, vocabulary=9, column="text")


def test_the_text_of_a_token(bridges):
    tokenizer = bridges["gpt2"].tokenizer
    assert token_text(tokenizer, tokenizer("\n", add_special_tokens=False)["input_ids"][0]) == "⏎"
    assert token_text(tokenizer, tokenizer("c", add_special_tokens=False)["input_ids"][0]) == "c"
    assert token_text(None, 17) == "17"

    class Bytes:
        """A tokenizer of which one token is part of a character, another one cannot be seen."""

        def decode(self, ids):
            return {0: "\ufffd", 1: "a\x07|\t\u200d"}[ids[0]]

        def convert_ids_to_tokens(self, token):
            return "Ã"

    assert [token_text(Bytes(), token) for token in (0, 1)] == ["Ã", "a\\x07¦⇥\u200d"]


def test_the_first_wrong_token_is_named(bridges, text, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([3, VOCABULARY + 5, 2, VOCABULARY + 9] * 20))
    backend = language_model(bridges["gpt2"], str(tmp_path / "ids.npy"))
    with pytest.raises(DataError, match=f"has token {VOCABULARY + 5}, but"):
        backend.samples("train")
