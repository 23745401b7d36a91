"""Levels by enumeration against all exchanges of labels, one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from check_statistics import Pool, Trial, draw, normal_quantile, p_values, system_rates
from exact_levels import exchanged, mapsswe_levels, of_pair, sign_levels

VALUES = np.array([[1, 0, -2, 3, 1, 1], [2, 2, -2, 0, 0, 1], [1, 1, 1, 1, 1, 1]], dtype=float)
SIGNS = np.array(list(itertools.product([-1, 1], repeat=6)))


def test_sums_of_all_exchanges() -> None:
    sums, shares = exchanged(VALUES)
    assert shares.sum(axis=1) == pytest.approx(1)
    for values, row in zip(VALUES, shares, strict=True):
        every = SIGNS @ values
        for total, share in zip(sums, row, strict=True):
            assert share == pytest.approx((every == total).mean(), abs=1e-12)


def test_levels_of_signs() -> None:
    for num_units, ties in ((6, 1.0), (12, 0.5)):
        values_ku = np.tile(VALUES, num_units // 6)
        signs = np.array(list(itertools.product([-1, 1], repeat=num_units)))
        for values, level in zip(values_ku, sign_levels(values_ku), strict=True):
            counts = np.unique(np.abs(signs @ values), return_counts=True)[1]
            shares = counts / len(signs)
            p = shares[::-1].cumsum()[::-1] - (1 - ties) * shares
            assert level == pytest.approx(shares[p <= 0.05].sum(), abs=1e-12)
    # Nothing can be rejected with four units, and everything is 5 % or less with many.
    assert sign_levels(VALUES[:, :4]).max() < 1e-12
    many = np.random.default_rng(0).integers(0, 4, size=(50, 200)).astype(float)
    assert sign_levels(many).mean() == pytest.approx(0.05, abs=0.003)


def test_levels_of_mapsswe() -> None:
    """Every exchange of three utterances' labels, by the p-values that are counted in the trials."""
    segments = np.array([[[2, 1], [1, 0], [3, 0]]] * 2, dtype=float)[:, :, None]
    number = np.array([[[2], [1], [1]]] * 2, dtype=float)
    words = np.full((2, 3, 1), 8.0)
    expected = []
    for signs in itertools.product([-1, 1], repeat=3):
        swapped = segments * np.array(signs, dtype=float)[:, None, None]
        p_k = p_values(Trial(words, number, swapped), 1)["MAPSSWE"]
        expected.append(p_k <= 0.05)
    levels = mapsswe_levels(
        segments.sum(axis=3)[:, :, 0], number.sum(axis=(1, 2)), (segments**2).sum(axis=(1, 2, 3))
    )
    assert levels.tolist() == pytest.approx(np.mean(expected, axis=0).tolist())
    assert levels[0] > 0


def test_levels_of_a_pair_are_those_of_its_exchanges() -> None:
    """Against 8,000 exchanges of the labels of one test set, by the p-values of the trials."""
    rng = np.random.default_rng(0)
    segments = rng.integers(-2, 3, size=(12, 5, 2)).astype(float)
    pool = Pool(np.full((12, 5), 8.0), segments, np.full((12, 5), 2.0))
    levels = of_pair(pool)
    for swap, of in (
        ("speaker", {"signs, speakers": "signs, speakers", "MAPSSWE, per speaker": "MAPSSWE"}),
        (
            "utterance",
            {"signs, utterances": "signs, utterances", "MAPSSWE, per utterance": "MAPSSWE"},
        ),
        ("segment", {"MAPSSWE, per segment": "MAPSSWE"}),
    ):
        trials = [draw(pool, rng, 12, swap, 500) for _ in range(16)]
        p_values_of = [p_values(trial, seed) for seed, trial in enumerate(trials)]
        for name, test in of.items():
            rate = np.mean([(p[test] <= 0.05).mean() for p in p_values_of])
            assert levels[name] == pytest.approx(rate, abs=0.006), name


def test_test_sets_are_no_larger_than_the_pool() -> None:
    """Of all its speakers there is one test set, which has a power of 0 or 1: nothing to count."""
    segments = np.arange(12.0).reshape(6, 2, 1)
    pool = Pool(np.full((6, 2), 8.0), segments, np.ones((6, 2)))
    rows = {
        swap: {rate.row for rate in system_rates(pool, 10, swap, "", 1)}
        for swap in ("speaker", "never")
    }
    assert rows == {"speaker": {"4 speakers", "6 speakers"}, "never": {"4 speakers"}}


def test_normal_quantile() -> None:
    assert normal_quantile(0.05) == pytest.approx(1.959963985, abs=1e-8)
    assert normal_quantile(0.01) == pytest.approx(2.575829304, abs=1e-8)
