"""Named text normalisers: what happens to a text before it is tokenized and scored."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

from asr.errors import InputError

Normaliser = Callable[[str], str]

# The ASCII apostrophe and the letter apostrophe are apostrophes wherever they stand, as in
# LibriSpeech's transcripts ('tis, the dogs' bowl). Typographic quotation marks, the backtick, the
# prime and the lone acute accent are apostrophes between letters alone. NFKC would turn the acute
# into a space and a combining mark, so all are replaced first. Two or more in a row are a quotation
# mark (``so'').
_MARK = "\u2019"
_APOSTROPHES = str.maketrans({"\u02bc": "'"} | dict.fromkeys("\u2018\u201b\u2032\u00b4`", _MARK))
_MARKS_IN_A_ROW = re.compile(f"['{_MARK}]{{2,}}")
_MARK_AT_AN_EDGE = re.compile(rf"(?<![^ '{_MARK}]){_MARK}|{_MARK}(?![^ '{_MARK}])")

# Format characters that separate words (zero width space) or are drawn (signs over numbers, end of
# ayah): spaces. All others only steer how letters are drawn or where lines break.
_SEPARATING_FORMATS = frozenset("\u200b\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd") | {
    chr(code) for code in range(0x600, 0x606)
}

# Letters and marks that nobody sees (Unicode's Default_Ignorable_Code_Point beside formats):
# grapheme joiner, Hangul fillers, Khmer inherent vowels, variation selectors.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0") | {
    chr(code)
    for first, last in ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
    for code in range(first, last + 1)
}


def _none(text: str) -> str:
    return text


def _lowercase_apostrophe(text: str) -> str:
    """Lower case; letters with their marks, digits and apostrophes stay, all else is a space.

    Characters that cannot be seen (soft hyphens, joiners, variation selectors) vanish without
    splitting a word; marks without a letter, enclosing marks and quotation marks go. Every word
    has a letter or a digit. Superscripts, subscripts, fractions and circled numbers are numbers of
    their own (10\u00b2 is 10 2). Idempotent, and stable under NFKC.
    """
    if not text.isascii():
        text = _settle(text)
    kept = _MARKS_IN_A_ROW.sub(" ", _visible(text.lower().replace("`", _MARK)))
    words = _MARK_AT_AN_EDGE.sub(" ", kept).replace(_MARK, "'").split()
    return " ".join(word for word in words if word.strip("'"))


def _settle(text: str) -> str:
    """Lower case in NFKC, without invisible characters: applied until nothing changes.

    Once is not enough: folding a capital can leave a decomposed letter (U+0130 gives i + dot
    above), NFKC can bring up another apostrophe (fullwidth grave accent), and a letter composes with
    its mark once what stood between them is gone.
    """
    before = ""
    while text != before:
        before = text
        seen = "".join(char for char in text.translate(_APOSTROPHES) if not _vanishes(char))
        text = unicodedata.normalize("NFKC", _part_numbers(seen)).lower()
    return text


def _part_numbers(text: str) -> str:
    """Put a space between neighbouring numbers that NFKC would join: the 2 and the half of 2\u00bd."""
    parted: list[str] = []
    last = ""
    for char in text:
        if char.isascii():
            kind = "digit" if char.isdigit() else ""
        else:
            kind = _kind_of_number(char)
        if kind == "mark":  # part of what it stands on
            kind = last
        elif last and kind and (kind != last or kind == "own"):
            parted.append(" ")
        parted.append(char)
        last = kind
    return "".join(parted)


@functools.cache
def _kind_of_number(char: str) -> str:
    """Return "digit", "super" or "sub", which join their like, "own", "mark" or "" (no number)."""
    category = unicodedata.category(char)
    if category[0] == "M":
        return "mark"
    tag = unicodedata.decomposition(char).partition(" ")[0].strip("<>")
    if category != "Nd" and any(part.isdecimal() for part in unicodedata.normalize("NFKC", char)):
        return tag if tag in ("super", "sub") else "own"
    return "digit" if category[0] == "N" else ""


def _vanishes(char: str) -> bool:
    if char.isascii():
        return False
    category = unicodedata.category(char)
    if category == "Cf":
        return char not in _SEPARATING_FORMATS
    return category == "Me" or char in _INVISIBLE


def _visible(text: str) -> str:
    """Letters, digits, apostrophes, and marks that follow a letter or digit; else spaces."""
    kept: list[str] = []
    carries_marks = False
    for char in text:
        kind = unicodedata.category(char)[0]
        if kind == "M":
            kept.append(char if carries_marks else "")
            continue
        carries_marks = kind in "LN"
        kept.append(char if carries_marks or char in ("'", _MARK) else " ")
    return "".join(kept)


NORMALISERS: dict[str, Normaliser] = {
    "none": _none,
    "lowercase-apostrophe": _lowercase_apostrophe,
}


def get_normaliser(name: str) -> Normaliser:
    """The normaliser of that name.

    Raises:
        InputError: no such name.
    """
    try:
        return NORMALISERS[name]
    except KeyError:
        known = ", ".join(NORMALISERS)
        raise InputError(f"tokenizer.normaliser = {name!r}: choose one of {known}") from None
