"""Student's t against closed forms, tables and the normal distribution."""

from __future__ import annotations

import math

import pytest

from asr.evaluate.student import t_quantile, two_sided_normal, two_sided_t

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
