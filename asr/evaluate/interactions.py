"""Does a difference of weightings depend on the position? Where it does, its mean answers nothing.

At each position the difference is compared with its mean over the other positions, by the same
hierarchical test as any contrast of types; Holm's correction is over all positions, pairs and sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from asr.evaluate.attention_types import (
    SIGNIFICANT,
    Type,
    corrected_types,
    type_difference,
    type_differences,
)
from asr.evaluate.comparison import TypeDifference, corrected
from asr.evaluate.paired import Group


def compared_types(
    found: Sequence[tuple[Group, dict[Type, list[int]]]], level: float
) -> list[TypeDifference]:
    """Return all differences of types on several sets, corrected, interactions last.

    On a set with a significant interaction positions are compared within each weighting too.
    """
    interactions = corrected([one for each in found for one in _interactions(*each, level)])
    differences: list[TypeDifference] = []
    for group, types in found:
        differences += type_differences(group, types, level)
        if significant_interactions(interactions, group.set_name):
            differences += _positions_by_weighting(group, types, level)
    return [*corrected_types(differences), *interactions]


def significant_interactions(
    differences: Sequence[TypeDifference], set_name: str
) -> list[TypeDifference]:
    """Return the interactions of a set that are significant after correction, largest first."""
    found = [
        one
        for one in differences
        if (one.kind, one.set_name) == ("interaction", set_name)
        and one.p_holm is not None
        and one.p_holm <= SIGNIFICANT
    ]
    return sorted(found, key=lambda one: -abs(one.difference))


def _interactions(group: Group, types: dict[Type, list[int]], level: float) -> list[TypeDifference]:
    results = []
    weightings = dict.fromkeys(weighting for weighting, _ in types)
    for baseline, name in itertools.combinations(weightings, 2):
        common = [p for w, p in types if w == name and (baseline, p) in types]
        # Of two positions each is the other's opposite.
        for position in common if len(common) > 2 else common[1:]:
            signs: dict[Type, float] = {}
            for other in common:
                share = 1.0 if other == position else -1.0 / (len(common) - 1)
                signs |= {(name, other): share, (baseline, other): -share}
            how = ("interaction", (name, baseline), [position])
            results += type_difference(group, types, how, signs, level)
    return results


def _positions_by_weighting(
    group: Group, types: dict[Type, list[int]], level: float
) -> list[TypeDifference]:
    results = []
    for weighting in dict.fromkeys(weighting for weighting, _ in types):
        positions = [p for w, p in types if w == weighting]
        shared = [p for p in positions if any(w != weighting and o == p for w, o in types)]
        for baseline, name in itertools.combinations(shared, 2):
            signs = {(weighting, name): 1.0, (weighting, baseline): -1.0}
            how = ("position", (name, baseline), [weighting])
            results += type_difference(group, types, how, signs, level)
    return results
