"""How sure a word error rate is, and a difference between two systems on the same utterances.

Utterances are not independent draws of words, and those of one speaker are alike: units are speakers
wherever there are enough of them, never words. WER is the ratio of two sums over units (Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004).

What is done with how many units is decided by the simulations of docs/statistics.md:

- a WER over ten units or more: studentised bootstrap (Efron 1981). Percentile intervals cover 86 to
  92 % where they say 95 % at 10 to 20 speakers.
- a difference over ten units or more: random signs. Where two systems do not differ, their labels can
  be exchanged unit by unit; the p-value is the share of all exchanges that give a difference as large
  (Fisher's randomisation test; as a bootstrap, the wild cluster bootstrap of Cameron, Gelbach and
  Miller 2008). The interval holds the differences that this test does not reject.
- a WER over fewer: Student's t over the units, of its logarithm (rates are skewed).
- a difference over fewer: all signs, the same test with each exchange counted once. Below six units
  none is as rare as 5 %, so nothing can be told; the interval is Student's t there.

All functions take one column per system, so that a simulation's trials can be computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.compare.stats.student import t_quantile, two_sided_t

Floats = NDArray[np.float64]

# From here on units are resampled; below, t intervals over them cover what they say.
MIN_RESAMPLED = 10
# Below, not even a t interval says anything: utterances are taken, for these speakers alone.
MIN_SPEAKERS = 3

# Of subsets of units, times units, that are counted one by one.
_MOST_SUMS = 2_000_000_000
# Entries of the resampling matrix that are in memory at once.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Tested:
    """Differences' intervals and two-sided p-values, one per column."""

    low_k: Floats
    high_k: Floats
    p_k: Floats


def resampling_unit(speakers: Sequence[str]) -> str:
    """``speaker`` where at least three of them speak, ``utterance`` otherwise."""
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

    def times_drawn(rng: np.random.Generator, size: int) -> Floats:
        drawn = rng.integers(num_units, size=(size, num_units))
        # How often each unit was drawn, all resamples in one histogram.
        flat = (drawn + np.arange(size)[:, None] * num_units).ravel()
        return np.bincount(flat, minlength=size * num_units).reshape(size, num_units).astype(float)

    return _weighted_totals(values_uk, num_resamples, seed, times_drawn)


def ratios(errors_r: Floats, words_r: Floats) -> Floats:
    """Errors per word of each resample; one that happened to draw no words at all is left out."""
    drawn = words_r > 0
    return errors_r[drawn] / words_r[drawn]


def standard_errors(errors_uk: Floats, words_uk: Floats) -> tuple[Floats, Floats]:
    """(WER, its standard error) per column, linearised over independent units."""
    num_units = len(errors_uk)
    words_k = words_uk.sum(axis=0)
    wer_k = errors_uk.sum(axis=0) / words_k
    squares_k = ((errors_uk - wer_k * words_uk) ** 2).sum(axis=0)
    return wer_k, np.sqrt(num_units / (num_units - 1) * squares_k) / words_k


def studentised_bootstrap(
    errors_uk: Floats, words_uk: Floats, num_resamples: int, seed: int, level: float
) -> tuple[Floats, Floats]:
    """(low, high) of each column's WER; infinite or NaN where too few units have errors."""
    wer_k, error_k = standard_errors(errors_uk, words_uk)
    columns = (errors_uk, words_uk, errors_uk**2, errors_uk * words_uk, words_uk**2)
    values_uk = np.concatenate([np.broadcast_to(c, errors_uk.shape) for c in columns], axis=1)
    totals = resample_totals(values_uk, num_resamples, seed)
    errors_rk, words_rk, ee_rk, ew_rk, ww_rk = np.split(totals, 5, axis=1)
    num_units = len(errors_uk)
    with np.errstate(divide="ignore", invalid="ignore"):
        wer_rk = errors_rk / words_rk
        squares_rk = np.maximum(ee_rk - 2 * wer_rk * ew_rk + wer_rk**2 * ww_rk, 0.0)
        error_rk = np.sqrt(num_units / (num_units - 1) * squares_rk) / words_rk
        t_rk = (wer_rk - wer_k) / error_rk
    # A resample without words says nothing; one equal to the sample is as far as it gets from it.
    t_rk = np.where(np.isnan(t_rk), 0.0, t_rk)
    low_k, high_k = np.quantile(t_rk, [(1 - level) / 2, (1 + level) / 2], axis=0, method="higher")
    with np.errstate(invalid="ignore"):
        return np.maximum(wer_k - high_k * error_k, 0.0), wer_k - low_k * error_k


