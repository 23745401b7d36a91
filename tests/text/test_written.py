"""Words as written beside their normalised ones."""

from __future__ import annotations

import random

import pytest

from asr.config import TokenizerConfig
from asr.text.normalise import NORMALISERS, get_normaliser
from asr.text.tokenizer import CharTokenizer, Tokenizer, train_tokenizer
from asr.text.written import describe_unwritable, written_words

normalise = get_normaliser("lowercase-apostrophe")


def test_split_dropped_and_kept_words() -> None:
    text = "— Hello, World! The twenty-one (e.g. 3½) — “dogs’ bowls” …"
    assert [(word.text, " ".join(word.spoken)) for word in written_words(text, normalise)] == [
        ("— Hello,", "hello"),
        ("World!", "world"),
        ("The", "the"),
        ("twenty-one", "twenty one"),
        ("(e.g.", "e g"),
        ("3½) —", "3 1 2"),
        ("“dogs’", "dogs"),
        ("bowls” …", "bowls"),
    ]
    assert [word.spoken for word in written_words("— …", normalise)] == [()]
    assert written_words(" \n", normalise) == []


def test_a_zero_width_space_parts_words_where_the_normaliser_says_so() -> None:
    text = "The\u200bdog,\u200b fox"
    assert [word.text for word in written_words(text, normalise)] == ["The", "dog,", "fox"]
    kept = written_words(text, NORMALISERS["none"])
    assert [word.text for word in kept] == ["The\u200bdog,\u200b", "fox"]


@pytest.mark.parametrize("name", NORMALISERS)
def test_normalisers_work_word_by_word(name: str) -> None:
    """Nothing that stands in another word, past white space, changes a word."""
    rng = random.Random(3)
    letters = (
        "aEéßΣİ'’`´\u02bc\u0301\u20e3½²3٣-—.,\u00ad\u200b\ufe0f\ufdfa…\u1100\u1161 \t\n\u00a0\u3000"
    )
    for _ in range(5_000):
        text = " ".join("".join(rng.choices(letters, k=rng.randint(1, 14))).split())
        spoken = [part for word in written_words(text, NORMALISERS[name]) for part in word.spoken]
        assert spoken == NORMALISERS[name](text).split(), repr(text)
        joined = " ".join(word.text for word in written_words(text, NORMALISERS[name]))
        assert joined == text or (
            name != "none"
            and joined.replace("\u200b", " ").split() == text.replace("\u200b", " ").split()
        )


@pytest.fixture(params=["char", "bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    config = TokenizerConfig(kind=request.param, vocab_size=29)
    return train_tokenizer(["the quick brown fox jumps over a lazy dog"], config)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("The\nlazy dog", ""),
        ("the ﬁne dog", ""),
        ("The ΩμΩ, dog", "'Ω', 'μ' in 'ΩμΩ,' (word 2)"),
        ("3½ dogs", "'3', '½' in '3½' (word 1)"),
        ("a cafe\u0301 dog", "'é' in 'cafe\u0301' (word 2)"),
        ("— the dog’s fox", "'’' in 'dog’s' (word 3)"),
        ("İ dog", "'İ' in 'İ' (word 1)"),
        ("the\u200bΩ\u200bdog", "'Ω' in 'Ω' (word 2)"),
    ],
)
def test_letters_are_named_as_they_are_written(tokenizer: Tokenizer, text: str, told: str) -> None:
    assert describe_unwritable(text, normalise, tokenizer) == (told or "the space between words")


def test_of_many_words_the_first_ones_are_named(tokenizer: Tokenizer) -> None:
    told = describe_unwritable("1 2 3 4 5 6 7", normalise, tokenizer)
    assert told.count("(word ") == 5
    assert told.endswith("'5' in '5' (word 5); 2 more words")


def test_a_model_of_single_words() -> None:
    assert (
        describe_unwritable("on off", normalise, CharTokenizer("fno")) == "the space between words"
    )
