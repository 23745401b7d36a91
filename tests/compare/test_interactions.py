"""Interactions: found where a difference of weightings depends on the position, and not where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_experiments import seeds_of
from numpy.typing import NDArray

from asr.compare.compare import compare
from asr.compare.interactions import significant_interactions, welch
from asr.compare.report.verdict import verdict
from asr.compare.stats import hierarchical
from asr.compare.stats.hierarchical import contrast
from asr.compare.stats.student import f_tail, t_quantile
from asr.compare.tables import format_markdown, format_terminal

Floats = NDArray[np.float64]

SEEDS, SPEAKERS = 3, 20
# Of sigmoid minus softmax at 60 s: what docs/results/length.md once averaged.
DEPENDING = np.array([-5.7, -5.0, -4.0, 5.1, 12.0, 14.4]) / 100
# Sigmoid minus softmax in points, half its interval, degrees of freedom: by position, on the test set
# and joined to 15, 30 and 60 s, as an earlier grid was published.
EARLIER = {
    "none": [(-1.0, 4.55, 4.44), (-3.79, 4.09, 3.94), (-4.93, 4.21, 3.82), (-5.66, 4.76, 4.57)],
    "sinusoidal": [(0.56, 1.73, 3.93), (-3.74, 5.64, 4.03), (-4.67, 5.24, 4.0), (-5.02, 6.66, 4.2)],
    "cape": [(1.03, 2.04, 3.87), (-2.54, 2.56, 6.76), (-3.53, 4.2, 3.98), (-4.02, 5.18, 2.84)],
    "rope": [(0.96, 3.26, 2.1), (1.05, 6.72, 3.78), (0.89, 9.08, 3.04), (5.12, 10.72, 3.83)],
    "alibi": [(1.29, 4.01, 3.17), (5.11, 5.01, 2.98), (8.3, 6.01, 2.94), (11.97, 4.82, 4.24)],
    "relative": [(3.11, 3.73, 3.91), (4.79, 4.21, 3.97), (7.33, 7.92, 4.1), (14.4, 15.94, 2.52)],
}


def simulated(effect_p: Floats, trials: int, rng: np.random.Generator) -> Floats:
    """Errors (trials, 2, positions, seeds, speakers) of softmax and sigmoid, 130 words a speaker.

    Seeds vary five times as much at the first position as at the others.
    """
    seeds_p = np.full(len(effect_p), 0.012)
    seeds_p[0] *= 5
    shape = (trials, 2, len(effect_p), SEEDS, SPEAKERS)
    rate = 0.35 + 0.08 * rng.standard_normal((trials, 1, 1, 1, SPEAKERS))
    rate = rate + seeds_p[:, None, None] * rng.standard_normal((*shape[:4], 1))
    rate = rate + 0.02 * rng.standard_normal((*shape[:3], 1, SPEAKERS))
    rate = rate + np.array([0.0, 1.0])[:, None, None, None] * effect_p[:, None, None]
    errors = rng.binomial(130, np.clip(rate, 0.01, 0.99) * np.ones(shape))
    return errors.astype(np.float64)


def found_share(errors: Floats) -> float:
    """The share of trials with an interaction at 5 %."""
    trials, _, positions = errors.shape[:3]
    words_ku = np.full((trials, SPEAKERS), 130.0)
    weight_r = np.repeat([-1.0, 1.0], SEEDS) / SEEDS
    pairs = [
        contrast(
            errors[:, :, position].reshape(trials, -1, SPEAKERS),
            words_ku,
            weight_r,
            np.repeat([0, 1], SEEDS).tolist(),
        )
        for position in range(positions)
    ]
    p_values = []
    for trial in range(trials):
        means = [float(one.estimate_k[trial]) for one in pairs]
        variances = [float(one.variance_k[trial]) for one in pairs]
        f, df = welch(means, np.sqrt(variances).tolist(), [float(one.df_k[trial]) for one in pairs])
        p_values.append(f_tail(f, positions - 1, df))
    return float((np.array(p_values) <= 0.05).mean())


@pytest.mark.parametrize("positions", [3, 6])
def test_level(positions: int) -> None:
    """Without an interaction at most 5 % of grids show one, however much one position's seeds vary."""
    trials = 1000
    errors = simulated(np.full(positions, 0.01), trials, np.random.default_rng(positions))
    assert found_share(errors) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_power() -> None:
    """Such as an earlier grid's is found every time, and at half the size mostly."""
    rng = np.random.default_rng(0)
    assert found_share(simulated(DEPENDING, 200, rng)) > 0.95
    assert found_share(simulated(DEPENDING / 2, 200, rng)) > 0.6


def test_welch_of_two_means_is_his_t_test() -> None:
    """F is the square of t, its degrees of freedom those of Satterthwaite."""
    (first, second), (a, b), (m, n) = (0.3, 0.25), (0.02, 0.05), (4.0, 11.0)
    f, df = welch([first, second], [a, b], [m, n])
    assert f == pytest.approx((first - second) ** 2 / (a**2 + b**2))
    assert df == pytest.approx((a**2 + b**2) ** 2 / (a**4 / m + b**4 / n))


