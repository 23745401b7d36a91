"""Weightings that look at one score alone and have no fused kernel of their own: p(s) and dp/ds.

The reference and the pure torch backend read this table, so a line here is a weighting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Elementwise(NamedTuple):
    """A weighting before its row scale, as functions of the scores and the weighting's ``power``."""

    weight: Callable[[Tensor, int], Tensor]
    slope: Callable[[Tensor, int], Tensor]


ELEMENTWISE = {
    "relu": Elementwise(lambda s, power: s.relu(), lambda s, power: (s > 0).to(s.dtype)),
    "polynomial": Elementwise(lambda s, power: s**power, lambda s, power: power * s ** (power - 1)),
}