def log_t(errors_uk: Floats, words_uk: Floats, level: float) -> tuple[Floats, Floats]:
    """(low, high) of each column's WER by Student's t of its logarithm; NaN without errors."""
    wer_k, error_k = standard_errors(errors_uk, words_uk)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor_k = np.exp(t_quantile(level, len(errors_uk) - 1) * error_k / wer_k)
        return wer_k / factor_k, wer_k * factor_k


def random_signs(
    differences_uk: Floats, words_uk: Floats, num_resamples: int, seed: int, level: float
) -> Tested:
    """The randomisation test of each column's difference, and its confidence interval.

    Exchanging the labels of some units turns the difference D into one of the same size or larger
    exactly where the differences of those units and of the others, each per word, lie on both sides
    of 0; and the same holds for a hypothetical D0 after it was subtracted. So a D0 is rejected by as
    many of the splits in two halves as do not have it between them (Hartigan, "Using subsample values
    as typical values", 1969).

    Splits that tie count half (the mid p-value); the split into all and none counts as one more.
    The p-value of whole numbers is exact, over all splits; only that of others is of the resamples.
    """
    words_uk = np.broadcast_to(words_uk, differences_uk.shape)
    num_units, num_columns = differences_uk.shape
    values_uk = np.concatenate([differences_uk, words_uk], axis=1)

    def halves(rng: np.random.Generator, size: int) -> Floats:
        return rng.integers(2, size=(size, num_units)).astype(float)

    totals = _weighted_totals(values_uk, num_resamples, seed, halves)
    all_k = values_uk.sum(axis=0)
    low_rk, high_rk = _between(totals, all_k)
    share_rk = (low_rk < 0) & (high_rk > 0)
    ties_rk = (low_rk == 0) | (high_rk == 0)
    count = num_resamples + 1
    p_k = (1 + share_rk.sum(axis=0) + ties_rk.sum(axis=0) / 2) / count
    p_k = np.where(all_k[:num_columns] == 0, 1.0, np.minimum(p_k, 1.0))
    if (words_uk > 0).all():
        for k in range(num_columns):
            exact = exact_signs(differences_uk[:, k])
            p_k[k] = p_k[k] if exact is None else exact
    kept = int((1 - level) * count)
    return Tested(_end(low_rk, kept), -_end(-high_rk, kept), p_k)


def exact_signs(difference_u: Floats) -> float | None:
    """Return the p-value of ``random_signs`` over all 2^units splits; None where it is out of reach.

    Counts how many of the subsets of the units have each sum, which is quick for whole numbers.
    """
    if (difference_u != np.round(difference_u)).any():
        return None
    total = int(difference_u.sum())
    if total == 0:
        return 1.0
    steps = [int(step) * (1 if total > 0 else -1) for step in difference_u]
    total = abs(total)
    lowest, highest = sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)
    if len(steps) * (highest - lowest) > _MOST_SUMS:
        return None
    share_s = np.zeros(highest - lowest + 1)  # of the subsets with sum s + lowest
    share_s[-lowest] = 1.0
    for step in steps:
        moved_s = np.zeros_like(share_s)
        if step >= 0:
            moved_s[step:] = share_s[: len(share_s) - step]
        else:
            moved_s[:step] = share_s[-step:]
        share_s = (share_s + moved_s) / 2
    beyond = share_s[:-lowest].sum() + share_s[total + 1 - lowest :].sum()
    ties = share_s[-lowest] + share_s[total - lowest]
    all_and_none = 2.0 ** (1 - len(steps))
    return float(min(1.0, beyond + (ties + all_and_none) / 2))


