"""Named text normalisers: what happens to a text before it is tokenized and scored."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from asr.errors import InputError

Normaliser = Callable[[str], str]

# What people type for an apostrophe: typographic ones and the prime, grave and acute accents
# standing alone. NFKC would turn the lone acute into a space and a combining mark, so they are
# replaced first.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032`\u00b4", "'"))


def _none(text: str) -> str:
    return text


def _lowercase_apostrophe(text: str) -> str:
    """Lower case; letters (with their marks), digits and apostrophes stay, all else is a space.

    Idempotent: normalising twice changes nothing.
    """
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    # Folding a capital can leave a decomposed letter (U+0130 gives i + dot above): compose again;
    # the second pass also catches what NFKC brought up (a fullwidth grave accent, say).
    text = unicodedata.normalize("NFKC", text.lower().translate(_APOSTROPHES))
    kept = (char if char == "'" or _is_word_char(char) else " " for char in text)
    return " ".join("".join(kept).split())


def _is_word_char(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"


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
