"""NIST's matched-pairs sentence-segment word error test (MAPSSWE).

Errors of neighbouring words depend on each other, errors on either side of two words that both
systems got right hardly do. So each sentence is cut where at least two reference words in a row are
correct in both systems; the errors of the two systems in each segment between such cuts make one
pair, and z is the mean difference over its standard error (Gillick and Cox, "Some statistical issues
in the comparison of speech recognition algorithms", ICASSP 1989). Segments are those of sc_stats.

The test knows neither speakers nor seeds: it asks whether these two systems differ, on average over
sentences like these by these speakers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.compare.stats.student import two_sided_normal
from asr.wer import Op, align

MIN_CORRECT = 2


@dataclass(frozen=True)
class Mapsswe:
    """Attributes:
    mean: errors of the first system minus those of the second, per segment.
    p_value: two-sided, from the normal distribution.
    """

    num_segments: int
    mean: float
    z: float
    p_value: float


@dataclass(frozen=True)
class Slot:
    """A reference word: insertions right before it, and whether it is deleted or substituted."""

    inserted: int
    wrong: int


def errors_by_word(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Slot]:
    """One slot per reference word and one, never wrong by itself, for the sentence's end."""
    slots = []
    inserted = 0
    for edit in align(reference, hypothesis):
        if edit.op is Op.INSERTION:
            inserted += 1
            continue
        slots.append(Slot(inserted, int(edit.op is not Op.CORRECT)))
        inserted = 0
    return [*slots, Slot(inserted, 0)]


def segment_errors(one: Sequence[Slot], other: Sequence[Slot]) -> list[tuple[int, int]]:
    """Errors of two hypotheses in each segment of one sentence that has any.

    Args:
        one, other: of the same reference, from ``errors_by_word``.
    """
    segments = []
    num_correct, first_errors, second_errors = 0, 0, 0
    for a, b in zip(one, other, strict=True):
        # An insertion before a word breaks a run of correct words, an error in the word does too.
        if a.inserted or b.inserted or a.wrong or b.wrong:
            num_correct = 0
        num_correct += not (a.wrong or b.wrong)
        first_errors += a.inserted + a.wrong
        second_errors += b.inserted + b.wrong
        if num_correct >= MIN_CORRECT and (first_errors or second_errors):
            segments.append((first_errors, second_errors))
            first_errors = second_errors = 0
    if first_errors or second_errors:
        segments.append((first_errors, second_errors))
    return segments


def mapsswe(differences: Sequence[int]) -> Mapsswe | None:
    """The test over the segments' differences in errors; None where fewer than two differ.

    Like sc_stats, z is 0 where all the differences are equal.
    """
    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    z = mean / (deviation / math.sqrt(len(values))) if deviation > 0 else 0.0
    return Mapsswe(len(values), mean, z, two_sided_normal(z))
