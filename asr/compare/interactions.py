"""Interactions: where a difference of two levels depends on another factor, its mean answers nothing.

Of every two factors, two levels of the first (weightings) are compared at each level of the second
(positions). Welch's analysis of variance (1951) of the differences at the single levels, each with its
own standard error and degrees of freedom, asks it once for all of them. Its differences should be
independent; here they share the speakers, whom a difference between levels cancels and their
standard errors do not, so that the test errs on the side of finding none. Of two levels, or where
the difference varies at one alone (all or no words wrong at the others), the contrast below is the
same question with the speakers paired, so F is the square of its t. Holm's
correction is over pairs and sets. Which levels deviate is described by contrasts,
each difference minus the mean of the others, by the same hierarchical test as any difference of types.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from asr.compare.comparison import Interaction, TypeDifference, corrected
from asr.compare.contrasts import (
    Grid,
    corrected_types,
    is_significant,
    places,
    type_difference,
    type_differences,
)
from asr.compare.stats.student import f_tail


def compared_types(found: Sequence[Grid]) -> tuple[list[TypeDifference], list[Interaction]]:
    """Return all differences of types on several sets and their interactions, corrected.

    On a set with a significant interaction the second factor's levels are compared at each level of the
    first too.
    """
    contrasts = [_contrasts(grid) for grid in found]
    differences = [type_differences(grid) for grid in found]
    tested = zip(differences, contrasts, strict=True)
    interactions = corrected([one for each in tested for one in _interactions(*each)])
    pairs: list[TypeDifference] = []
    for grid, of_set in zip(found, differences, strict=True):
        pairs += of_set
        significant = significant_interactions(interactions, grid.group.set_name)
        for factor, over in dict.fromkeys((one.factor, one.over) for one in significant):
            pairs += _level_by_level(grid, grid.factors.index(factor), grid.factors.index(over))
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
    """Return the interaction of each pair of levels with each other factor, where anything varies."""
    by_pair: dict[tuple[str, str, str, str], list[TypeDifference]] = {}
    for one in differences:
        if one.over:
            by_pair.setdefault(_pair(one), []).append(one)
    results = []
    for pair, at in by_pair.items():
        # Without variance (all or no words wrong) there is no error to compare with.
        varying = _known(at)
        if len(at) == 2 or len(varying) == 1:
            terms = [one for one in contrasts if _pair(one) == pair]
            if len(at) > 2:
                terms = [one for one in terms if one.at == varying[0][0].at]
            varying = _known(terms)
            if not varying:
                continue
            ((term, error, df2),) = varying
            f, df1 = (term.difference / error) ** 2, 1
        elif varying:
            at, errors, dfs = ([*column] for column in zip(*varying, strict=True))
            f, df2 = welch([one.difference for one in at], errors, dfs)
            df1 = len(at) - 1
        else:
            continue
        factor, over, name, baseline = pair
        results.append(
            Interaction(
                factor=factor,
                name=name,
                baseline=baseline,
                over=over,
                levels=[one.at for one in at],
                set_name=at[0].set_name,
                f=f,
                df1=df1,
                df2=df2,
                p_value=f_tail(f, df1, df2),
                p_holm=None,
            )
        )
    return results


def _pair(one: TypeDifference) -> tuple[str, str, str, str]:
    return one.factor, one.over, one.name, one.baseline


def _known(differences: Sequence[TypeDifference]) -> list[tuple[TypeDifference, float, float]]:
    """(difference, standard error, degrees of freedom) of those that vary."""
    return [
        (one, one.standard_error, one.df)
        for one in differences
        if one.standard_error is not None and one.df is not None
    ]


def _contrasts(grid: Grid) -> list[TypeDifference]:
    results = []
    for factor, over in itertools.combinations(range(len(grid.factors)), 2):
        for baseline, name in itertools.combinations(grid.levels(factor), 2):
            found = places(grid.common(factor, baseline, name), over)
            # Of two levels each is the other's opposite.
            for level in list(found) if len(found) > 2 else list(found)[1:]:
                terms = [
                    (1.0 if other == level else -1.0 / (len(found) - 1), at)
                    for other, at in found.items()
                ]
                results += type_difference(grid, (factor, baseline, name), terms, over)
    return results


def _level_by_level(grid: Grid, factor: int, over: int) -> list[TypeDifference]:
    """Compare the levels of ``over`` at each level of ``factor``, if they have others in common."""
    results = []
    for level in grid.levels(factor):
        for baseline, name in itertools.combinations(grid.levels(over), 2):
            common = grid.common(over, baseline, name)
            at = [one for one in common if one[factor] == level]
            if len(at) < len(common):
                results += type_difference(grid, (over, baseline, name), [(1.0, at)], factor)
    return results
