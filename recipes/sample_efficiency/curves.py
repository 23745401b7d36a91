"""Error curves against the number of data: N at equal error, ratios and slopes with intervals.

Curves are geometric means over repetitions; intervals are 95 % percentile bootstrap intervals over
whole repetitions, drawn jointly for all curves, so that what is paired stays paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; ends may be infinite."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Array) -> Estimate:
        # No interpolation between draws: some may be infinite.
        ordered = np.sort(draws)
        last = len(ordered) - 1
        return cls(value, float(ordered[round(0.025 * last)]), float(ordered[round(0.975 * last)]))

    def text(self, digits: int = 2) -> str:
        """With significant digits."""
        return f"{number(self.value, digits)} [{number(self.low, digits)}, {number(self.high, digits)}]"

    def fixed(self) -> str:
        """With two decimals."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def number(value: float, digits: int = 2) -> str:
    """``value`` with so many significant digits; no exponent between 1e-5 and 1e6."""
    if not np.isfinite(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:.{places}f}" if abs(value) > 1e-5 else f"{value:.{digits - 1}e}"


def resamples(repetitions: int, seed: int = 1) -> Array:
    """Indices (draw, repetition) of bootstrap samples; the first row is the sample itself."""
    drawn = np.random.default_rng(seed).integers(repetitions, size=(DRAWS, repetitions))
    return np.concatenate([np.arange(repetitions)[None], drawn])


def means(errors_rs: Array, index_br: Array) -> Array:
    """Geometric means (draw, size) of errors (repetition, size)."""
    return np.exp(np.log(errors_rs)[index_br].mean(1))


def estimate(values_b: Array) -> Estimate:
    """Of a statistic of every draw, the sample's own first."""
    return Estimate.of(float(values_b[0]), values_b[1:])


def slopes(sizes: Sequence[int], means_bs: Array) -> Array:
    """Least-squares slopes of log mean error against log N."""
    x = np.log(sizes) - np.mean(np.log(sizes))
    return np.log(means_bs) @ x / (x @ x)


def size_at(sizes: Sequence[int], means_bs: Array, level: float) -> Array:
    """N at which each curve falls to ``level``, linear between the sizes on log-log axes.

    A curve that rises is replaced by its running minimum. Infinite where the level is not reached, nan
    where the smallest size is below it already.
    """
    x, y_bs = np.log(sizes), np.log(np.minimum.accumulate(means_bs, axis=1))
    goal = np.log(level)
    below_bs = y_bs <= goal
    after_b = below_bs.argmax(1)
    rows = np.arange(len(y_bs))
    before_b = np.maximum(after_b - 1, 0)
    high_b, low_b = y_bs[rows, before_b], y_bs[rows, after_b]
    with np.errstate(divide="ignore", invalid="ignore"):
        share_b = (high_b - goal) / (high_b - low_b)
        found_b = np.exp(x[before_b] + share_b * (x[after_b] - x[before_b]))
    found_b[below_bs[:, 0]] = np.nan
    found_b[~below_bs.any(1)] = np.inf
    return found_b


def ratio_at(
    sizes: Sequence[int], over_bs: Array, under_bs: Array, level: float
) -> Estimate | None:
    """N of ``over`` divided by N of ``under`` at equal error; None where that is below the sizes, or
    where ``under`` does not reach the level."""
    over_b, under_b = size_at(sizes, over_bs, level), size_at(sizes, under_bs, level)
    if not np.isfinite(under_b[0]) or np.isnan(over_b[0]):
        return None
    with np.errstate(invalid="ignore"):
        ratio_b = over_b / under_b  # nan where a draw reaches it with neither
    known_b = ratio_b[1:][~np.isnan(ratio_b[1:])]
    return Estimate.of(float(ratio_b[0]), known_b)
