"""Systems that were scored on the same utterances: intervals of their WERs, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.compare.comparison import Difference, UnitErrors
from asr.compare.experiment import ScoredSet
from asr.compare.stats.mapsswe import Mapsswe, errors_by_word, mapsswe, segment_errors
from asr.compare.stats.statistics import (
    MIN_RESAMPLED,
    Floats,
    Interval,
    all_signs,
    log_t,
    lowest_p,
    pool_by_speaker,
    random_signs,
    ratios,
    resample_totals,
    resampling_unit,
    student,
    studentised_bootstrap,
)
from asr.compare.stats.student import clopper_pearson
from asr.decode.decoded import DecodedUtterance
from asr.wer import WER, Metric


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the intervals: level, number of resamples, seed."""

    level: float
    num_resamples: int
    seed: int


@dataclass(frozen=True)
class Group:
    """Systems with equal utterances; m counts the systems, u utterances, n independent units.

    Attributes:
        members: the systems' numbers in the table.
        utterances: of the first; sorted by id, so that no figure depends on a file's order.
        hypotheses_mu: units of ``metric``: words, or characters; ``words_u`` counts the references'.
        unit: ``speaker`` or ``utterance``; names_n: which.
    """

    set_name: str
    members: list[int]
    utterances: list[DecodedUtterance]
    hypotheses_mu: list[list[Sequence[str]]]
    errors_um: Floats
    words_u: Floats
    unit: str
    names_n: list[str]
    errors_nm: Floats
    words_n: Floats
    metric: Metric = WER

    @property
    def testable(self) -> bool:
        """Tell whether there are two units and any words in them."""
        return len(self.words_n) >= 2 and bool(self.words_n.any())

    @property
    def resampled(self) -> bool:
        """Tell whether there are enough units to resample them."""
        return len(self.words_n) >= MIN_RESAMPLED

    def method(self, level: float) -> str:
        """Name the method of a difference's interval: too few exchanges of labels have none."""
        if self.resampled:
            return "random signs"
        return "t" if lowest_p(len(self.words_n)) > 1 - level else "all signs"

    def column(self, member: int) -> int:
        return self.members.index(member)


def group_of(set_name: str, members: dict[int, ScoredSet]) -> Group:
    """The members, which have the same utterances, perhaps in different orders."""
    metric = next(iter(members.values())).metric
    rows = [
        {u.id: (u, counts) for u, counts in zip(one.utterances, one.counts, strict=True)}
        for one in members.values()
    ]
    order = sorted(rows[0])
    errors_um = np.array([[row[id_][1].errors for row in rows] for id_ in order], dtype=np.float64)
    words_u = np.array([rows[0][id_][1].reference_words for id_ in order], dtype=np.float64)
    utterances = [rows[0][id_][0] for id_ in order]
    speakers = [utterance.speaker for utterance in utterances]
    unit = resampling_unit(speakers)
    values = np.concatenate([errors_um, words_u[:, None]], axis=1)
    if unit == "speaker":
        values = pool_by_speaker(values, speakers)
    return Group(
        set_name=set_name,
        members=list(members),
        utterances=utterances,
        hypotheses_mu=[[metric.split(row[id_][0].hypothesis) for id_ in order] for row in rows],
        errors_um=errors_um,
        words_u=words_u,
        unit=unit,
        names_n=sorted(set(speakers)) if unit == "speaker" else order,
        errors_nm=values[:, :-1],
        words_n=values[:, -1],
        metric=metric,
    )


def units_of(group: Group, column: int) -> list[UnitErrors]:
    """Return errors and words of each unit of one system."""
    return [
        UnitErrors(name, int(errors), int(words))
        for name, errors, words in zip(
            group.names_n, group.errors_nm[:, column], group.words_n, strict=True
        )
    ]