def test_welch_of_known_errors_is_a_chi_square() -> None:
    means, errors = [1.0, 2.0, 4.0], [0.5, 0.5, 0.5]
    f, df = welch(means, errors, [1e9] * 3)
    assert f == pytest.approx(np.var(means, ddof=1) / 0.25)
    assert df > 1e8


def test_the_earlier_grid() -> None:
    """Found at every duration from its published intervals, and not on the set itself."""
    columns = zip(*EARLIER.values(), strict=True)
    p_values = []
    for rows in columns:
        means = [mean for mean, _, _ in rows]
        errors = [half / t_quantile(0.95, df) for _, half, df in rows]
        f, df = welch(means, errors, [df for _, _, df in rows])
        p_values.append(f_tail(f, len(rows) - 1, df))
    assert p_values == pytest.approx([0.64, 0.007, 0.004, 0.0007], rel=0.1)


def grid(folder: Path, rates: dict[str, tuple[float, float]]) -> list[Path]:
    return [
        exp
        for position, pair in rates.items()
        for weighting, rate in zip(("softmax", "sigmoid"), pair, strict=True)
        for exp in seeds_of(folder, weighting, position, rate)
    ]


def test_an_interaction_is_printed_and_answers_are_given_within_it(tmp_path: Path) -> None:
    rates = {"none": (0.3, 0.2), "sinusoidal": (0.3, 0.2), "alibi": (0.2, 0.3), "rope": (0.2, 0.35)}
    comparison = compare(grid(tmp_path, rates))
    (found,) = significant_interactions(comparison.interactions, "test")
    assert found.levels == list(rates)
    contrasts = [one for one in comparison.type_differences if one.contrast]
    largest = max(contrasts, key=lambda one: abs(one.difference))
    wers = {tuple(one.levels.values()): one.wer for one in comparison.types}
    by_position = {p: wers["sigmoid", p] - wers["softmax", p] for p in rates}
    (position,) = largest.within
    others = [by_position[p] for p in rates if p != position]
    assert largest.difference == pytest.approx(by_position[position] - np.mean(others))
    assert "depends on the position" in verdict(comparison).answer
    assert "Of the positions" not in verdict(comparison).answer.split("With softmax")[0]
    within = [
        o for o in comparison.type_differences if (o.factor, o.over) == ("position", "weighting")
    ]
    assert {o.within[0] for o in within} == {"softmax", "sigmoid"}
    for text in (format_terminal(comparison), format_markdown(comparison)):
        assert "Interaction: Welch's analysis of variance" in text
        assert "Differences of weightings at one position, less their mean at the other" in text


def test_no_interaction_no_claim(tmp_path: Path) -> None:
    rates = {"none": (0.3, 0.3), "alibi": (0.2, 0.2), "rope": (0.25, 0.25)}
    comparison = compare(grid(tmp_path, rates))
    assert significant_interactions(comparison.interactions, "test") == []
    assert "depends on the position" not in verdict(comparison).answer
    assert all(len(o.within) == 2 for o in comparison.type_differences if o.factor == "position")


def test_a_position_without_variance_is_left_out_and_the_others_are_tested(tmp_path: Path) -> None:
    """All words right everywhere: no standard error, but no reason to say nothing of the rest."""
    rates = {"none": (0.3, 0.2), "rope": (0.2, 0.35), "alibi": (0.2, 0.3), "cape": (1e-9, 1e-9)}
    comparison = compare(grid(tmp_path, rates))
    (found,) = significant_interactions(comparison.interactions, "test")
    assert found.levels == ["none", "rope", "alibi"]
    assert "depends on the position" in verdict(comparison).answer


def test_where_one_position_alone_varies_its_contrast_is_the_test(tmp_path: Path) -> None:
    comparison = compare(
        grid(tmp_path, {"none": (0.3, 0.1), "rope": (1e-9, 1e-9), "cape": (1e-9, 1e-9)})
    )
    (found,) = significant_interactions(comparison.interactions, "test")
    (contrast_of_none,) = (
        one for one in comparison.type_differences if (one.contrast, one.within) == (True, ["none"])
    )
    assert (found.df1, found.levels) == (1, ["none", "rope", "cape"])
    assert found.p_value == pytest.approx(contrast_of_none.p_value)
    assert any("all 3 positions (F(1, " in reason for reason in verdict(comparison).reasons)
    nothing = compare(
        grid(tmp_path / "same", dict.fromkeys(("none", "rope", "cape"), (1e-09, 1e-09)))
    )
    assert nothing.interactions == []


def test_equal_hypotheses_differ_by_nothing_not_by_rounding() -> None:
    """The same errors in all runs but for the last bits of their sums."""
    errors_kru = (
        np.tile(np.arange(10.0) * 0.1, (1, 6, 1)) + np.array([0, 0, 0, 1, 1, 1])[:, None] * 1e-16
    )
    words_ku = np.full((1, 10), 7.0)
    weight_r = np.repeat([-1.0, 1.0], 3) / 3
    found = contrast(errors_kru, words_ku, weight_r, [0, 0, 0, 1, 1, 1])
    assert float(found.variance_k[0]) > 0
    assert hierarchical.tested(found, 0.95) == (None, None)
