"""What tokenizers do not know is told, a damaged one is not none, and tokens keep their spaces."""

import json

import numpy as np
import pytest
from helpers.language_models import VOCABULARY, language_model, tokenizer_of
from tokenizers import decoders, models, pre_tokenizers

from libgraph.errors import DataError
from libgraph_backends.lm.backend import LM
from libgraph_backends.lm.bridged import BridgedModel
from libgraph_backends.lm.labels import Written
from libgraph_backends.lm.loading import LanguageModel
from libgraph_backends.lm.options import LMOptions
from libgraph_backends.lm.text import is_word, sequences, token_text
from libgraph_backends.lm.tokenizer import Coverage, read_tokenizer

UNKNOWN = "[UNK]"


def characters(text, unknown=None):
    """A model of tokens that are single characters."""
    vocabulary = {character: i for i, character in enumerate(text)}
    if unknown is not None:
        vocabulary[unknown] = len(vocabulary)
    return models.BPE(vocab=vocabulary, merges=[], unk_token=unknown)


def rows(path, tokenizer, **options):
    settings = {"length": 5, "most": None, "vocabulary": 30, "column": "text", **options}
    return sequences(str(path), tokenizer, **settings)


@pytest.fixture
def write(tmp_path):
    def write(content, name="text.txt"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


# What is lost


def test_characters_that_a_tokenizer_leaves_out(tmp_path, write, caplog):
    tokenizer = tokenizer_of(characters("abcdefgh "), tmp_path / "t", decoder=decoders.Fuse())
    with pytest.raises(DataError, match="leaves out 40 of 80 characters"):
        rows(write("aÄ bÖ" * 20), tokenizer)
    assert not caplog.records
    path = write("abcd efgh" * 20 + "Ä")
    for _ in range(2):
        # The second time tokens come from the cache, and it is said again.
        caplog.clear()
        assert rows(path, tokenizer).shape == (36, 5)
        assert "leaves out 1 of 161 characters" in caplog.text


def test_unknown_tokens_that_the_model_of_the_tokenizer_alone_names(tmp_path, write):
    tokenizer = tokenizer_of(characters("abc ", "?"), tmp_path / "t", decoder=decoders.Fuse())
    assert tokenizer.unk_token is None
    with pytest.raises(DataError, match="does not know 20 of 40 tokens"):
        rows(write("aÄ" * 20), tokenizer)
    # One that is written out is no unknown one.
    assert rows(write("a?" * 20), tokenizer).shape == (8, 5)


def test_words_that_a_tokenizer_fails_on(tmp_path, write):
    tokenizer = tokenizer_of(
        models.WordLevel({"the": 0, "cat": 1}, unk_token=UNKNOWN),
        tmp_path / "t",
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
    )
    with pytest.raises(DataError, match="tokenizer fails on this text"):
        rows(write("the dog " * 20), tokenizer)


def test_what_is_by_design_is_no_loss(tmp_path):
    words = tokenizer_of(
        models.WordLevel({"the": 0, "cat": 1, UNKNOWN: 2}, unk_token=UNKNOWN),
        tmp_path / "words",
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
    )
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
    of_bytes = tokenizer_of(
        models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]),
        tmp_path / "bytes",
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    for tokenizer, text in ((words, "the  cat\tthe\n"), (of_bytes, "naïve\u200d 漢字 🐈\n")):
        coverage = Coverage(tokenizer)
        coverage.add(text, tokenizer(text, add_special_tokens=False)["input_ids"])
        assert (coverage.unknown, coverage.dropped) == (0, 0)


