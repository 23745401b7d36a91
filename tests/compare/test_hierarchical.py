"""The hierarchical comparison against the t tests it becomes where one source varies alone."""

from __future__ import annotations

import numpy as np
import pytest

from asr.compare.stats.hierarchical import Contrast, contrast

WEIGHT_R = np.array([0.5, 0.5, -0.5, -0.5])
TYPE_R = [0, 0, 1, 1]


def of(errors_ru: list[list[float]], words_u: list[float]) -> Contrast:
    return contrast(np.array([errors_ru]), np.array([words_u]), WEIGHT_R, TYPE_R)


def test_only_seeds_differ() -> None:
    """Runs with the same WER for every speaker: Welch's t test of two and two runs."""
    found = of([[20] * 6, [30] * 6, [12] * 6, [14] * 6], [100] * 6)
    assert found.estimate_k[0] == pytest.approx(0.25 - 0.13)
    # variances 0.005 and 0.0002; each mean of two has half of its own
    assert found.variance_k[0] == pytest.approx((0.005 + 0.0002) / 2)
    # 0.0026^2 / (0.0025^2 + 0.0001^2), and each type has one degree
    assert found.df_k[0] == pytest.approx(1.0798722)
    assert found.speakers_k[0] == pytest.approx(0)


def test_only_types_and_speakers_differ() -> None:
    """Equal seeds: the paired t test over speakers, here of differences 2, 4, 6, 0 in hundred."""
    found = of([[12, 14, 16, 10]] * 2 + [[10] * 4] * 2, [100] * 4)
    assert found.estimate_k[0] == pytest.approx(0.03)
    assert found.variance_k[0] == pytest.approx(np.var([0.02, 0.04, 0.06, 0.0], ddof=1) / 4)
    assert found.df_k[0] == pytest.approx(3)
    assert found.seeds_k[0] == pytest.approx(0)


def test_speakers_alone_cancel() -> None:
    found = of([[5, 50, 20], [5, 50, 20], [5, 50, 20], [5, 50, 20]], [100] * 3)
    assert found.variance_k[0] == 0


def test_variance_is_that_of_many_experiments() -> None:
    """Seeds, types x speakers and utterances all vary: the mean estimate is the true variance."""
    rng = np.random.default_rng(1)
    trials, seeds, speakers = 4000, 4, 25
    words = np.full((trials, speakers), 1000.0)
    rate = 0.2 + 0.03 * rng.normal(size=(trials, 2, 1, speakers))
    rate = rate + 0.01 * rng.normal(size=(trials, 2, seeds, 1))
    rate = rate + 0.05 * rng.normal(size=(trials, 2, seeds, speakers))
    weight = np.repeat([1.0, -1.0], seeds) / seeds
    errors = (rate * 1000).reshape(trials, 2 * seeds, speakers)
    found = contrast(errors, words, weight, [0] * seeds + [1] * seeds)
    true = 2 * (0.03**2 / speakers + 0.01**2 / seeds + 0.05**2 / seeds / speakers)
    assert found.estimate_k.var() == pytest.approx(true, rel=0.08)
    assert found.variance_k.mean() == pytest.approx(true, rel=0.08)
    assert true > 1.2 * max((found.seeds_k**2).mean(), (found.speakers_k**2).mean())


def test_one_run_is_no_replication() -> None:
    with pytest.raises(ValueError, match="at least two runs"):
        contrast(np.ones((1, 3, 4)), np.ones((1, 4)), np.array([1.0, -0.5, -0.5]), [0, 1, 1])
