"""The bootstrap against enumeration, the delta method and simulations whose truth is known."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from asr.evaluate.statistics import (
    percentile_interval,
    pool_by_speaker,
    ratios,
    resample_totals,
    resampling_unit,
    two_sided_p,
)

Floats = NDArray[np.float64]


def test_three_units_against_all_27_resamples() -> None:
    values_uk = np.array([[1.0, 10.0], [2.0, 3.0], [5.0, 7.0]])
    expected = Counter(
        tuple(values_uk[list(drawn)].sum(axis=0)) for drawn in itertools.product(range(3), repeat=3)
    )
    num_resamples = 27_000
    found = Counter(map(tuple, resample_totals(values_uk, num_resamples, seed=0).tolist()))
    assert found.keys() == expected.keys()
    for totals, ways in expected.items():
        share = ways / 27
        spread = np.sqrt(num_resamples * share * (1 - share))
        assert abs(found[totals] - num_resamples * share) < 5 * spread


def test_resamples_depend_on_the_seed_alone() -> None:
    values_uk = np.arange(20, dtype=np.float64).reshape(10, 2)
    first = resample_totals(values_uk, 100, seed=3)
    assert np.array_equal(first, resample_totals(values_uk, 100, seed=3))
    assert not np.array_equal(first, resample_totals(values_uk, 100, seed=4))
    # Another column does not change which units are drawn: comparisons are paired.
    assert np.array_equal(first[:, :1], resample_totals(values_uk[:, :1], 100, seed=3))


def test_chunks_are_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    values_uk = np.random.default_rng(0).integers(9, size=(30, 2)).astype(np.float64)
    whole = resample_totals(values_uk, 101, seed=1)
    monkeypatch.setattr("asr.evaluate.statistics._CHUNK", 200)
    assert np.array_equal(resample_totals(values_uk, 101, seed=1), whole)


def test_nothing_to_resample() -> None:
    with pytest.raises(ValueError, match="nothing to resample"):
        resample_totals(np.zeros((0, 2)), 10, seed=0)


def test_spread_is_the_delta_methods() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(5, 40, size=2000).astype(float)
    errors = rng.binomial(words.astype(int), 0.1).astype(float)
    totals = resample_totals(np.stack([errors, words], axis=1), 4000, seed=0)
    wer = errors.sum() / words.sum()
    residuals = errors - wer * words
    expected = np.sqrt((residuals**2).sum()) / words.sum()
    assert ratios(totals[:, 0], totals[:, 1]).std() == pytest.approx(expected, rel=0.05)


def test_resamples_without_words_are_left_out() -> None:
    assert ratios(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == [0.5]


def test_percentile_interval_by_hand() -> None:
    values = np.arange(101, dtype=np.float64)
    for level, low, high in ((0.95, 2.5, 97.5), (0.5, 25, 75)):
        found = percentile_interval(values, level)
        assert (found.low, found.high) == pytest.approx((low, high))
    for level in (0.0, 1.0):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            percentile_interval(values, level)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.0] * 99, 1.0),  # two systems with equal errors everywhere
        ([1.0] * 99, 2 / 100),
        ([-1.0] * 99, 2 / 100),
        ([-1.0] * 9 + [1.0] * 90, 20 / 100),
        ([-1.0] * 49 + [0.0] + [1.0] * 49, 1.0),
    ],
)
def test_p_by_hand(differences: list[float], p: float) -> None:
    assert two_sided_p(np.array(differences)) == pytest.approx(p)


def test_p_and_interval_agree() -> None:
    rng = np.random.default_rng(2)
    for shift in np.linspace(-3.5, 3.5, 60):
        values = rng.normal(shift, 1.0, size=4000)
        p = two_sided_p(values)
        interval = percentile_interval(values, 0.95)
        if abs(p - 0.05) > 0.002:
            assert (p < 0.05) == (interval.low > 0 or interval.high < 0)


def test_speakers_are_pooled() -> None:
    values_uk = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    pooled = pool_by_speaker(values_uk, ["b", "a", "b"])
    assert pooled.tolist() == [[2.0, 20.0], [5.0, 50.0]]


def test_which_unit() -> None:
    assert resampling_unit([str(k % 9) for k in range(50)]) == "utterance"
    assert resampling_unit([str(k % 10) for k in range(50)]) == "speaker"


def simulated(rng: np.random.Generator, num_speakers: int, spread: float) -> tuple[Floats, Floats]:
    """(errors, words) per (speaker, utterance); a speaker's error rate is 0.15 times a factor."""
    words = rng.integers(5, 30, size=(num_speakers, 5))
    rate = 0.15 * rng.gamma(1 / spread, spread, size=(num_speakers, 1))
    return rng.poisson(rate * words).astype(float), words.astype(float)


def within_binomial_bounds(hits: int, trials: int, share: float) -> bool:
    return abs(hits - trials * share) <= 3.5 * np.sqrt(trials * share * (1 - share))


def test_coverage_when_speakers_vary() -> None:
    """Resampling speakers covers the true WER as often as it says; utterances do not."""
    rng = np.random.default_rng(5)
    trials, covered = 400, {"speaker": 0, "utterance": 0}
    for trial in range(trials):
        errors, words = simulated(rng, num_speakers=80, spread=0.2)
        by_utterance = np.stack([errors.ravel(), words.ravel()], axis=1)
        by_speaker = np.stack([errors.sum(axis=1), words.sum(axis=1)], axis=1)
        for unit, values_uk in (("speaker", by_speaker), ("utterance", by_utterance)):
            totals = resample_totals(values_uk, 400, seed=trial)
            interval = percentile_interval(ratios(totals[:, 0], totals[:, 1]))
            covered[unit] += interval.low <= 0.15 <= interval.high
    # A percentile interval over 80 skewed units is a little short of its 95 %.
    assert within_binomial_bounds(covered["speaker"], trials, 0.94)
    assert covered["utterance"] < 0.85 * trials


def test_rejection_rate_where_there_is_no_difference() -> None:
    """Two systems with the same error rate, correlated through their common utterances."""
    rng = np.random.default_rng(6)
    trials, rejected = 400, 0
    for trial in range(trials):
        words = rng.integers(5, 30, size=150)
        rate = 0.15 * rng.gamma(2.0, 0.5, size=150)
        errors_2u = rng.poisson(rate * words, size=(2, 150))
        totals = resample_totals(np.stack([*errors_2u, words], axis=1).astype(float), 400, trial)
        rejected += two_sided_p(ratios(totals[:, 1] - totals[:, 0], totals[:, 2])) <= 0.05
    assert within_binomial_bounds(rejected, trials, 0.05)


def test_a_planted_difference_is_found_by_pairing_only() -> None:
    """5 against 4 errors in hundred words is lost between utterances, and plain within them."""
    rng = np.random.default_rng(7)
    words = rng.integers(10, 40, size=300).astype(float)
    hard = rng.gamma(0.5, 2.0, size=300)  # utterances differ far more than systems
    common = rng.poisson(0.04 * hard * words).astype(float)
    worse = common + rng.binomial(1, 0.2, size=300)
    totals = resample_totals(np.stack([common, worse, words], axis=1), 2000, seed=0)
    assert two_sided_p(ratios(totals[:, 1] - totals[:, 0], totals[:, 2])) < 0.01
    one = percentile_interval(ratios(totals[:, 0], totals[:, 2]))
    other = percentile_interval(ratios(totals[:, 1], totals[:, 2]))
    assert one.high > other.low
