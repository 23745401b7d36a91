"""Is one attention type better than another: several seeds of each, on the same speakers.

A type's WER varies with the seed of its training and with who speaks, and both are samples: the claim
is about another training and other speakers. Seeds are nested in types, speakers are crossed with
them all. With y the error of a run on a speaker (linearised, so that its mean is the run's WER),

    y[type, seed, speaker] = mean[type] + speaker + type x speaker + seed[type] + rest,

the variance of a contrast of types (each weighted by its runs, so that the speaker term cancels) is
estimated by

    V = max(V_seeds, V_rest) + max(V_speakers - V_rest, 0)

V_speakers from the contrast's spread over speakers, V_seeds from the spread of the runs' WERs within
each type, and V_rest, which both contain, from the rest's: two-way clustering (Cameron, Gelbach and
Miller 2011), in which no part may be negative. Degrees of freedom by Satterthwaite (1946), type by
type as Welch does, since seeds may matter more in one than in another; three seeds count as three. A
seed is not paired with the same seed of another type: what the two have in common (the order of the
data) makes the test conservative. Where seeds make no difference the test is conservative, since a few
seeds cannot tell that: see docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.compare.stats.statistics import Floats, Interval
from asr.compare.stats.student import t_quantile, two_sided_t

# Of a rate: a smaller standard error is what adding rounds off, where nothing varies.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of WERs and what is known of its error, one entry per trial.

    Attributes:
        variance_k: of the estimate.
        df_k: degrees of freedom of that variance.
        seeds_k, speakers_k: standard errors from seeds and from speakers alone.
    """

    estimate_k: Floats
    variance_k: Floats
    df_k: Floats
    seeds_k: Floats
    speakers_k: Floats


def contrast(
    errors_kru: Floats, words_ku: Floats, weight_r: Floats, type_r: Sequence[int]
) -> Contrast:
    """``sum_r weight_r * WER_r`` with its hierarchical standard error.

    Args:
        errors_kru: (trials, runs, units): error counts; units are speakers, or utterances.
        words_ku: (trials, units): reference words.
        weight_r: of each run.
        type_r: which type (all that is equal but the seed) a run is of; at least two runs of each.

    Raises:
        ValueError: a type with one run, or fewer than two units.
    """
    types = np.asarray(type_r)
    num_units = errors_kru.shape[2]
    _, sizes = np.unique(types, return_counts=True)
    if sizes.min() < 2 or num_units < 2:
        raise ValueError("needs at least two runs of each type and two units")
    words_k = words_ku.sum(axis=1)
    wer_kr = errors_kru.sum(axis=2) / words_k[:, None]
    # Its mean over units is 0; adding WER_r would make it the run's WER.
    y_kru = (errors_kru - wer_kr[:, :, None] * words_ku[:, None]) * (
        num_units / words_k[:, None, None]
    )
    contrast_ku = np.einsum("r,kru->ku", weight_r, y_kru)
    speakers_k = (contrast_ku**2).sum(axis=1) / (num_units - 1) / num_units

    parts = [_spread(wer_kr, y_kru, weight_r, types == one) for one in np.unique(types)]
    seeds_tk = np.stack([seeds for seeds, _ in parts])
    rest_tk = np.stack([rest for _, rest in parts])
    seeds_k, rest_k = seeds_tk.sum(axis=0), rest_tk.sum(axis=0)
    # type by type: seeds may matter more in one than in another
    trained_tk = np.where(seeds_k > rest_k, seeds_tk, rest_tk)
    spoken_k = np.maximum(speakers_k - rest_k, 0.0)
    variance_k = trained_tk.sum(axis=0) + spoken_k
    spread_k = (trained_tk**2 / (sizes[:, None] - 1)).sum(axis=0) + spoken_k**2 / (num_units - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        df_k = np.where(spread_k > 0, variance_k**2 / spread_k, np.inf)
    return Contrast(
        estimate_k=wer_kr @ weight_r,
        variance_k=variance_k,
        df_k=df_k,
        seeds_k=np.sqrt(seeds_k),
        speakers_k=np.sqrt(speakers_k),
    )


def tested(found: Contrast, level: float) -> tuple[Interval | None, float | None]:
    """(interval, p-value) of the first trial by t; (None, None) where nothing varies at all."""
    estimate, error = float(found.estimate_k[0]), float(np.sqrt(found.variance_k[0]))
    if error < ROUNDING:
        return None, None
    df = float(found.df_k[0])
    half = t_quantile(level, df) * error
    return Interval(estimate - half, estimate + half), two_sided_t(estimate / error, df)


def _spread(
    wer_kr: Floats, y_kru: Floats, weight_r: Floats, of_type_r: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """What the runs of one type add to the variance from seeds, and to the rest's."""
    num_units = y_kru.shape[2]
    weight, df = float((weight_r[of_type_r] ** 2).sum()), int(of_type_r.sum()) - 1
    of_type = y_kru[:, of_type_r]
    squares_k = ((of_type - of_type.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    seeds_k = wer_kr[:, of_type_r].var(axis=1, ddof=1) * weight
    return seeds_k, squares_k / (df * (num_units - 1)) * weight / num_units
