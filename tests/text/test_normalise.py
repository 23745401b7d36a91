import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

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
        ("don\u2019t \u2018stop\u2019", "don't stop"),
        ("\u2018Hello,\u2019 she said", "hello she said"),
        ("'Tis the dogs' bowl", "'tis the dogs' bowl"),
        ("he said, ' no '", "he said no"),
        ("\u201eja\u201c \u00abnon\u00bb \u2039o\u203a \u300cx\u300d", "ja non o x"),
        ("\u2019\u2019well\u2019\u2019 \u2018\u2018so\u2019\u2019", "well so"),
        ("co\u00adop hy\u2010phen un\u2060do b\ufeffom", "coop hy phen undo bom"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\u0d28\u0d4d\u200d", "\u0d28\u0d4d"),
        ("\u202bright\u202c\u200f left", "right left"),
        ("zero\u200bwidth", "zero width"),  # a space, though nobody sees it
        ("I \u2764\ufe0f you \U0001f468\u200d\U0001f469\u200d\U0001f467", "i you"),
        ("1\ufe0f\u20e3 st", "1 st"),
        ("\u0301a e\u034f\u0301 \u0301 '\u0301", "a \u00e9"),
        ("\u3164 \uffa0 \u115f\u1160 \u17b4 x", "x"),
        ("o\u02bcclock rock\u00b4n`roll", "o'clock rock'n'roll"),
        ("  tabs\tand\nlines \u00a0 ", "tabs and lines"),
        ("mother-in-law—yes…no", "mother in law yes no"),
        ("\uff26\uff35\uff2c\uff2c \ufb01ne 42", "full fine 42"),
        ("Zoë CAFE\u0301", "zoë café"),
        ("Straße ΣΑΣ", "straße σας"),
        ("नमस्ते", "नमस्ते"),  # vowel signs are marks, not letters
        ("2\u00bd cups, \u00be cup, 1\u21535", "2 1 2 cups 3 4 cup 1 1 3 5"),
        ("10\u00b2 is 100, 10\u00b2\u00b3 1\u00b2\u2083 2\u2082", "10 2 is 100 10 23 1 2 3 2 2"),
        ("page 5\u00b9 5\u0301\u00b9 5\u200d\u00b9", "page 5 1 5\u0301 1 5 1"),
        ("\u2460\u2461 3\u2474 \u246a4 2\u33e0", "1 2 3 1 11 4 2 1\u65e5"),
        ("H\u2082O \uff11\uff12 3\u066b", "h2o 12 3"),
        ("he said ``hello'' and ''no''.", "he said hello and no"),
        ("`so' don`t `a' a''b ``a` 6\u2033 5\u20332 '\u2019x", "so' don't a' a b a 6 5 2 x"),
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
    assert unicodedata.is_normalized("NFKC", once)
    for word in once.split(" ") if once else ():
        # the first letter or digit carries the marks that follow; without one nothing is to be seen
        assert unicodedata.category(word.lstrip("'")[:1] or " ")[0] in "LN", word


def characters() -> Iterator[str]:
    """All that are assigned; of the ideographs and Hangul syllables, which are all alike, a few."""
    for code in range(0x110000):
        alike = 0x3400 <= code < 0xA000 or 0xAC00 <= code < 0xD7A4 or 0x17000 <= code < 0x19000
        alike = alike or 0x20000 <= code < 0x3FFFF
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs") and not (alike and code % 97):
            yield chr(code)


def test_every_character_in_any_place_leaves_words_that_can_be_seen() -> None:
    normalise = get_normaliser("lowercase-apostrophe")
    for char in characters():
        once = normalise(f"{char} a{char}b a{char} b a {char}b A{char}\u0301{char}\u2019")
        assert normalise(once) == once, hex(ord(char))
        assert unicodedata.is_normalized("NFKC", once), hex(ord(char))
        for word in once.split():
            assert any(unicodedata.category(char)[0] in "LN" for char in word), hex(ord(char))


def test_format_characters_but_zero_width_space_split_no_word() -> None:
    normalise = get_normaliser("lowercase-apostrophe")
    split = {
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in ("Cf", "Mn", "Me")
        and len(normalise(f"a{chr(code)}b").split()) != 1
    }
    # what Unicode calls prepended concatenation marks, and the abbreviation mark of Syriac
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    assert split == {0x200B, *(code for code in drawn if unicodedata.category(chr(code)) == "Cf")}


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_keeps_its_apostrophes(text: str) -> None:
    """Models are trained on texts that this normaliser made: apostrophes stay, quotation marks go."""
    letters = re.sub("['`]{2,}", " ", re.sub("[^a-z0-9'`]", " ", text.lower()))
    words = [word.strip("`").replace("`", "'") for word in letters.split()]
    expected = [word for word in words if word.strip("'")]
    assert get_normaliser("lowercase-apostrophe")(text).split() == expected


@pytest.mark.skipif("SIGMOID_ASR_DATA" not in os.environ, reason="SIGMOID_ASR_DATA is not set")
def test_librispeech_is_only_lowered() -> None:
    path = Path(os.environ["SIGMOID_ASR_DATA"], "librispeech-mini", "train-clean-100-text.txt")
    normalise = get_normaliser("lowercase-apostrophe")
    lines = path.read_text().splitlines()
    assert len(lines) > 1000
    for line in lines:
        text = line.split(" ", 1)[1]
        assert normalise(text) == text.lower()


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
