"""Which characters of texts a tokenizer cannot write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from asr.errors import InputError, warn
from asr.text.tokenizer import Tokenizer

MAX_UNWRITABLE_SHARE = 0.01
"""Largest share of the characters of training texts that may have no token."""
_NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Coverage:
    """Counts of the characters of some texts that a tokenizer has no token for.

    Attributes:
        num_characters: of the texts, spaces included.
        unwritable: how often each character without a token occurs, the most frequent first.
    """

    num_characters: int
    unwritable: dict[str, int]

    @property
    def share(self) -> float:
        """Of the characters that have no token, a fraction."""
        return sum(self.unwritable.values()) / max(self.num_characters, 1)

    def describe(self) -> str:
        """One line, without a subject: ``has no token for 12.3 % of the characters: 'я' (17 times)``."""
        first = list(self.unwritable.items())[:_NUM_EXAMPLES]
        examples = ", ".join(f"{char!r} ({count} times)" for char, count in first)
        more = len(self.unwritable) - len(first)
        rest = f" and {more} more" if more else ""
        return f"has no token for {100 * self.share:.2g} % of the characters: {examples}{rest}"


def coverage(texts: Iterable[str], tokenizer: Tokenizer) -> Coverage:
    """Count the characters of normalised texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    never = tokenizer.unwritable(counts)
    found = sorted((-counts[char], char) for char in never)
    return Coverage(counts.total(), {char: -count for count, char in found})


def check_training_texts(
    texts: Iterable[str], tokenizer: Tokenizer, where: str, advice: str
) -> None:
    """Refuse to train on unknown tokens.

    Args:
        texts: normalised.
        where: begins the message.
        advice: ends it.

    Raises:
        InputError: more than ``MAX_UNWRITABLE_SHARE`` of the characters have no token. Fewer are an
            ``InputWarning``.
    """
    found = coverage(texts, tokenizer)
    if found.share > MAX_UNWRITABLE_SHARE:
        raise InputError(f"{where}: the tokenizer {found.describe()}; {advice}")
    if found.unwritable:
        warn(f"{where}: the tokenizer {found.describe()}; they are trained as unknown")


def warn_of_references(texts: Iterable[str], tokenizer: Tokenizer, where: str) -> None:
    """Issue an ``InputWarning`` if references have characters that are never written: each word that
    holds one is an error."""
    found = coverage(texts, tokenizer)
    if found.unwritable:
        warn(f"{where}: the model {found.describe()}; words with them are always wrong")
