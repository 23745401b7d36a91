"""Experiments side by side: word error rates with intervals, and which differences are real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asr.errors import InputError
from asr.evaluate.comparison import Comparison, Difference, Row, SetResult
from asr.evaluate.experiment import Experiment, ScoredSet, read_experiment
from asr.evaluate.statistics import (
    Floats,
    percentile_interval,
    pool_by_speaker,
    ratios,
    resample_totals,
    resampling_unit,
    two_sided_p,
)
from asr.evaluate.tables import format_terminal, write_comparison
from asr.wer import ErrorCounts

__all__ = ["compare", "format_terminal", "write_comparison"]


def compare(
    folders: Sequence[Path], *, num_resamples: int = 10_000, seed: int = 1, level: float = 0.95
) -> Comparison:
    """WER, interval and cost of each experiment, and its paired difference against the first.

    Args:
        folders: experiment folders; the first is what the others are measured against.
        num_resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same figures.
        level: of the intervals.

    Raises:
        InputError: no folder given, one given twice, a value out of range; see also
            ``read_experiment``.
    """
    if not folders:
        raise InputError("compare: give at least one experiment folder")
    if num_resamples < 1:
        raise InputError(f"num_resamples = {num_resamples}: must be at least 1")
    if not 0 < level < 1:
        raise InputError(f"level = {level}: must be between 0 and 1")
    resolved = [folder.resolve() for folder in folders]
    for folder, times in Counter(resolved).items():
        if times > 1:
            raise InputError(f"{folder}: given {times} times")
    experiments = [read_experiment(folder) for folder in folders]
    names = _distinct_names(experiments)
    set_names = sorted({name for experiment in experiments for name in experiment.sets})

    results: dict[tuple[int, str], SetResult] = {}
    differences: list[Difference] = []
    unpaired: list[str] = []
    for set_name in set_names:
        members = {k: e.sets[set_name] for k, e in enumerate(experiments) if set_name in e.sets}
        for group in _groups_of_equal_references(members):
            totals = _resample({k: members[k] for k in group}, num_resamples, seed)
            for k in group:
                results[k, set_name] = _set_result(members[k], totals.get(k), level)
            if group[0] == 0:
                differences += [
                    _difference(members, totals, k, names, set_name, level) for k in group[1:]
                ]
            elif 0 in members:
                unpaired += [_why_unpaired(members, k, names, set_name) for k in group]

    rows = [
        Row(name, str(experiment.folder), experiment.run, _sets_of(results, k))
        for k, (name, experiment) in enumerate(zip(names, experiments, strict=True))
    ]
    notes = [*_warnings(rows), *unpaired, *(n for e in experiments for n in e.left_out)]
    return Comparison(rows, differences, notes, level, num_resamples, seed)


def _distinct_names(experiments: Sequence[Experiment]) -> list[str]:
    """Runs' names; folders where two runs are called the same."""
    times = Counter(experiment.run.name for experiment in experiments)
    return [e.run.name if times[e.run.name] == 1 else str(e.folder) for e in experiments]


def _groups_of_equal_references(members: dict[int, ScoredSet]) -> list[list[int]]:
    """Members that were scored on the very same utterances; only those can be paired."""
    groups: dict[tuple[tuple[str, str, tuple[str, ...]], ...], list[int]] = {}
    for k, scored in members.items():
        key = tuple(
            sorted((u.id, u.speaker, tuple(u.reference.split())) for u in scored.utterances)
        )
        groups.setdefault(key, []).append(k)
    return list(groups.values())


def _resample(
    members: dict[int, ScoredSet], num_resamples: int, seed: int
) -> dict[int, tuple[Floats, Floats]]:
    """(errors, words) of each member in each resample, all drawn together; empty if too few units.

    The members have the same utterances, perhaps in different orders.
    """
    errors_by_id = [
        {u.id: count.errors for u, count in zip(scored.utterances, scored.counts, strict=True)}
        for scored in members.values()
    ]
    first = next(iter(members.values()))
    # Sorted, so that a figure depends on neither the order of a file nor that of the systems.
    order = sorted(zip(first.utterances, first.counts, strict=True), key=lambda pair: pair[0].id)
    values_uk = np.array(
        [
            [count.reference_words, *(errors[utterance.id] for errors in errors_by_id)]
            for utterance, count in order
        ],
        dtype=np.float64,
    )
    speakers = [utterance.speaker for utterance, _ in order]
    if resampling_unit(speakers) == "speaker":
        values_uk = pool_by_speaker(values_uk, speakers)
    if len(values_uk) < 2 or not values_uk[:, 0].any():
        return {}
    totals_rk = resample_totals(values_uk, num_resamples, seed)
    return {k: (totals_rk[:, 1 + i], totals_rk[:, 0]) for i, k in enumerate(members)}


