"""Characters without a token, counted by hand."""

from __future__ import annotations

import warnings

import pytest

from asr.config import TokenizerConfig
from asr.errors import InputError, InputWarning
from asr.text.coverage import check_training_texts, coverage, warn_of_references
from asr.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(params=["char", "bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(
        ["abab ab abba", "b a ab"], TokenizerConfig(kind=request.param, vocab_size=8)
    )


def test_shares_and_examples_by_hand(tokenizer: Tokenizer) -> None:
    found = coverage(["ab Ж b", "ЖЖ ñ a"], tokenizer)
    assert found.num_characters == 12
    assert list(found.unwritable.items()) == [("Ж", 3), ("ñ", 1)]
    assert found.share == pytest.approx(4 / 12)
    assert found.describe() == (
        "has no token for 33 % of the characters: 'Ж' (3 times), 'ñ' (1 times)"
    )


def test_a_hundredth_is_where_training_ends(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        InputError, match=r"^here: the tokenizer has no token for 1.5 %.*; do this$"
    ):
        check_training_texts(["ab" * 98 + "cde" + "a"], tokenizer, "here", "do this")
    with pytest.warns(InputWarning, match=r"^here: the tokenizer has no token for 1 % .*'c'"):
        check_training_texts(["ab" * 49 + "ac"], tokenizer, "here", "do this")


def test_the_alphabet_itself_says_nothing(tokenizer: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_training_texts(["abba ab", ""], tokenizer, "here", "do this")
        warn_of_references(["abba ab", ""], tokenizer, "here")
        warn_of_references([], tokenizer, "here")


def test_a_space_counts_where_the_tokenizer_has_none() -> None:
    digits = train_tokenizer(["one", "two"], TokenizerConfig(kind="char"))
    assert coverage(["one two"], digits).unwritable == {" ": 1}