def all_signs(differences_uk: Floats, words_uk: Floats, level: float) -> Tested:
    """The test of ``random_signs`` with each of the exchanges of few units counted once.

    Ties count whole, so that it never rejects more often than it says, whatever the units are like.
    The p-value is at least ``lowest_p``; where 1 - level is less than that the ends are infinite.
    """
    words_uk = np.broadcast_to(words_uk, differences_uk.shape)
    num_units = len(differences_uk)
    values_uk = np.concatenate([differences_uk, words_uk], axis=1)
    halves_ru = np.arange(2**num_units)[:, None] >> np.arange(num_units) & 1
    low_rk, high_rk = _between(halves_ru @ values_uk, values_uk.sum(axis=0))
    p_k = ((low_rk <= 0) & (high_rk >= 0)).mean(axis=0)
    kept = int((1 - level) * len(halves_ru)) + 1
    return Tested(_end(low_rk, kept), -_end(-high_rk, kept), p_k)


def lowest_p(num_units: int) -> float:
    """What ``all_signs`` finds where every unit favours the same system."""
    return 2.0 ** (1 - num_units)


def student(differences_uk: Floats, words_uk: Floats, level: float) -> Tested:
    """Student's t test of each column's difference over the units."""
    difference_k, error_k = standard_errors(differences_uk, words_uk)
    df = len(differences_uk) - 1
    half_k = t_quantile(level, df) * error_k
    with np.errstate(divide="ignore", invalid="ignore"):
        t_k = np.where(difference_k == 0, 0.0, difference_k / error_k)
    p_k = np.array([two_sided_t(float(t), df) for t in t_k])
    return Tested(difference_k - half_k, difference_k + half_k, p_k)


def percentile_interval(values_r: Floats, level: float = 0.95) -> Interval:
    """The middle ``level`` of the resampled values."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be between 0 and 1")
    low, high = np.quantile(values_r, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: rejecting those below 5 % errs in any of them in at most 5 %.

    S. Holm, "A simple sequentially rejective multiple test procedure", 1979; needs no independence.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = running
    return adjusted


def _between(totals: Floats, all_k: Floats) -> tuple[Floats, Floats]:
    """(lower, higher) of the two halves' differences per word, for each split and column.

    Args:
        totals: (splits, 2 K), one half's differences and then its words.
        all_k: (2 K), both halves'.
    """
    num_columns = len(all_k) // 2
    rest = all_k - totals
    with np.errstate(divide="ignore", invalid="ignore"):
        one_rk = totals[:, :num_columns] / totals[:, num_columns:]
        other_rk = rest[:, :num_columns] / rest[:, num_columns:]
    # A half without words holds every difference between it and the other.
    empty_rk = np.isnan(one_rk) | np.isnan(other_rk)
    low_rk = np.where(empty_rk, -np.inf, np.minimum(one_rk, other_rk))
    high_rk = np.where(empty_rk, np.inf, np.maximum(one_rk, other_rk))
    return low_rk, high_rk


def _weighted_totals(
    values_uk: Floats,
    num_resamples: int,
    seed: int,
    draw: Callable[[np.random.Generator, int], Floats],
) -> Floats:
    """``weights_ru @ values_uk`` in pieces, where ``draw`` makes so many rows of weights."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(values_uk))
    sizes = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    return np.concatenate([draw(rng, size) @ values_uk for size in sizes])


def _end(low_rk: Floats, kept: int) -> Floats:
    """The lowest value that ``kept`` or fewer splits, all-and-none among them, lie below."""
    if kept == 0:
        return np.full(low_rk.shape[1], -np.inf)
    return np.partition(low_rk, kept - 1, axis=0)[kept - 1]