def test_lost_behind_a_space_that_is_put_before_everything(tmp_path, write):
    """Each character alone makes a token here: that of the space."""
    tokenizer = tokenizer_of(
        models.BPE(vocab={"▁": 0, "a": 1, "b": 2}, merges=[]),
        tmp_path / "t",
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    with pytest.raises(DataError, match="leaves out 20 of 40 characters"):
        rows(write("aÄ" * 20), tokenizer)


# Which tokenizers there are


def test_a_tokenizer_without_the_letter_e(tmp_path, write):
    tokenizer_of(characters("0123456789+=\n"), tmp_path / "t", decoder=decoders.Fuse())
    tokenizer, trouble = read_tokenizer(str(tmp_path / "t"), None)
    assert trouble is None
    assert rows(write("1+2=3\n" * 10), tokenizer)[0].tolist() == [1, 10, 2, 11, 3]


def damaged(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", ')


def without_vocabulary(folder):
    (folder / "tokenizer.json").unlink()


def without_merges(folder):
    (folder / "tokenizer.json").rename(folder / "vocab.json")


def code_of_its_own(folder):
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}})
    )
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged, "cannot be read"),
        (without_vocabulary, "cannot be read"),
        (without_merges, "not all there: 'merges.txt'"),
        (code_of_its_own, "Python code, which is not run"),
    ],
)
def test_a_damaged_tokenizer_is_not_none(
    damage, message, bridges, ids, text, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    tokenizer_of(characters("abc"), tmp_path)
    damage(tmp_path)
    tokenizer, trouble = read_tokenizer(str(tmp_path), None)
    assert tokenizer is None
    assert message in trouble
    assert not (tmp_path / "ran").exists()

    def backend(source):
        made = LM(LMOptions(text=str(source), n_ctx=9), model=bridges["gpt2"])
        made.loaded = LanguageModel(BridgedModel(bridges["gpt2"]), tokenizer, trouble)
        return made

    with pytest.raises(DataError, match="give token ids") as error:
        backend(text).samples("train")
    assert message in str(error.value)
    # Where no tokenizer is needed it is told, and what can be computed is.
    assert backend(ids).samples("train") == 30
    assert message in caplog.text


def test_code_beside_a_tokenizer_is_not_run(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *question: "y")
    tokenizer_of(characters("abc"), tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    code_of_its_own(tmp_path)
    own = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(own | config))
    assert read_tokenizer(str(tmp_path), None).tokenizer is not None
    assert "comes with Python code, which is not run" in caplog.text
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert read_tokenizer(str(tmp_path), None) == (None, None)


def test_tokens_that_transformer_lens_makes_up_are_not_used(bridges, tmp_path):
    """It gives every tokenizer an end of text, here beyond the vocabulary."""
    tokenizer = tokenizer_of(characters("abc "), tmp_path / "t", decoder=decoders.Fuse())
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "abc a"}\n' * 8)
    plain = rows(path, tokenizer, vocabulary=4)
    assert plain[0].tolist() == plain[7].tolist() == [0, 1, 2, 3, 0]
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"})
    assert tokenizer.eos_token_id == 4
    assert rows(path, tokenizer, vocabulary=4).equal(plain)
    assert rows(path, tokenizer, vocabulary=5)[1].tolist() == [4, 0, 1, 2, 3]
    assert LanguageModel(BridgedModel(bridges["gpt2"]), tokenizer).first_token() == 4
    # Beyond the vocabulary that of the configuration counts.
    tokenizer.add_tokens([str(i) for i in range(100)])
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    assert tokenizer.bos_token_id > VOCABULARY
    assert LanguageModel(BridgedModel(bridges["gpt2"]), tokenizer).first_token() == 0


# How tokens are written


def pieces(tmp_path):
    vocabulary = ["▁the", "the", "▁a", "a", "▁", "s", "<unk>"]
    scores = [(piece, -1.0 if len(piece) > 1 else -3.0) for piece in vocabulary]
    return tokenizer_of(
        models.Unigram(scores, unk_id=6),
        tmp_path,
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def ends_of_words(tmp_path):
    vocabulary = {"the</w>": 0, "the": 1, "a</w>": 2, "a": 3}
    return tokenizer_of(
        models.BPE(vocab=vocabulary, merges=[], end_of_word_suffix="</w>"),
        tmp_path,
        decoder=decoders.BPEDecoder(),
    )


def parts_of_words(tmp_path):
    vocabulary = {"the": 0, "##the": 1, "a": 2, "##a": 3, UNKNOWN: 4}
    return tokenizer_of(
        models.WordPiece(vocabulary, unk_token=UNKNOWN),
        tmp_path,
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
        decoder=decoders.WordPiece(),
    )


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (pieces, ["␣the", "the", "␣a", "a", "␣", "s", "<unk>"]),
        (ends_of_words, ["the␣", "the", "a␣", "a"]),
        (parts_of_words, ["the", "##the", "a", "##a", UNKNOWN]),
    ],
)
def test_tokens_with_a_space_are_others(make, names, bridges, tmp_path):
    tokenizer = make(tmp_path)
    backend = LM(model=bridges["gpt2"])
    backend.loaded = LanguageModel(BridgedModel(bridges["gpt2"]), tokenizer)
    assert [backend.token_name(i) for i in range(len(names))] == names
    assert backend.token_name(1000) == "⟨1000⟩"


def written(tokenizer, ids):
    spaces = [" " * is_word(tokenizer, i) for i in ids]
    return Written.of(spaces, [token_text(tokenizer, i) for i in ids])


def test_contexts_keep_their_spaces(tmp_path):
    row = written(pieces(tmp_path / "pieces"), [0, 3, 2, 5])
    assert row.at(3) == " thea a[s]"
    assert row.at(2) == " thea[ a]"
    row = written(parts_of_words(tmp_path / "parts"), [0, 2, 3, 0])
    assert [row.at(i) for i in range(4)] == [
        "[the]",
        "the [a]",
        "the a[##a]",
        "the a##a [the]",
    ]
    assert written(None, [17, 4]).at(1) == "17 [4]"


def test_features_of_metaspace_tokens_are_labelled_apart(bridges, tmp_path):
    path = tmp_path / "text.txt"
    words = np.random.default_rng(0).choice(["the", "a", "athe", "thea"], 300)
    path.write_text(" ".join(words))
    backend = language_model(bridges["gpt2"], path)
    backend.loaded = LanguageModel(BridgedModel(bridges["gpt2"]), pieces(tmp_path / "t"))
    tokens = next(iter(backend.batches("train", 100))).inputs
    names = {backend.token_name(int(token)) for token in tokens.unique()}
    assert {"␣the", "the", "␣a", "a"} <= names
