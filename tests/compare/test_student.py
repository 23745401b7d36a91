"""Student's t and Fisher's F against closed forms, tables and the normal distribution."""

from __future__ import annotations

import math

import pytest

from asr.compare.stats.student import (
    clopper_pearson,
    f_tail,
    t_quantile,
    two_sided_normal,
    two_sided_t,
)

TS = [0.01, 0.3, 1.0, 1.7, 2.5, 12.0, 200.0]


@pytest.mark.parametrize("t", TS)
def test_closed_forms_of_one_to_four_degrees_of_freedom(t: float) -> None:
    theta1, theta3 = math.atan(t), math.atan(t / math.sqrt(3))
    inside = {
        1: 2 / math.pi * theta1,
        2: t / math.sqrt(2 + t * t),
        3: 2 / math.pi * (theta3 + math.sin(theta3) * math.cos(theta3)),
        4: t / math.sqrt(4 + t * t) * (1 + 2 / (4 + t * t)),
    }
    for df, share in inside.items():
        assert two_sided_t(t, df) == pytest.approx(1 - share, rel=1e-9, abs=1e-13)
        assert two_sided_t(-t, df) == two_sided_t(t, df)


@pytest.mark.parametrize(
    ("df", "quantile"),
    [(1, 12.7062047), (4, 2.7764451), (9, 2.2621572), (19, 2.0930241), (39, 2.0226909)],
)
def test_quantiles_of_a_printed_table(df: int, quantile: float) -> None:
    assert t_quantile(0.95, df) == pytest.approx(quantile, abs=1e-6)


def test_fractional_degrees_lie_between_and_many_are_normal() -> None:
    assert two_sided_t(2, 3) > two_sided_t(2, 3.5) > two_sided_t(2, 4)
    assert two_sided_t(1.96, 1e8) == pytest.approx(two_sided_normal(1.96), abs=1e-8)
    assert two_sided_normal(1.959963985) == pytest.approx(0.05, abs=1e-9)


def test_refusals() -> None:
    for t, df in ((math.nan, 3.0), (1.0, 0.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="must be"):
            two_sided_t(t, df)
    with pytest.raises(ValueError, match="between 0 and 1"):
        t_quantile(1.0, 3)
    assert two_sided_t(math.inf, 3) == 0


@pytest.mark.parametrize("f", [0.0, 0.2, 1.0, 3.7, 40.0])
def test_f_where_it_has_a_closed_form(f: float) -> None:
    for df in (1.0, 2.5, 9.6, 200.0):
        assert f_tail(f, 1, df) == pytest.approx(two_sided_t(math.sqrt(f), df), rel=1e-9)
        assert f_tail(f, 2, df) == pytest.approx((1 + 2 * f / df) ** (-df / 2), rel=1e-9)
        assert f_tail(f, df, 2) == pytest.approx(1 - (1 + 2 / (df * f)) ** (-df / 2) if f else 1.0)


@pytest.mark.parametrize(
    ("df1", "df2", "quantile"), [(5, 10, 3.3258), (3, 4, 6.5914), (10, 60, 1.9926)]
)
def test_f_at_a_printed_table(df1: int, df2: int, quantile: float) -> None:
    assert f_tail(quantile, df1, df2) == pytest.approx(0.05, abs=2e-6)


def test_refusals_of_f() -> None:
    for wrong in ((-0.1, 1.0, 1.0), (math.nan, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, math.nan)):
        with pytest.raises(ValueError, match="must be"):
            f_tail(*wrong)
    assert f_tail(math.inf, 2, 3) == 0


@pytest.mark.parametrize("trials", [1, 7, 960, 50_000])
def test_binomial_bounds_without_errors_are_closed_forms(trials: int) -> None:
    for level in (0.9, 0.95, 0.99):
        bound = 1 - ((1 - level) / 2) ** (1 / trials)
        assert clopper_pearson(0, trials, level) == (0.0, pytest.approx(bound, rel=1e-9))
        assert clopper_pearson(trials, trials, level) == (pytest.approx(1 - bound), 1.0)


def test_binomial_intervals_by_sums() -> None:
    """At each end the tail that is as extreme has half of what the level leaves."""
    for errors, trials in ((1, 5), (3, 20), (40, 100)):
        low, high = clopper_pearson(errors, trials, 0.95)

        def at_most(count: int, share: float, trials: int = trials) -> float:
            terms = (
                math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
                for k in range(count + 1)
            )
            return math.fsum(terms)

        assert 1 - at_most(errors - 1, low) == pytest.approx(0.025, rel=1e-9)
        assert at_most(errors, high) == pytest.approx(0.025, rel=1e-9)


def test_binomial_intervals_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    for errors, trials in ((0, 960), (1, 960), (17, 200), (200, 200)):
        expected = stats.binomtest(errors, trials).proportion_ci(0.95, "exact")
        assert clopper_pearson(errors, trials, 0.95) == pytest.approx(tuple(expected), abs=1e-10)


@pytest.mark.parametrize("case", [(3, 2, 0.95), (0, 0, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_no_such_proportion(case: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="no such proportion"):
        clopper_pearson(*case)
