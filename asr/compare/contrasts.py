"""Differences of types: the levels of one factor over all that they have in common, and one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from asr.compare.comparison import (
    Difference,
    Interaction,
    Row,
    TypeDifference,
    TypeResult,
    corrected,
)
from asr.compare.factors import Type, many_of
from asr.compare.stats.hierarchical import Contrast, contrast, tested
from asr.compare.stats.paired import Group
from asr.compare.stats.statistics import Interval

# What a claim in words takes; fewer seeds are an indication.
CLAIM_RUNS = 5
# Of corrected p-values.
SIGNIFICANT = 0.05


def is_significant(one: Difference | TypeDifference | Interaction) -> bool:
    """Tell whether a difference, or an interaction, is significant after correction."""
    return one.p_holm is not None and one.p_holm <= SIGNIFICANT


@dataclass(frozen=True)
class Grid:
    """The types of one set.

    Attributes:
        factors: their names.
        types: the columns of each in ``group``, by its level of each factor.
        level: of the intervals.
    """

    group: Group
    factors: list[str]
    types: dict[Type, list[int]]
    level: float

    def levels(self, factor: int) -> list[str]:
        """Return the types' levels of a factor, in order."""
        return list(dict.fromkeys(one[factor] for one in self.types))

    def common(self, factor: int, baseline: str, name: str) -> list[Type]:
        """Return the types of level ``name`` that are there with level ``baseline`` too."""
        return [
            one
            for one in self.types
            if one[factor] == name and with_level(one, factor, baseline) in self.types
        ]


def with_level(one: Type, factor: int, level: str) -> Type:
    """Return the type that differs in one level."""
    return (*one[:factor], level, *one[factor + 1 :])


def places(common: Sequence[Type], over: int) -> dict[str, list[Type]]:
    """Sort types by their level of a factor, those whose other levels are there at all its levels.

    Empty where that leaves fewer than two levels.
    """
    found: dict[str, list[Type]] = {}
    for one in common:
        found.setdefault(one[over], []).append(one)
    others = [{with_level(one, over, "") for one in at} for at in found.values()]
    shared = set.intersection(*others) if others else set()
    if len(found) < 2 or not shared:
        return {}
    return {
        level: [one for one in at if with_level(one, over, "") in shared]
        for level, at in found.items()
    }


def type_results(grid: Grid, names: Sequence[str]) -> list[TypeResult]:
    """Return each type's mean WER with its interval."""
    results = []
    group = grid.group
    wer_m = group.errors_um.sum(axis=0) / group.words_u.sum()
    for one, columns in grid.types.items():
        found = _contrast(grid, {one: 1.0})
        results.append(
            TypeResult(
                levels=dict(zip(grid.factors, one, strict=True)),
                set_name=group.set_name,
                names=[names[group.members[column]] for column in columns],
                wers=[float(wer_m[column]) for column in columns],
                wer=float(wer_m[columns].mean()),
                interval=None if found is None else _above_zero(tested(found, grid.level)[0]),
            )
        )
    return results


def with_costs(types: Sequence[TypeResult], rows: Sequence[Row]) -> list[TypeResult]:
    """Return the types with the mean costs of their runs."""
    by_name = {row.name: row for row in rows}
    return [
        replace(
            one,
            train_audio_s_per_s=known_mean([by_name[n].run.train_audio_s_per_s for n in one.names]),
            rtf=known_mean([by_name[n].sets[one.set_name].rtf for n in one.names]),
        )
        for one in types
    ]


def known_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def type_differences(grid: Grid) -> list[TypeDifference]:
    """Every two levels of every factor: the later one minus the earlier.

    Each over all that the two have in common, and at each level of every factor after theirs.
    """
    results: list[TypeDifference] = []
    for factor in range(len(grid.factors)):
        for baseline, name in itertools.combinations(grid.levels(factor), 2):
            common = grid.common(factor, baseline, name)
            results += type_difference(grid, (factor, baseline, name), [(1.0, common)])
            for over in range(factor + 1, len(grid.factors)):
                for at in places(common, over).values():
                    results += type_difference(grid, (factor, baseline, name), [(1.0, at)], over)
    return results


def corrected_types(differences: Sequence[TypeDifference]) -> list[TypeDifference]:
    """Apply Holm's correction factor by factor: each is a question of its own."""
    return [
        one
        for factor in dict.fromkeys(one.factor for one in differences)
        for one in corrected([one for one in differences if one.factor == factor])
    ]


