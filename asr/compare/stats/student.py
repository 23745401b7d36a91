"""Student's t and Fisher's F for any degrees of freedom, and binomial intervals: all are incomplete
beta functions."""

from __future__ import annotations

import math

_TOLERANCE = 1e-14
_MAX_TERMS = 10_000


def two_sided_t(t: float, df: float) -> float:
    """Probability that |T| is at least |t| for T of ``df`` > 0 degrees of freedom."""
    if math.isnan(t) or not df > 0:
        raise ValueError(f"t = {t}, df = {df}: must be a number, and above 0")
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t))


def t_quantile(level: float, df: float) -> float:
    """The t that |T| stays below with probability ``level``: half an interval in standard errors."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: must be between 0 and 1")
    low, high = 0.0, 1.0
    while two_sided_t(high, df) > 1 - level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if two_sided_t(middle, df) > 1 - level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def f_tail(f: float, df1: float, df2: float) -> float:
    """Return the probability that F of ``df1`` and ``df2`` degrees of freedom is at least ``f``.

    Raises:
        ValueError: ``f`` below 0 or no number, degrees of freedom not above 0.
    """
    if not f >= 0 or not df1 > 0 or not df2 > 0:
        raise ValueError(f"F = {f}, df = {df1}, {df2}: must be at least 0, and above 0")
    if math.isinf(f):
        return 0.0
    return _incomplete_beta(df2 / 2, df1 / 2, df2 / (df2 + df1 * f))


def two_sided_normal(z: float) -> float:
    """Probability that |Z| is at least |z| for a standard normal Z."""
    return math.erfc(abs(z) / math.sqrt(2))


def clopper_pearson(errors: int, trials: int, level: float) -> tuple[float, float]:
    """The exact interval of a binomial proportion (Clopper and Pearson 1934)."""
    if not 0 <= errors <= trials or trials == 0 or not 0 < level < 1:
        raise ValueError(f"{errors} of {trials} at level {level}: no such proportion")
    tail = (1 - level) / 2
    low = _beta_quantile(tail, errors, trials - errors + 1) if errors else 0.0
    high = _beta_quantile(1 - tail, errors + 1, trials - errors) if errors < trials else 1.0
    return low, high


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if _incomplete_beta(a, b, middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised I_x(a, b), Abramowitz and Stegun 26.5.8, where its fraction converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = (
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log(x)
        + b * math.log1p(-x)
        - math.log(a)
    )
    return math.exp(log_front) / _continued_fraction(a, b, x)


def _continued_fraction(a: float, b: float, x: float) -> float:
    """1 + d1 / (1 + d2 / (1 + …)) by its convergents, rescaled as they grow."""
    before, last = (1.0, 0.0), (1.0, 1.0)
    value = 1.0
    for term in range(1, _MAX_TERMS):
        m = term // 2
        if term % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        top, bottom = last[0] + d * before[0], last[1] + d * before[1]
        before, last = (last[0] / bottom, last[1] / bottom), (top / bottom, 1.0)
        if abs(last[0] - value) <= _TOLERANCE * abs(last[0]):
            return last[0]
        value = last[0]
    raise ArithmeticError(f"incomplete beta of a = {a}, b = {b}, x = {x} does not converge")
