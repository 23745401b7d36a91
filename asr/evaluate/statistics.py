"""How sure a word error rate is: bootstrap intervals and paired differences.

Utterances are not independent draws of words, so it is utterances (or the speakers they come from)
that are resampled, never words; WER is the ratio of two sums over them, recomputed in each resample
(Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
ICASSP 2004).
Utterances of one speaker are alike: where there are enough speakers they are what is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Percentile intervals over few units are too short. Where speakers' error rates vary by 70 %, a
# nominal 95 % covers the truth in 79 % of simulations with 4 speakers, in 88 % with 10, in 92 %
# with 20 or more; intervals over their utterances in 66 to 73 %.
MIN_SPEAKERS = 10

# Entries of the resampling matrix that are in memory at once.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def resampling_unit(speakers: Sequence[str]) -> str:
    """``speaker`` where at least ten of them speak, ``utterance`` otherwise."""
    return "speaker" if len(set(speakers)) >= MIN_SPEAKERS else "utterance"


def pool_by_speaker(values_uk: Floats, speakers: Sequence[str]) -> Floats:
    """Sums of the utterances' values per speaker, (speakers, K), speakers in sorted order."""
    names, speaker_u = np.unique(np.asarray(speakers), return_inverse=True)
    pooled = np.zeros((len(names), values_uk.shape[1]))
    np.add.at(pooled, speaker_u, values_uk)
    return pooled


def resample_totals(values_uk: Floats, num_resamples: int, seed: int) -> Floats:
    """Column sums of resamples of the rows with replacement.

    Args:
        values_uk: (units, K), for example errors and reference words of each utterance. All columns
            are resampled together, which is what makes a comparison of them paired.
        num_resamples: how often.
        seed: the same seed, number of units and of resamples draw the same units.

    Returns:
        (num_resamples, K)
    """
    num_units = len(values_uk)
    if num_units == 0:
        raise ValueError("values_uk has no rows: there is nothing to resample")
    rng = np.random.default_rng(seed)
    chunks = []
    for start in range(0, num_resamples, max(1, _CHUNK // num_units)):
        size = min(max(1, _CHUNK // num_units), num_resamples - start)
        drawn = rng.integers(num_units, size=(size, num_units))
        # How often each unit was drawn, all resamples in one histogram.
        flat = (drawn + np.arange(size)[:, None] * num_units).ravel()
        times_ru = np.bincount(flat, minlength=size * num_units).reshape(size, num_units)
        chunks.append(times_ru.astype(np.float64) @ values_uk)
    return np.concatenate(chunks)


def ratios(errors_r: Floats, words_r: Floats) -> Floats:
    """Errors per word of each resample; one that happened to draw no words at all is left out."""
    drawn = words_r > 0
    return errors_r[drawn] / words_r[drawn]


def percentile_interval(values_r: Floats, level: float = 0.95) -> Interval:
    """The middle ``level`` of the resampled values."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be between 0 and 1")
    low, high = np.quantile(values_r, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def two_sided_p(differences_r: Floats) -> float:
    """The level at which the percentile interval of the differences just touches zero.

    Counting the observed sample as one more resample keeps it above zero, so that no finite number
    of resamples claims certainty.
    """
    count = len(differences_r) + 1
    below = (int((differences_r <= 0).sum()) + 1) / count
    above = (int((differences_r >= 0).sum()) + 1) / count
    return min(1.0, 2 * min(below, above))
