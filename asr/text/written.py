"""A text as somebody wrote it, beside what its normaliser makes of it: word by word."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from asr.text.normalise import Normaliser
from asr.text.tokenizer import Tokenizer

_MOST_NAMED = 5
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True)
class WrittenWord:
    """A word as written and its normalised words.

    Attributes:
        text: as written, with the neighbours that are not spoken.
        spoken: its normalised words: two of ``twenty-one``, none in a text of dashes alone.
    """

    text: str
    spoken: tuple[str, ...]


def written_words(text: str, normalise: Normaliser) -> list[WrittenWord]:
    """Return the words between white space, each normalised by itself.

    One of which nothing is left (a dash) goes to the word before it, at the beginning to the first.
    """
    words: list[WrittenWord] = []
    for word in _split(text, normalise):
        spoken = tuple(normalise(word).split())
        if words and not (spoken and words[-1].spoken):
            last = words.pop()
            word, spoken = f"{last.text} {word}", last.spoken + spoken
        words.append(WrittenWord(word, spoken))
    return words


def describe_unwritable(text: str, normalise: Normaliser, tokenizer: Tokenizer) -> str:
    """Name the letters that have no token, as written, and where: ``'½' in '2½' (word 3)``.

    A letter that is written in two characters is named in one if there is such a one.
    """
    named = []
    for number, word in enumerate(_split(text, normalise), start=1):
        missing = tokenizer.unwritable(normalise(word).replace(" ", ""))
        if missing:
            letters = dict.fromkeys(unicodedata.normalize("NFC", word))
            to_blame = [one for one in letters if missing & _normalised(one, normalise)]
            listed = ", ".join(map(repr, to_blame or sorted(missing)))
            named.append(f"{listed} in {word!r} (word {number})")
    more = [f"{len(named) - _MOST_NAMED} more words"] if len(named) > _MOST_NAMED else []
    return "; ".join(named[:_MOST_NAMED] + more) or "the space between words"


def _split(text: str, normalise: Normaliser) -> list[str]:
    """Split at white space, and at zero width spaces where that gives the same spoken words."""
    words = []
    for word in text.split():
        parts = word.replace(_ZERO_WIDTH_SPACE, " ").split()
        spoken = [one for part in parts for one in normalise(part).split()]
        words += parts if spoken == normalise(word).split() else [word]
    return words


def _normalised(letter: str, normalise: Normaliser) -> set[str]:
    """Return every character that a letter can become; apostrophes stay only between others."""
    return set(normalise(letter)) | set(normalise(f"a{letter}a").strip("a"))