def from_best(differences: Sequence[TypeDifference]) -> tuple[str, list[TypeDifference]]:
    """(the level with the fewest errors, the others minus that one, best first), of one set and factor.

    Each two are compared over what both have in common; the best is the one that is behind any
    other by least. Where all have the same in common that is the lowest mean.
    """
    above: dict[str, list[TypeDifference]] = {}
    for one in differences:
        above.setdefault(one.baseline, []).append(one)
        above.setdefault(one.name, []).append(_reversed(one))
    best = min(above, key=lambda level: -min(one.difference for one in above[level]))
    return best, sorted(above[best], key=lambda one: one.difference)


def _reversed(one: TypeDifference) -> TypeDifference:
    ends = one.interval
    return replace(
        one,
        name=one.baseline,
        baseline=one.name,
        difference=-one.difference,
        interval=None if ends is None else Interval(-ends.high, -ends.low),
    )


def widest(differences: Sequence[TypeDifference], factor: str) -> list[TypeDifference]:
    """Return those of a factor over all that their two levels have in common."""
    return [one for one in differences if one.factor == factor and not one.over]


def type_difference(
    grid: Grid,
    of: tuple[int, str, str],
    terms: Sequence[tuple[float, Sequence[Type]]],
    over: int | None = None,
) -> list[TypeDifference]:
    """Return one tested contrast of types, or nothing where there is nothing to test.

    Args:
        of: (factor, baseline, name).
        terms: (share, types of level ``name``), the difference is a mean over each; the share of the one
            that is asked for is 1, of what is subtracted from it negative.
        over: the factor of which the types of each term have one level.
    """
    factor, baseline, name = of
    signs: dict[Type, float] = {}
    for share, at in terms:
        signs |= {one: share / len(at) for one in at}
        signs |= {with_level(one, factor, baseline): -share / len(at) for one in at}
    found = _contrast(grid, signs)
    if found is None:
        return []
    interval, p_value = tested(found, grid.level)
    varies = interval is not None
    common = next(at for share, at in terms if share == 1.0)
    within, held, scope = _within(grid, factor, common)
    return [
        TypeDifference(
            factor=grid.factors[factor],
            name=name,
            baseline=baseline,
            over="" if over is None else grid.factors[over],
            held=held,
            contrast=len(terms) > 1,
            within=within,
            scope=scope,
            set_name=grid.group.set_name,
            difference=float(found.estimate_k[0]),
            interval=interval,
            p_value=p_value,
            p_holm=None,
            standard_error=float(np.sqrt(found.variance_k[0])) if varies else None,
            df=float(found.df_k[0]) if varies else None,
            num_seeds=min(len(grid.types[one]) for one in signs),
            unit=grid.group.unit,
            seed_error=float(found.seeds_k[0]),
            unit_error=float(found.speakers_k[0]),
        )
    ]


def _within(
    grid: Grid, factor: int, common: Sequence[Type]
) -> tuple[list[str], dict[str, str], str]:
    """(levels of the other factors, those that are the same throughout, all of it in words)"""
    others = [k for k in range(len(grid.factors)) if k != factor]
    varying = [k for k in others if len({one[k] for one in common}) > 1]
    within = [" ".join(one[k] for k in others) for one in common] if others else []
    held = {grid.factors[k]: common[0][k] for k in others if k not in varying}
    scope = within[0] if within else ""
    if len(within) > 1:
        what = many_of(grid.factors[varying[0]]) if len(varying) == 1 else "combinations"
        scope = ", ".join([*held.values(), f"mean of {len(within)} {what}"])
    return within, held, scope


def _contrast(grid: Grid, signs: dict[Type, float]) -> Contrast | None:
    """Contrast the means of the types' runs, each times its sign; None without anything to compare."""
    group = grid.group
    if not group.testable or not signs:
        return None
    columns, weights, type_r = [], [], []
    for number, (one, sign) in enumerate(signs.items()):
        columns += grid.types[one]
        weights += [sign / len(grid.types[one])] * len(grid.types[one])
        type_r += [number] * len(grid.types[one])
    errors_ru = group.errors_nm[:, columns].T
    return contrast(errors_ru[None], group.words_n[None], np.array(weights), type_r)


def _above_zero(interval: Interval | None) -> Interval | None:
    """A rate's interval ends at 0."""
    return None if interval is None else Interval(max(0.0, interval.low), interval.high)
