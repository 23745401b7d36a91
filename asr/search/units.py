"""Words that tokens spell: which tokens begin one, and which letters each adds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from asr.text.tokenizer import BLANK, UNKNOWN, UNKNOWN_TEXT, Tokenizer

_SPACE = "▁"  # SentencePiece's spelling of a space, at the front of the piece that follows it


@dataclass(frozen=True)
class Units:
    """Attributes:
    begins_v: whether the token ends the word before it.
    letters_v: what the token adds to the word; empty for a space alone and for the blank.
    """

    begins_v: tuple[bool, ...]
    letters_v: tuple[str, ...]

    def split(self, tokens: Sequence[int]) -> list[list[int]]:
        """Positions of the tokens that spell each word; spaces alone belong to none."""
        words: list[list[int]] = []
        ended = True
        for position, token in enumerate(tokens):
            ended = ended or self.begins_v[token]
            if self.letters_v[token]:
                if ended:
                    words.append([])
                words[-1].append(position)
                ended = False
        return words

    def spell(self, tokens: Sequence[int]) -> list[str]:
        """The words that tokens spell: ``tokenizer.decode(tokens).split()``."""
        text = "".join([self._spelled_v[token] for token in tokens])
        return text.split()

    @functools.cached_property
    def _spelled_v(self) -> tuple[str, ...]:
        return tuple(
            " " * begins + letters
            for begins, letters in zip(self.begins_v, self.letters_v, strict=True)
        )


def units_of(tokenizer: Tokenizer) -> Units:
    """Return the units of a tokenizer; characters and SentencePiece's pieces spell a space alike."""
    pieces = tokenizer.pieces
    pieces[BLANK], pieces[UNKNOWN] = "", UNKNOWN_TEXT
    return Units(
        begins_v=tuple(piece.startswith(_SPACE) or piece.isspace() for piece in pieces),
        letters_v=tuple(piece.lstrip(_SPACE).strip() for piece in pieces),
    )
