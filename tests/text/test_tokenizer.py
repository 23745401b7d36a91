from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import TokenizerConfig
from asr.errors import InputError
from asr.text.tokenizer import (
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
SENTENCES = (
    "the quick brown fox jumps over a lazy dog pack my box with five dozen jugs don't we'll it's "
    "how vexingly daft zebras jump sphinx of black quartz judge vow"
)
WORDS = SENTENCES.split()
TEXTS = [" ".join(WORDS[(3 * i + j * j) % len(WORDS)] for j in range(8)) for i in range(60)]
KINDS = ("char", "bpe", "unigram")
SIZES = {"char": 8, "bpe": 70, "unigram": 45}


def config_of(kind: str, vocab_size: int | None = None) -> TokenizerConfig:
    return TokenizerConfig(kind=kind, vocab_size=vocab_size or SIZES[kind])


@cache
def trained(kind: str) -> Tokenizer:
    return train_tokenizer(TEXTS, config_of(kind))


@pytest.mark.parametrize("kind", KINDS)
@given(words=st.lists(st.text(ALPHABET.strip(), min_size=1, max_size=9), max_size=6))
@settings(max_examples=60, deadline=None)
def test_round_trip_of_normalised_text(kind: str, words: list[str]) -> None:
    text = " ".join(words)
    tokens = trained(kind).encode(text)
    assert trained(kind).decode(tokens) == text
    assert all(1 < token < trained(kind).vocab_size for token in tokens)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(ALPHABET, max_size=20))
@settings(max_examples=60, deadline=None)
def test_round_trip_keeps_every_space(kind: str, text: str) -> None:
    assert trained(kind).decode(trained(kind).encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_interface(kind: str) -> None:
    tokenizer = trained(kind)
    assert tokenizer.kind == kind
    assert tokenizer.blank == 0
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    if kind == "char":
        assert tokenizer.vocab_size == 2 + len(set("".join(TEXTS)))
    else:
        assert tokenizer.vocab_size == SIZES[kind]
    assert len(tokenizer.pieces) == tokenizer.vocab_size
    assert tokenizer.pieces[0] == "<blank>"
    alphabet = set("".join(TEXTS)) | {"▁"}
    assert set("".join(tokenizer.pieces[2:])) <= alphabet


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_characters_are_the_unknown_token(kind: str) -> None:
    tokenizer = trained(kind)
    tokens = tokenizer.encode("the ü fox")
    assert tokens.count(1) == 1
    assert tokenizer.decode(tokens) == "the ⁇ fox"


@pytest.mark.parametrize("kind", KINDS)
def test_blanks_vanish_and_foreign_ids_are_refused(kind: str) -> None:
    tokenizer = trained(kind)
    tokens = tokenizer.encode("a lazy dog")
    spread = [0]
    for token in tokens:
        spread += [token, 0]
    assert tokenizer.decode(spread) == "a lazy dog"
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match="outside"):
            tokenizer.decode([wrong])


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic_and_the_folder_gives_it_back(kind: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train_tokenizer(TEXTS, config_of(kind)).save(first)
    train_tokenizer(iter(TEXTS), config_of(kind)).save(second)
    names = [path.name for path in first.iterdir()]
    assert names == ["tokenizer.json" if kind == "char" else "tokenizer.model"]
    assert (first / names[0]).read_bytes() == (second / names[0]).read_bytes()
    loaded = load_tokenizer(first)
    assert loaded.kind == kind
    assert loaded.pieces == trained(kind).pieces
    for text in TEXTS[:10]:
        assert loaded.encode(text) == trained(kind).encode(text)


def test_char_order_does_not_depend_on_the_texts_order() -> None:
    forward = train_tokenizer(TEXTS, config_of("char"))
    backward = train_tokenizer(TEXTS[::-1], config_of("char"))
    assert forward.pieces == backward.pieces


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_large_a_vocabulary_names_the_largest_that_works(kind: str) -> None:
    with pytest.raises(InputError, match="vocab_size = 60000: too large") as caught:
        train_tokenizer(TEXTS, config_of(kind, 60000))
    largest = int(str(caught.value).split()[-1])
    assert train_tokenizer(TEXTS, config_of(kind, largest)).vocab_size == largest
    with pytest.raises(InputError, match=f"largest possible is {largest}"):
        train_tokenizer(TEXTS, config_of(kind, largest + 1))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_small_a_vocabulary_names_the_smallest_that_works(kind: str) -> None:
    with pytest.raises(InputError, match="smaller than the text's alphabet") as caught:
        train_tokenizer(TEXTS, config_of(kind, 8))
    smallest = int(str(caught.value).split()[-1])
    assert train_tokenizer(TEXTS, config_of(kind, smallest)).vocab_size == smallest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_no_text_is_an_error(kind: str, texts: list[str]) -> None:
    with pytest.raises(InputError, match="no text to learn from"):
        train_tokenizer(texts, config_of(kind))


def test_training_and_loading_print_nothing(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    train_tokenizer(TEXTS, config_of("bpe", 60)).save(tmp_path)
    load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x03abc")
    with pytest.raises(InputError):
        load_tokenizer(tmp_path)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_folder_without_or_with_two_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "nowhere")
    trained("char").save(tmp_path)
    trained("bpe").save(tmp_path)
    with pytest.raises(InputError, match="holds both"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b"1" * 5000,
        b'{"format": "other", "characters": "ab"}',
        b'{"format": "sigmoid-asr characters 1"}',
        b'{"format": "sigmoid-asr characters 1", "characters": ""}',
        b'{"format": "sigmoid-asr characters 1", "characters": ["a"]}',
        b'{"format": "sigmoid-asr characters 1", "characters": "aba"}',
    ],
)
def test_damaged_characters(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: "):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "half", "noise", "text"])
def test_damaged_sentencepiece_model(damage: str, tmp_path: Path) -> None:
    trained("bpe").save(tmp_path)
    path = tmp_path / "tokenizer.model"
    whole = path.read_bytes()
    noise = bytes(range(256)) * 4
    content = {"empty": b"", "half": whole[: len(whole) // 2], "noise": noise, "text": b"pieces"}
    path.write_bytes(content[damage])
    with pytest.raises(InputError, match=r"tokenizer\.model: "):
        load_tokenizer(tmp_path)


def test_a_foreign_sentencepiece_model_whose_blank_is_elsewhere_is_refused(tmp_path: Path) -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=40, minloglevel=2
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(InputError, match="id 0 must be the blank"):
        load_tokenizer(tmp_path)


def test_characters_beyond_the_basic_plane() -> None:
    tokenizer = train_tokenizer(["a𝄞b"], config_of("char"))
    assert isinstance(tokenizer, CharTokenizer)
    assert tokenizer.decode(tokenizer.encode("𝄞ab")) == "𝄞ab"


def test_a_long_text_is_not_skipped() -> None:
    tokenizer = train_tokenizer(["ab " * 4000 + "xyz"], config_of("bpe", 12))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert 1 not in tokenizer.encode("xyz")