def wer_intervals(group: Group, how: Bootstrap) -> list[Interval | None]:
    """An interval per member by ``wer_method``; None where too few units have errors to tell."""
    found = _unit_intervals(group, how)
    num_words = int(group.words_n.sum())
    for k, member in enumerate(group.members):
        if wer_method(group, member) == "exact":
            num_errors = int(group.errors_nm[:, k].sum())
            found[k] = Interval(*clopper_pearson(num_errors, num_words, how.level))
    return found


def wer_method(group: Group, member: int) -> str:
    """Name the method of a member's interval.

    ``exact`` where all of its words are right, or all wrong: units that do not differ say nothing of how
    much they might. Else ``bootstrap`` or ``t``.
    """
    errors_n = group.errors_nm[:, group.column(member)]
    if group.testable and (not errors_n.any() or (errors_n == group.words_n).all()):
        return "exact"
    return "bootstrap" if group.resampled else "t"


def _unit_intervals(group: Group, how: Bootstrap) -> list[Interval | None]:
    if not group.testable:
        return [None] * len(group.members)
    words_n1 = group.words_n[:, None]
    if group.resampled:
        ends = studentised_bootstrap(
            group.errors_nm, words_n1, how.num_resamples, how.seed, how.level
        )
    else:
        ends = log_t(group.errors_nm, words_n1, how.level)
    lows, highs = ends
    return [_interval(low, high) for low, high in zip(lows, highs, strict=True)]


def paired_differences(group: Group, names: Sequence[str], how: Bootstrap) -> list[Difference]:
    """Every member against the first one, without Holm's correction yet; there must be words."""
    others = group.members[1:]
    if not others:
        return []
    segments = _mapsswe(group)
    differences_nm = group.errors_nm[:, 1:] - group.errors_nm[:, :1]
    total = float(group.words_n.sum())
    intervals: list[Interval | None] = [None] * len(others)
    p_values: list[float | None] = [None] * len(others)
    shares: list[float | None] = [None] * len(others)
    if group.testable:
        words_n1 = group.words_n[:, None]
        if group.resampled:
            tested = random_signs(differences_nm, words_n1, how.num_resamples, how.seed, how.level)
        else:
            tested = all_signs(differences_nm, words_n1, how.level)
        by_t = group.method(how.level) == "t"
        ends = student(differences_nm, words_n1, how.level) if by_t else tested
        intervals = [_interval(*pair) for pair in zip(ends.low_k, ends.high_k, strict=True)]
        # where no unit differs nothing is known of how much one might
        differ_k = [bool(column.any()) for column in differences_nm.T]
        intervals = [
            one if differ else None for one, differ in zip(intervals, differ_k, strict=True)
        ]
        p_values = [float(p) for p in tested.p_k]
        drawn = resample_totals(
            np.concatenate([differences_nm, words_n1], axis=1), how.num_resamples, how.seed
        )
        shares = [float((ratios(column, drawn[:, -1]) < 0).mean()) for column in drawn.T[:-1]]
    return [
        Difference(
            name=names[member],
            baseline=names[group.members[0]],
            set_name=group.set_name,
            difference=float(differences_nm[:, k].sum()) / total,
            interval=intervals[k],
            p_value=p_values[k],
            p_holm=None,
            better_share=shares[k],
            unit=group.unit,
            method=group.method(how.level),
            mapsswe=segments[k],
        )
        for k, member in enumerate(others)
    ]


def _mapsswe(group: Group) -> list[Mapsswe | None]:
    """Run MAPSSWE for each member against the first."""
    words_mu = [
        [
            errors_by_word(group.metric.split(utterance.reference), hypothesis)
            for utterance, hypothesis in zip(group.utterances, hypotheses_u, strict=True)
        ]
        for hypotheses_u in group.hypotheses_mu
    ]
    return [
        mapsswe(
            [
                first - second
                for one, base in zip(words_u, words_mu[0], strict=True)
                for first, second in segment_errors(one, base)
            ]
        )
        for words_u in words_mu[1:]
    ]


def _interval(low: float, high: float) -> Interval | None:
    return Interval(float(low), float(high)) if np.isfinite([low, high]).all() else None
