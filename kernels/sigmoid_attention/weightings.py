"""The table of weightings: how scores become weights, and what each of them allows.

Everything else reads it: the objects' checks, the reference, the engines, the choice of a backend, and
what a configuration may ask for. It needs no torch, so that whoever wants names alone gets them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class LoopWarning(UserWarning):
    """Attention is computed by a loop in Python on a GPU: right, and slow."""


@dataclass(frozen=True)
class Map:
    """One map from scores to weights.

    Attributes:
        weight: p of the scores s and the weighting's power, before the row scale; None where the
            weights of a row depend on each other (softmax).
        slope: dp/ds as a function of p alone, 0 where p is 0: fused engines recompute p and keep
            nothing else, and a masked key, whose p is 0, must send nothing back.
        slope_of_score: dp/ds of s and power, for maps that have no such function.
        shift: whether a shift, bias_h or exponent_h may be added to the scores.
        scaled: whether a row scale may multiply the weights.
        row_scale: the row scale that belongs to the map.
        power: whether the map reads the weighting's power.
        vanishes: whether a score of -1e30 has no weight at all, so that adding it hides a key.
        bounded: whether no weight exceeds 1. The row scale then waits for the output, in any type; it
            is applied inside an engine otherwise, for sums of n large weights may exceed float16.
        engines: "sdpa", "c++", "triton", beside the reference and the torch engine, which have all maps.
    """

    weight: Callable[[Tensor, int], Tensor] | None
    slope: Callable[[Tensor], Tensor] | None = None
    slope_of_score: Callable[[Tensor, int], Tensor] | None = None
    shift: bool = False
    scaled: bool = True
    row_scale: str | None = None
    power: bool = False
    vanishes: bool = False
    bounded: bool = False
    engines: tuple[str, ...] = ()


MAPS: dict[str, Map] = {
    "softmax": Map(
        None, scaled=False, vanishes=True, bounded=True, engines=("sdpa", "c++", "triton")
    ),
    "sigmoid": Map(
        lambda s, power: s.sigmoid(),
        lambda p: p - p * p,
        shift=True,
        vanishes=True,
        bounded=True,
        engines=("c++", "triton"),
    ),
    "relu": Map(
        lambda s, power: s.relu(),
        lambda p: (p > 0).to(p.dtype),
        row_scale="1/n",
        vanishes=True,
        engines=("c++", "triton"),
    ),
    "polynomial": Map(
        lambda s, power: s**power,
        slope_of_score=lambda s, power: power * s ** (power - 1),
        row_scale="1/sqrt n",
        power=True,
    ),
}


def maps_with(has: Callable[[Map], bool]) -> tuple[str, ...]:
    """Return the names of the maps of which something is true, in the table's order."""
    return tuple(name for name, one in MAPS.items() if has(one))


def served_by(engine: str) -> tuple[str, ...]:
    """Return the names of the maps that an engine has."""
    return maps_with(lambda one: engine in one.engines)


def listed(names: tuple[str, ...]) -> str:
    """Return names as a sentence has them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
