import dataclasses
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import TokenizerConfig
from asr.errors import InputError
from asr.text.normalise import NORMALISERS, get_normaliser


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HELLO, World!", "hello world"),
        ("don\u2019t \u2018stop\u2019", "don't 'stop'"),
        ("o\u02bcclock rock\u00b4n`roll", "o'clock rock'n'roll"),
        ("  tabs\tand\nlines \u00a0 ", "tabs and lines"),
        ("mother-in-law—yes…no", "mother in law yes no"),
        ("\uff26\uff35\uff2c\uff2c \ufb01ne 42", "full fine 42"),
        ("Zoë CAFE\u0301", "zoë café"),
        ("Straße ΣΑΣ", "straße σας"),
        ("नमस्ते", "नमस्ते"),  # vowel signs are marks, not letters
        ("!?.,;", ""),
        ("", ""),
    ],
)
def test_lowercase_apostrophe_by_hand(text: str, expected: str) -> None:
    assert get_normaliser("lowercase-apostrophe")(text) == expected


@given(st.text())
@settings(deadline=None)
def test_lowercase_apostrophe_is_idempotent_and_stays_in_its_alphabet(text: str) -> None:
    normalise = get_normaliser("lowercase-apostrophe")
    once = normalise(text)
    assert normalise(once) == once
    assert "  " not in once
    assert once == once.strip()
    for char in once:
        assert char in " '" or unicodedata.category(char)[0] in "LMN"


@given(st.text())
@settings(deadline=None)
def test_none_changes_nothing(text: str) -> None:
    assert get_normaliser("none")(text) == text


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'lower': choose one of none, lowercase-apostrophe"):
        get_normaliser("lower")


def test_every_name_the_configuration_allows_exists() -> None:
    fields = {item.name: item for item in dataclasses.fields(TokenizerConfig)}
    assert set(fields["normaliser"].metadata["choices"]) == set(NORMALISERS)
