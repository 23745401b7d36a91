"""Resampling against enumeration, the delta method, hand-computed cases and known truths."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from asr.compare.stats.statistics import (
    all_signs,
    exact_signs,
    holm,
    log_t,
    lowest_p,
    percentile_interval,
    pool_by_speaker,
    random_signs,
    ratios,
    resample_totals,
    resampling_unit,
    student,
    studentised_bootstrap,
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
    monkeypatch.setattr("asr.compare.stats.statistics._CHUNK", 200)
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


def test_speakers_are_pooled() -> None:
    values_uk = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    pooled = pool_by_speaker(values_uk, ["b", "a", "b"])
    assert pooled.tolist() == [[2.0, 20.0], [5.0, 50.0]]


def test_which_unit() -> None:
    assert resampling_unit([str(k % 2) for k in range(50)]) == "utterance"
    assert resampling_unit([str(k % 3) for k in range(50)]) == "speaker"


def column(values: list[float]) -> Floats:
    return np.array(values)[:, None]


DIFFERENCES = [3.0, -1.0, 4.0, 2.0, -2.0, 5.0, 1.0, 0.0, 3.0, 2.0]
WORDS = [50.0, 40.0, 60.0, 45.0, 30.0, 70.0, 20.0, 35.0, 55.0, 40.0]


def enumerated_p(shift: float) -> float:
    """The mid p-value of the randomisation test over all 1024 exchanges of labels."""
    d = np.array(DIFFERENCES) - shift * np.array(WORDS)
    sums = np.abs(np.array(list(itertools.product([-1, 1], repeat=10))) @ d)
    observed = abs(d.sum())
    ties = np.isclose(sums, observed, rtol=1e-12, atol=1e-12)
    return float(((sums > observed) & ~ties).mean() + ties.mean() / 2)


def test_random_signs_against_all_exchanges() -> None:
    found = random_signs(column(DIFFERENCES), column(WORDS), 40_000, 1, 0.95)
    assert found.p_k[0] == pytest.approx(enumerated_p(0.0), abs=0.004)
    # The interval holds what the test does not reject, and nothing else.
    for end, inwards in ((found.low_k[0], 1), (found.high_k[0], -1)):
        assert enumerated_p(end + inwards * 0.004) > 0.05
        assert enumerated_p(end - inwards * 0.004) < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_exact_signs_count_every_split(seed: int) -> None:
    """Ties count half, the split into all and none whole."""
    rng = np.random.default_rng(seed)
    for units in range(1, 11):
        steps = rng.integers(-4, 5, units)
        splits = np.array(list(itertools.product([0, 1], repeat=units)))
        halves = np.stack([splits @ steps, (1 - splits) @ steps])
        apart = (halves.min(axis=0) < 0) & (halves.max(axis=0) > 0)
        ties = (halves == 0).any(axis=0) / 2
        whole = (splits.sum(axis=1) % units == 0) if units > 1 else np.array([True, True])
        p_value = 1.0 if steps.sum() == 0 else min(1.0, np.where(whole, 1, apart + ties).mean())
        assert exact_signs(steps.astype(float)) == pytest.approx(p_value, rel=1e-12)


def test_exact_signs_of_twenty_units_for_the_same_system() -> None:
    assert exact_signs(np.arange(1.0, 21.0)) == 2.0**-19
    assert random_signs(column([2.0] * 20), column([10.0] * 20), 99, 1, 0.95).p_k[0] == 2.0**-19
    assert exact_signs(np.array([0.5, 1.0])) is None


def test_random_signs_of_nothing_and_of_everything() -> None:
    words = column([10.0] * 12)
    assert random_signs(column([0.0] * 12), words, 999, 1, 0.95).p_k[0] == 1
    assert random_signs(column([1.0, -1.0] * 6), words, 999, 1, 0.95).p_k[0] == 1
    everywhere = random_signs(column([2.0] * 12), words, 9999, 1, 0.95)
    assert everywhere.p_k[0] < 0.002
    assert (everywhere.low_k[0], everywhere.high_k[0]) == pytest.approx((0.2, 0.2))
    mirrored = random_signs(column([-d for d in DIFFERENCES]), column(WORDS), 999, 1, 0.95)
    straight = random_signs(column(DIFFERENCES), column(WORDS), 999, 1, 0.95)
    assert mirrored.p_k[0] == straight.p_k[0]
    assert mirrored.low_k[0] == -straight.high_k[0]


@pytest.mark.parametrize("num_units", range(2, 10))
def test_all_signs_against_scipy(num_units: int) -> None:
    """Every exchange once: the p-value is the paired permutation test's of scipy, ties counted whole."""
    stats = pytest.importorskip("scipy.stats", reason="scipy not installed")
    rng = np.random.default_rng(num_units)
    differences_uk = rng.integers(-3, 6, size=(num_units, 8)).astype(float)
    words_uk = rng.integers(20, 90, size=(num_units, 1)).astype(float)
    found = all_signs(differences_uk, words_uk, 0.9)

    def p_of(values_u: Floats) -> float:
        if not values_u.sum():
            return 1.0  # scipy's halves overlap there
        exchange = {"permutation_type": "samples", "n_resamples": np.inf}
        return float(stats.permutation_test((values_u,), np.sum, **exchange).pvalue)

    for k, values_u in enumerate(differences_uk.T):
        assert found.p_k[k] == pytest.approx(p_of(values_u))
        if num_units < 5:
            assert (found.low_k[k], found.high_k[k]) == (-np.inf, np.inf)
            continue
        # The interval holds what the test does not reject at 10 %, and nothing else.
        for end, inwards in ((found.low_k[k], 1e-6), (found.high_k[k], -1e-6)):
            assert p_of(values_u - (end + inwards) * words_uk[:, 0]) > 0.1
            assert p_of(values_u - (end - inwards) * words_uk[:, 0]) <= 0.1