def _set_result(scored: ScoredSet, totals: tuple[Floats, Floats] | None, level: float) -> SetResult:
    counts = sum(scored.counts, ErrorCounts())
    speakers = [utterance.speaker for utterance in scored.utterances]
    decoding = scored.decoding
    return SetResult(
        counts=counts,
        wer=counts.wer if counts.reference_words else None,
        interval=None if totals is None else percentile_interval(ratios(*totals), level),
        unit=resampling_unit(speakers),
        num_utterances=len(speakers),
        num_speakers=len(set(speakers)),
        normaliser=decoding.normaliser,
        search=decoding.search,
        beam=decoding.beam,
        rtf=decoding.rtf,
        device=decoding.device,
    )


def _difference(
    members: dict[int, ScoredSet],
    totals: dict[int, tuple[Floats, Floats]],
    k: int,
    names: Sequence[str],
    set_name: str,
    level: float,
) -> Difference:
    counts = sum(members[k].counts, ErrorCounts())
    baseline = sum(members[0].counts, ErrorCounts())
    interval = p_value = better_share = None
    if k in totals:
        (errors_r, words_r), (baseline_r, _) = totals[k], totals[0]
        differences_r = ratios(errors_r - baseline_r, words_r)
        interval = percentile_interval(differences_r, level)
        p_value = two_sided_p(differences_r)
        better_share = float((differences_r < 0).mean())
    return Difference(
        name=names[k],
        baseline=names[0],
        set_name=set_name,
        difference=(counts.errors - baseline.errors) / max(1, baseline.reference_words),
        interval=interval,
        p_value=p_value,
        better_share=better_share,
        unit=resampling_unit([utterance.speaker for utterance in members[k].utterances]),
    )


def _why_unpaired(
    members: dict[int, ScoredSet], k: int, names: Sequence[str], set_name: str
) -> str:
    left, right = ({u.id: u for u in members[i].utterances} for i in (0, k))
    common = left.keys() & right.keys()
    only_one = len(left.keys() ^ right.keys())
    texts = sum(left[id_].reference.split() != right[id_].reference.split() for id_ in common)
    speakers = sum(left[id_].speaker != right[id_].speaker for id_ in common)
    reasons = [
        f"{number} {what}"
        for number, what in (
            (only_one, "utterances are in only one of them"),
            (texts, "references differ"),
            (speakers, "speakers differ"),
        )
        if number
    ]
    return (
        f"{set_name}: {names[k]} and {names[0]} were not scored on the same utterances "
        f"({', '.join(reasons)}), so there is no paired difference"
    )


def _sets_of(results: dict[tuple[int, str], SetResult], k: int) -> dict[str, SetResult]:
    return {set_name: result for (i, set_name), result in results.items() if i == k}


def _warnings(rows: Sequence[Row]) -> list[str]:
    """What makes the rows of a set not comparable at all, or not in every column."""
    notes = []
    for set_name in sorted({name for row in rows for name in row.sets}):
        present = [(row.name, row.sets[set_name]) for row in rows if set_name in row.sets]
        normalisers = {name: result.normaliser for name, result in present}
        if len(set(normalisers.values())) > 1:
            notes.append(
                f"WARNING: {set_name}: normalisers differ ({_listed(normalisers)}): "
                f"these word error rates cannot be compared"
            )
        searches = {
            name: " ".join(str(part) for part in (result.search, result.beam) if part is not None)
            for name, result in present
        }
        if len(set(searches.values())) > 1:
            notes.append(f"{set_name}: searches differ ({_listed(searches)})")
        devices = {name: result.device or "-" for name, result in present}
        if len(set(devices.values())) > 1:
            notes.append(
                f"{set_name}: real-time factors are of different devices ({_listed(devices)})"
            )
        few = min(result.num_speakers for _, result in present)
        if any(result.unit == "utterance" for _, result in present) and few > 1:
            notes.append(
                f"{set_name}: {few} speakers are too few to resample, so utterances are: the "
                f"intervals are for these speakers, those for any speaker would be wider"
            )
    return notes


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value or '-'}" for name, value in values.items())
