"""Word alignment and error counts.

The number of errors is the minimum edit distance (what jiwer reports). Of all alignments with that
many errors the one with the fewest substitutions is taken, which fixes S, D and I; among those that
remain, gaps come as early as possible, so the words themselves are aligned deterministically.

NIST sclite minimises 4 S + 3 D + 3 I instead, that is 3 errors + S. The two agree except where one
error more saves three substitutions or more, which takes a nearly hopeless hypothesis; there sclite
reports more errors than the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Costs order alignments by (errors, substitutions): one error outweighs any number of substitutions
# a transcript can hold, and both fit into 63 bits.
_ERROR = 1 << 32
_SUBSTITUTION = _ERROR + 1
# Characters whose places in a text are kept; of all that a text can hold they would fill the memory.
_KEPT_CHARACTERS = 4096


class Op(str, Enum):
    CORRECT = "correct"
    SUBSTITUTION = "substitution"
    DELETION = "deletion"
    INSERTION = "insertion"


@dataclass(frozen=True)
class Edit:
    """One column of an alignment; None where an insertion or a deletion leaves a gap."""

    op: Op
    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True)
class ErrorCounts:
    """Error counts of one utterance, or of several added up; ``reference_words`` are characters where
    those were counted."""

    reference_words: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors per reference word, a fraction; without reference words undefined: NaN, or infinity
        where words were inserted."""
        if self.reference_words:
            return self.errors / self.reference_words
        return float("inf") if self.errors else float("nan")

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        if not isinstance(other, ErrorCounts):
            return NotImplemented
        return ErrorCounts(
            self.reference_words + other.reference_words,
            self.correct + other.correct,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def characters(text: str) -> str:
    """Return what the character error rate counts: spaces between words are characters too."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Metric:
    """An error rate: what a text is cut into, and what the rate and its units are called.

    Attributes:
        name: in files; label: in tables.
        split: from a text to its units.
        gap: between units that are shown in a row.
    """

    name: str
    label: str
    long: str
    unit: str
    split: Callable[[str], Sequence[str]]
    gap: str

    @property
    def units(self) -> str:
        return f"{self.unit}s"


WER = Metric("wer", "WER", "word error rate", "word", str.split, " ")
CER = Metric("cer", "CER", "character error rate", "character", characters, "")
METRICS = {one.name: one for one in (WER, CER)}
"""The character error rate is for languages without spaces, where an utterance is one word."""


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    """Counts of ``align(reference, hypothesis)``, in memory linear in its length."""
    reference_ids, hypothesis_ids = _word_ids(reference, hypothesis)
    cost = 0
    for row in _cost_rows(reference_ids, hypothesis_ids):
        cost = int(row.cost[-1])
    errors, substitutions = divmod(cost, _ERROR)
    # Deletions minus insertions is the difference of the lengths, so the cost decides them both.
    surplus = len(reference) - len(hypothesis)
    deletions = (errors - substitutions + surplus) // 2
    insertions = deletions - surplus
    return ErrorCounts(
        reference_words=len(reference),
        correct=len(reference) - substitutions - deletions,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
    )


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions of units, by bits of whole numbers.

    Myers (1999), "A fast bit-vector algorithm for approximate string matching based on dynamic
    programming", in Hyyrö's form (2001) for two whole texts.
    """
    if len(reference) < len(hypothesis):  # a step for each character of the shorter text
        reference, hypothesis = hypothesis, reference
    if not hypothesis:
        return len(reference)
    all_ones, last = (1 << len(reference)) - 1, 1 << (len(reference) - 1)
    places: dict[str, list[int]] = {}
    for place, char in enumerate(reference):
        places.setdefault(char, []).append(place)

    @lru_cache(_KEPT_CHARACTERS)
    def bits_of(char: str) -> int:
        bits = bytearray(len(reference) // 8 + 1)
        for place in places.get(char, ()):
            bits[place >> 3] |= 1 << (place & 7)
        return int.from_bytes(bits, "little")

    # where the column's cost rises and falls by one from a row to the next
    rises, falls, distance = all_ones, 0, len(reference)
    for char in hypothesis:
        equal = bits_of(char)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        across_up = falls | (all_ones & ~(diagonal | rises))
        across_down = rises & diagonal
        distance += bool(across_up & last) - bool(across_down & last)
        across_up = across_up << 1 | 1
        rises = all_ones & (across_down << 1 | ~(equal | falls | across_up))
        falls = all_ones & across_up & (equal | falls)
    return distance


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Edit]:
    """Minimum-edit alignment, in order; two bits of memory per pair of words (25 MB an hour)."""
    reference_ids, hypothesis_ids = _word_ids(reference, hypothesis)
    num_bytes = (len(hypothesis) + 8) // 8
    may_pair = np.zeros((len(reference) + 1, num_bytes), dtype=np.uint8)
    may_insert = np.zeros_like(may_pair)
    for i, row in enumerate(_cost_rows(reference_ids, hypothesis_ids)):
        may_pair[i] = np.packbits(row.may_pair)
        may_insert[i] = np.packbits(row.may_insert)

    edits: list[Edit] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        # Backwards, pair first, then insert: gaps come early, insertions late, as in sclite.
        if _bit(may_pair, i, j):
            i, j = i - 1, j - 1
            same = reference[i] == hypothesis[j]
            op = Op.CORRECT if same else Op.SUBSTITUTION
            edits.append(Edit(op, reference[i], hypothesis[j]))
        elif _bit(may_insert, i, j):
            j -= 1
            edits.append(Edit(Op.INSERTION, None, hypothesis[j]))
        else:
            i -= 1
            edits.append(Edit(Op.DELETION, reference[i], None))
    return edits[::-1]


@dataclass(frozen=True)
class _Row:
    """Costs of a reference prefix against every hypothesis prefix, and the last steps there."""

    cost: NDArray[np.int64]
    may_pair: NDArray[np.bool_]
    may_insert: NDArray[np.bool_]


def _cost_rows(reference: NDArray[np.int64], hypothesis: NDArray[np.int64]) -> Iterator[_Row]:
    """Row i is the first i reference words; each has len(hypothesis) + 1 columns."""
    num_columns = len(hypothesis) + 1
    insertions = np.arange(num_columns, dtype=np.int64) * _ERROR
    cost = insertions
    yield _Row(cost, np.zeros(num_columns, dtype=np.bool_), insertions > 0)
    paired = np.full(num_columns, np.iinfo(np.int64).max, dtype=np.int64)
    inserted = paired.copy()
    for word in reference:
        np.add(cost[:-1], np.where(hypothesis == word, 0, _SUBSTITUTION), out=paired[1:])
        best = np.minimum(paired, cost + _ERROR)
        # A run of insertions ending here: the least of best[k] + (j - k) errors over k <= j.
        cost = np.minimum.accumulate(best - insertions) + insertions
        inserted[1:] = cost[:-1] + _ERROR
        yield _Row(cost, cost == paired, cost == inserted)


def _word_ids(
    reference: Sequence[str], hypothesis: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    ids: dict[str, int] = {}
    reference_ids = [ids.setdefault(word, len(ids)) for word in reference]
    hypothesis_ids = [ids.setdefault(word, len(ids)) for word in hypothesis]
    return np.array(reference_ids, dtype=np.int64), np.array(hypothesis_ids, dtype=np.int64)


def _bit(packed: NDArray[np.uint8], i: int, j: int) -> bool:
    return bool((int(packed[i, j >> 3]) >> (7 - (j & 7))) & 1)