@pytest.mark.parametrize("num_units", range(3, 10))
def test_all_signs_never_reject_too_often(num_units: int) -> None:
    """Over all exchanges of labels, for units that are alike, that are not, and where many tie."""
    rng = np.random.default_rng(num_units)
    signs_ru = np.array(list(itertools.product([-1.0, 1.0], repeat=num_units)))
    words = np.full((num_units, 1), 50.0)
    rates = {}
    for name, sizes_u in {
        "alike": np.full(num_units, 4.0),
        "unlike": rng.uniform(1, 9, num_units),
        "ties": rng.integers(0, 3, num_units).astype(float),
    }.items():
        rates[name] = (all_signs((signs_ru * sizes_u).T, words, 0.95).p_k <= 0.05).mean()
        assert rates[name] <= 0.05
    assert (rates["alike"] > 0) == (rates["unlike"] > 0) == (num_units >= 6)
    assert all_signs(words * 0 + 4, words, 0.95).p_k[0] == lowest_p(num_units)


def test_student_by_hand() -> None:
    """Equal words: the paired t test of the units' differences 1, 2, 3 per ten words."""
    found = student(column([1.0, 2.0, 3.0]), column([10.0] * 3), 0.95)
    # t = 2 / (1 / sqrt 3) = 3.4641 with two degrees of freedom
    assert found.p_k[0] == pytest.approx(1 - 3.4641016 / np.sqrt(2 + 12), abs=1e-7)
    half = 4.30265273 / np.sqrt(3) / 10
    assert (found.low_k[0], found.high_k[0]) == pytest.approx((0.2 - half, 0.2 + half))
    assert student(column([0.0] * 3), column([10.0] * 3), 0.95).p_k[0] == 1


def test_log_t_by_hand() -> None:
    low, high = log_t(column([1.0, 2.0, 3.0]), column([10.0] * 3), 0.95)
    factor = np.exp(4.30265273 * (0.1 / np.sqrt(3)) / 0.2)
    assert (low[0], high[0]) == pytest.approx((0.2 / factor, 0.2 * factor))
    assert np.isnan(log_t(column([0.0] * 3), column([10.0] * 3), 0.95)[0][0])


def test_studentised_bootstrap_against_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    errors, words = rng.gamma(2, 4, size=15).round(), rng.integers(40, 90, size=15)

    def estimate(chosen: NDArray[np.int64]) -> tuple[float, float]:
        e, w = errors[chosen], words[chosen]
        rate = e.sum() / w.sum()
        return rate, float(np.sqrt(15 / 14 * ((e - rate * w) ** 2).sum()) / w.sum())

    wer, error = estimate(np.arange(15))
    ts = []
    for _ in range(20_000):
        one, its_error = estimate(rng.integers(15, size=15))
        ts.append((one - wer) / its_error)
    low, high = np.quantile(ts, [0.025, 0.975])
    found = studentised_bootstrap(
        errors[:, None], words[:, None].astype(float), 20_000, seed=1, level=0.95
    )
    assert (found[0][0], found[1][0]) == pytest.approx(
        (wer - high * error, wer - low * error), rel=0.02
    )


def test_errors_in_too_few_units_have_no_upper_end() -> None:
    found = studentised_bootstrap(column([5.0] + [0.0] * 11), column([50.0] * 12), 999, 1, 0.95)
    assert not np.isfinite(found[1][0])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_planted_difference_is_found_by_pairing_only() -> None:
    """5 against 4 errors in hundred words is lost between utterances, and plain within them."""
    rng = np.random.default_rng(7)
    words = rng.integers(10, 40, size=300).astype(float)
    hard = rng.gamma(0.5, 2.0, size=300)  # utterances differ far more than systems
    common = rng.poisson(0.04 * hard * words).astype(float)
    worse = common + rng.binomial(1, 0.2, size=300)
    assert random_signs((worse - common)[:, None], words[:, None], 2000, 0, 0.95).p_k[0] < 0.01
    pair = np.stack([common, worse], axis=1)
    low, high = studentised_bootstrap(pair, words[:, None], 2000, 0, 0.95)
    assert high[0] > low[1]


def checked(folder: Path, *words: str) -> dict[tuple[str, str, str], float]:
    """Every rate of tools/check_statistics.py, which fails where a test's level is not 5 %."""
    out = folder / "rates.json"
    tool = Path(__file__).parents[2] / "tools" / "check_statistics.py"
    subprocess.run([sys.executable, tool, "--out", out, *words], check=True)
    rates = json.loads(out.read_text())["rates"]
    return {(one["table"], one["row"], one["column"]): one["rate"] for one in rates}


def test_levels_and_coverage_in_short(tmp_path: Path) -> None:
    rates = checked(tmp_path, "--trials", "600")
    speaker = "rejections %, no difference: labels exchanged per speaker"
    # With four speakers the bootstrap would claim a difference three times as often as it may.
    assert rates[speaker, "4 speakers", "percentile bootstrap, speakers"] > 0.12
    assert rates[speaker, "20 speakers", "MAPSSWE"] > 0.1
    for row in ("4 speakers", "20 speakers"):
        row = f"{row}, rates vary by 70 %"
        assert rates["coverage", row, "`asr compare`"] > 0.92
        assert rates["coverage", row, "percentile bootstrap"] < 0.93


@pytest.mark.slow
def test_levels_over_ten_thousand_trials(tmp_path: Path) -> None:
    checked(tmp_path, "--trials", "10000")
