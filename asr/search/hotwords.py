"""Words and phrases that a search should prefer, with a bonus that grows while one is spelled."""

from __future__ import annotations

from collections.abc import Mapping

Matches = tuple[str, ...]
"""What has been spelled so far of each phrase that may still be completed."""


class Hotwords:
    """Every occurrence of a phrase earns its bonus, where it stands as whole words.

    While a phrase is being spelled, its bonus is lent in proportion to the letters; whoever leaves
    the phrase gives it back. A phrase within another one counts for itself.
    """

    def __init__(self, bonuses: Mapping[str, float]) -> None:
        """
        Args:
            bonuses: natural-log bonus of each phrase; words are separated by single spaces.
        """
        self._bonuses = dict(bonuses)
        self._lent: dict[str, float] = {"": 0.0}
        for phrase, bonus in bonuses.items():
            for length in range(1, len(phrase) + 1):
                lent = bonus * length / len(phrase)
                begun = phrase[:length]
                self._lent[begun] = max(lent, self._lent.get(begun, lent))

    @property
    def words(self) -> set[str]:
        """Every word of every phrase."""
        return {word for phrase in self._bonuses for word in phrase.split(" ")}

    def spell(self, matches: Matches, letters: str, begins_word: bool) -> Matches:
        """The matches after more letters of a word, or after its first ones."""
        if begins_word:
            matches = (*matches, "")
        return tuple(m + letters for m in matches if m + letters in self._lent)

    def end_word(self, matches: Matches) -> tuple[float, Matches]:
        """(bonus earned for good now that the word is complete, what may still be completed)."""
        earned = sum(self._bonuses.get(match, 0.0) for match in matches)
        return earned, tuple(m + " " for m in matches if m + " " in self._lent)

    def lent(self, matches: Matches) -> float:
        """The bonus that is lent for the phrases begun: that of the most promising one."""
        return max((self._lent[match] for match in matches), default=0.0)
