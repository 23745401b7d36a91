"""Interactions: where a difference of weightings depends on the position, its mean answers nothing.

Welch's analysis of variance (1951) of the differences at the single positions, each with its own
standard error and degrees of freedom, asks it once for all positions. Its differences should be
independent; here they share the speakers, whom a difference between positions cancels and their
standard errors do not, so that the test errs on the side of finding none. Of two positions, or where
the difference varies at one alone (all or no words wrong at the others), the contrast below is the
same question with the speakers paired, so F is the square of its t. Holm's
correction is over pairs of weightings and sets. Which positions deviate is described by contrasts,
each difference minus the mean of the others, by the same hierarchical test as any difference of types.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from asr.compare.attention_types import (
    Type,
    corrected_types,
    is_significant,
    type_difference,
    type_differences,
)
from asr.compare.comparison import Interaction, TypeDifference, corrected
from asr.compare.stats.paired import Group
from asr.compare.stats.student import f_tail


def compared_types(
    found: Sequence[tuple[Group, dict[Type, list[int]]]], level: float
) -> tuple[list[TypeDifference], list[Interaction]]:
    """Return all differences of types on several sets and their interactions, corrected.

    On a set with a significant interaction positions are compared within each weighting too.
    """
    contrasts = [_contrasts(*each, level) for each in found]
    differences = [type_differences(*each, level) for each in found]
    tested = zip(differences, contrasts, strict=True)
    interactions = corrected([one for each in tested for one in _interactions(*each)])
    pairs: list[TypeDifference] = []
    for (group, types), of_set in zip(found, differences, strict=True):
        pairs += of_set
        if significant_interactions(interactions, group.set_name):
            pairs += _positions_by_weighting(group, types, level)
    described = corrected([one for each in contrasts for one in each])
    return [*corrected_types(pairs), *described], interactions


def significant_interactions(
    interactions: Sequence[Interaction], set_name: str
) -> list[Interaction]:
    """Return the interactions of a set that are significant after correction."""
    return [one for one in interactions if one.set_name == set_name and is_significant(one)]


def welch(
    means: Sequence[float], errors: Sequence[float], dfs: Sequence[float]
) -> tuple[float, float]:
    """Return (F, degrees of freedom of its denominator) of the hypothesis that means are equal.

    Args:
        means: at least two; errors: their standard errors, above 0; dfs: degrees of freedom of those.
    """
    k = len(means)
    weights = [1 / error**2 for error in errors]
    whole = sum(weights)
    mean = sum(w * y for w, y in zip(weights, means, strict=True)) / whole
    spread = sum(w * (y - mean) ** 2 for w, y in zip(weights, means, strict=True)) / (k - 1)
    doubt = sum((1 - w / whole) ** 2 / df for w, df in zip(weights, dfs, strict=True))
    return spread / (1 + 2 * (k - 2) / (k * k - 1) * doubt), (k * k - 1) / (3 * doubt)


def _interactions(
    differences: Sequence[TypeDifference], contrasts: Sequence[TypeDifference]
) -> list[Interaction]:
    """Return the interaction of each pair of weightings, over the positions where anything varies."""
    by_pair: dict[tuple[str, str], list[TypeDifference]] = {}
    for one in differences:
        if one.kind == "weighting" and len(one.within) == 1:
            by_pair.setdefault((one.name, one.baseline), []).append(one)
    results = []
    for (name, baseline), places in by_pair.items():
        if len(places) < 2:
            continue
        # Without variance (all or no words wrong) there is no error to compare with.
        varying = _known(places)
        if len(places) == 2 or len(varying) == 1:
            terms = [one for one in contrasts if (one.name, one.baseline) == (name, baseline)]
            if len(places) > 2:
                terms = [one for one in terms if one.within == varying[0][0].within]
            varying = _known(terms)
            if not varying:
                continue
            ((term, error, df2),) = varying
            f, df1 = (term.difference / error) ** 2, 1
        elif varying:
            places, errors, dfs = ([*column] for column in zip(*varying, strict=True))
            f, df2 = welch([one.difference for one in places], errors, dfs)
            df1 = len(places) - 1
        else:
            continue
        results.append(
            Interaction(
                name=name,
                baseline=baseline,
                positions=[one.within[0] for one in places],
                set_name=places[0].set_name,
                f=f,
                df1=df1,
                df2=df2,
                p_value=f_tail(f, df1, df2),
                p_holm=None,
            )
        )
    return results


def _known(differences: Sequence[TypeDifference]) -> list[tuple[TypeDifference, float, float]]:
    """(difference, standard error, degrees of freedom) of those that vary."""
    return [
        (one, one.standard_error, one.df)
        for one in differences
        if one.standard_error is not None and one.df is not None
    ]


def _contrasts(group: Group, types: dict[Type, list[int]], level: float) -> list[TypeDifference]:
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
            how = ("contrast", (name, baseline), [position])
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
