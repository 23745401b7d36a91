"""From systems to attention types: runs that differ in the seed alone, taken together."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np

from asr.compare.comparison import (
    Difference,
    Interaction,
    Row,
    TypeDifference,
    TypeResult,
    corrected,
)
from asr.compare.experiment import Experiment
from asr.compare.stats.hierarchical import Contrast, contrast, tested
from asr.compare.stats.paired import Group
from asr.compare.stats.statistics import Interval
from asr.config import AttentionConfig, Config
from asr.config.rules import attention_terms

MIN_RUNS = 2
# What a claim in words takes; fewer seeds are an indication.
CLAIM_RUNS = 5
# Of corrected p-values.
SIGNIFICANT = 0.05


def is_significant(one: Difference | TypeDifference | Interaction) -> bool:
    """Tell whether a difference, or an interaction, is significant after correction."""
    return one.p_holm is not None and one.p_holm <= SIGNIFICANT


Type = tuple[str, str]
"""(weighting, position)"""


# What may differ between the trainings of types: the two words, the seed, and how it is computed.
_FREE = frozenset(
    {"attention.weighting", "attention.position", "attention.backend", "train.seed"}
    | {"train.device", "train.num_threads", "train.log_steps", "train.tensorboard"}
    | {"data.num_workers", "data.cache_mb"}
)


def find_types(
    group: Group, experiments: Sequence[Experiment], names: Sequence[str]
) -> tuple[dict[Type, list[int]], list[str]]:
    """(columns of the group's systems by type, notes): types with two runs or more, in order.

    A second run of one type and seed is no replicate and is left out. No types where the trainings
    differ in anything else, or in their budgets: then more than the attention does.
    """
    runs = [experiment.run for experiment in experiments]
    found: dict[Type, dict[int | None, int]] = {}
    notes: list[str] = []
    for column, member in enumerate(group.members):
        run = runs[member]
        if run.weighting is None or run.position is None:
            continue
        seeds = found.setdefault((run.weighting, run.position), {})
        if run.seed in seeds:
            notes.append(
                f"{group.set_name}: {names[member]} has the type and the seed of "
                f"{names[group.members[seeds[run.seed]]]}: not counted as another training"
            )
        else:
            seeds[run.seed] = column
    types = {kind: list(one.values()) for kind, one in found.items() if len(one) >= MIN_RUNS}
    unequal = _unequal([experiments[member] for member in group.members]) if types else []
    if unequal:
        return {}, [
            f"{group.set_name}: trainings differ in more than words and seed "
            f"({', '.join(unequal[:5])}), so no attention types are compared"
        ]
    return types, notes


def _unequal(experiments: Sequence[Experiment]) -> list[str]:
    """Settings that should be the same and are not, as far as they are known.

    A setting that an older version did not write has its default; one of attention that enters nothing
    that a type computes (a count with softmax) is no difference.
    """
    found = ["encoder"] if len({one.run.encoder for one in experiments}) > 1 else []
    known = [one.settings for one in experiments if one.settings]
    keys = sorted({key for settings in known for key in settings} - _FREE)
    values: dict[str, set[str | None]] = {key: set() for key in keys}
    defaults = _defaults()
    for settings in known:
        terms = _attention_terms(settings)
        for key in keys:
            name = key.removeprefix("attention.")
            if name == key:
                values[key].add(settings.get(key, defaults.get(key)))
            elif name in terms:
                values[key].add(str(terms[name]))
    return found + [key for key in keys if len(values[key]) > 1]


def _attention_terms(settings: dict[str, str]) -> dict[str, object]:
    options = {
        field.name: settings.get(f"attention.{field.name}", _defaults()[f"attention.{field.name}"])
        for field in dataclasses.fields(AttentionConfig)
    }
    return attention_terms(cast(AttentionConfig, SimpleNamespace(**options)))


@functools.cache
def _defaults() -> dict[str, str]:
    return {
        f"{section}.{name}": str(value)
        for section, options in vars(Config()).items()
        for name, value in vars(options).items()
    }


def type_results(
    group: Group, types: dict[Type, list[int]], names: Sequence[str], level: float
) -> list[TypeResult]:
    """Each type's mean WER with its interval."""
    results = []
    wer_m = group.errors_um.sum(axis=0) / group.words_u.sum()
    for (weighting, position), columns in types.items():
        found = _contrast(group, {(weighting, position): 1.0}, types)
        results.append(
            TypeResult(
                weighting=weighting,
                position=position,
                set_name=group.set_name,
                names=[names[group.members[column]] for column in columns],
                wers=[float(wer_m[column]) for column in columns],
                wer=float(wer_m[columns].mean()),
                interval=None if found is None else _above_zero(tested(found, level)[0]),
            )
        )
    return results


def with_costs(types: Sequence[TypeResult], rows: Sequence[Row]) -> list[TypeResult]:
    """With what the types' runs cost on average."""
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
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def type_differences(
    group: Group, types: dict[Type, list[int]], level: float
) -> list[TypeDifference]:
    """Every two weightings, then every two positions: the later one minus the earlier.

    Each over all that the two have in common, and weightings also at each position by itself.
    """
    results: list[TypeDifference] = []
    for kind, axis in (("weighting", 0), ("position", 1)):
        words = dict.fromkeys(one[axis] for one in types)
        for baseline, word in itertools.combinations(words, 2):
            common = [
                one[1 - axis]
                for one in types
                if one[axis] == word and _pair(axis, baseline, one[1 - axis]) in types
            ]
            scopes = [common] if common else []
            if kind == "weighting" and len(common) > 1:
                scopes += [[other] for other in common]
            for scope in scopes:
                signs = {
                    _pair(axis, name, other): sign / len(scope)
                    for name, sign in ((word, 1.0), (baseline, -1.0))
                    for other in scope
                }
                how = (kind, (word, baseline), scope)
                results += type_difference(group, types, how, signs, level)
    return results


def corrected_types(differences: Sequence[TypeDifference]) -> list[TypeDifference]:
    """With Holm's correction among weightings and among positions: two questions."""
    return [
        one
        for kind in ("weighting", "position")
        for one in corrected([one for one in differences if one.kind == kind])
    ]


def from_best_position(
    differences: Sequence[TypeDifference], set_name: str
) -> tuple[str, list[TypeDifference]]:
    """(the position with the fewest errors, the others minus that one, best first).

    Each two are compared over the weightings that both have; the best is the one that is behind any
    other by least. Where all have the same weightings that is the lowest mean.
    """
    here = [one for one in differences if (one.kind, one.set_name) == ("position", set_name)]
    above: dict[str, list[TypeDifference]] = {}
    for one in here:
        above.setdefault(one.baseline, []).append(one)
        above.setdefault(one.name, []).append(_reversed(one))
    best = min(above, key=lambda position: -min(one.difference for one in above[position]))
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


def widest(differences: Sequence[TypeDifference], kind: str) -> list[TypeDifference]:
    """Those over the most positions (or weightings) of their pair and set."""
    chosen: dict[tuple[str, str, str], TypeDifference] = {}
    for one in differences:
        key = (one.name, one.baseline, one.set_name)
        if one.kind == kind and (key not in chosen or len(one.within) > len(chosen[key].within)):
            chosen[key] = one
    return list(chosen.values())


def type_difference(
    group: Group,
    types: dict[Type, list[int]],
    how: tuple[str, tuple[str, str], list[str]],
    signs: dict[Type, float],
    level: float,
) -> list[TypeDifference]:
    """Return one tested contrast of types, or nothing where there is nothing to test.

    Args:
        how: (kind, (name, baseline), within) of the difference.
        signs: of each type's mean in the contrast.
    """
    kind, (word, baseline), scope = how
    found = _contrast(group, signs, types)
    if found is None:
        return []
    interval, p_value = tested(found, level)
    varies = interval is not None
    return [
        TypeDifference(
            kind=kind,
            name=word,
            baseline=baseline,
            within=scope,
            set_name=group.set_name,
            difference=float(found.estimate_k[0]),
            interval=interval,
            p_value=p_value,
            p_holm=None,
            standard_error=float(np.sqrt(found.variance_k[0])) if varies else None,
            df=float(found.df_k[0]) if varies else None,
            num_seeds=min(len(types[one]) for one in signs),
            unit=group.unit,
            seed_error=float(found.seeds_k[0]),
            unit_error=float(found.speakers_k[0]),
        )
    ]


def _pair(axis: int, word: str, other: str) -> Type:
    return (word, other) if axis == 0 else (other, word)


def _contrast(
    group: Group, signs: dict[Type, float], types: dict[Type, list[int]]
) -> Contrast | None:
    """Of the mean of each type's runs times its sign; None without anything to compare."""
    if not group.testable:
        return None
    columns, weights, type_r = [], [], []
    for number, (one, sign) in enumerate(signs.items()):
        columns += types[one]
        weights += [sign / len(types[one])] * len(types[one])
        type_r += [number] * len(types[one])
    errors_ru = group.errors_nm[:, columns].T
    return contrast(errors_ru[None], group.words_n[None], np.array(weights), type_r)


def _above_zero(interval: Interval | None) -> Interval | None:
    """A rate's interval ends at 0."""
    return None if interval is None else Interval(max(0.0, interval.low), interval.high)
