"""Experiments side by side: word error rates with intervals, and which differences are real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr.compare.comparison import (
    Comparison,
    Difference,
    Part,
    Row,
    SetResult,
    TypeDifference,
    corrected,
)
from asr.compare.contrasts import Grid, type_results, with_costs
from asr.compare.experiment import Experiment, ScoredSet, outdated_sets, read_experiment
from asr.compare.factors import Design, find_factors, many_of, types_of
from asr.compare.interactions import compared_types
from asr.compare.lengths import find_durations, length_results
from asr.compare.parts import parts_of, read_noise_db
from asr.compare.stats.paired import (
    Bootstrap,
    Group,
    group_of,
    paired_differences,
    units_of,
    wer_intervals,
    wer_method,
)
from asr.compare.stats.statistics import MIN_RESAMPLED, MIN_SPEAKERS, Interval, lowest_p
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.errors import InputError
from asr.run_folder import RunFolder
from asr.wer import CER, WER, ErrorCounts, Metric

# Characters a word, on average: more than in Finnish or Turkish, fewer than in Chinese utterances.
_LONG_WORDS = 12


@dataclass(frozen=True)
class _Systems:
    """Systems to compare, and the settings of the comparison."""

    experiments: list[Experiment]
    names: list[str]
    design: Design
    how: Bootstrap

    @property
    def factors(self) -> list[str]:
        return [factor.name for factor in self.design.factors]


@dataclass
class _Found:
    """Results collected set by set."""

    groups: list[Group] = field(default_factory=list)
    results: dict[tuple[int, str], SetResult] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(
    folders: Sequence[Path],
    *,
    num_resamples: int = 10_000,
    seed: int = 1,
    level: float = 0.95,
    metric: Metric = WER,
) -> Comparison:
    """Error rate, interval and cost of each experiment, and its paired difference against the first.

    Args:
        folders: experiment folders; the first is what the others are measured against.
        num_resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same figures.
        level: of the intervals.
        metric: the error rate that everything is about.

    Raises:
        InputError: no folder given, one given twice, a value out of range; see also
            ``read_experiment``.
    """
    _check_arguments(folders, num_resamples, level)
    experiments = [read_experiment(folder, metric) for folder in folders]
    names = _distinct_names(experiments)
    design = find_factors(experiments, names)
    systems = _Systems(experiments, names, design, Bootstrap(level, num_resamples, seed))
    found, longer = _Found(), _Found()
    for set_name in sorted({name for experiment in experiments for name in experiment.sets}):
        members = {k: e.sets[set_name] for k, e in enumerate(experiments) if set_name in e.sets}
        _compare_set(found, set_name, members, systems)
    durations, left_out = find_durations(experiments, names)
    for one in durations:
        _compare_set(longer, one.label, one.members, systems)

    types = [one for grid in found.grids for one in type_results(grid, names)]
    differences_of_types, interactions = compared_types(found.grids)
    length_differences, length_interactions = compared_types(longer.grids)
    rows = _rows(systems, found.results)
    return Comparison(
        rows=rows,
        factors=design.factors,
        differences=corrected(found.differences),
        types=with_costs(types, rows),
        type_differences=differences_of_types,
        interactions=interactions,
        parts=[part for group in found.groups for part in _parts(group, systems)],
        lengths=length_results(durations, longer.results, corrected(longer.differences), names),
        length_types=[one for grid in longer.grids for one in type_results(grid, names)],
        length_differences=length_differences,
        length_interactions=length_interactions,
        notes=[
            *_outdated(experiments, names),
            *_decoded_twice(experiments, names),
            *(_unspaced(experiments) if metric is WER else []),
            *_warnings(rows, metric),
            *_unlike_engines(rows),
            *found.notes,
            *(design.notes if types else []),
            *_incomparable(found.grids, differences_of_types),
            *(_fairness(experiments) if types else []),
            *(n for e in experiments for n in e.left_out),
            *left_out,
            *longer.notes,
        ],
        level=level,
        num_resamples=num_resamples,
        seed=seed,
        metric=metric,
    )


def _compare_set(
    found: _Found, set_name: str, members: dict[int, ScoredSet], systems: _Systems
) -> None:
    """Add what one set, or one duration, says of the systems that were decoded on it."""
    names, how, base = systems.names, systems.how, min(members)
    for numbers in _groups_of_equal_references(members):
        group = group_of(set_name, {k: members[k] for k in numbers})
        found.groups.append(group)
        for k, interval in zip(numbers, wer_intervals(group, how), strict=True):
            found.results[k, set_name] = _set_result(members[k], group, k, interval)
        if base not in numbers:
            found.notes += [_why_unpaired(members, (base, k), names, set_name) for k in numbers]
        elif not group.words_u.any():
            units = members[base].metric.units
            found.notes.append(f"{set_name}: there are no {units} in its references to get wrong")
        else:
            _compare_systems(found, group, base, names, how)
            columns, replicas = types_of(group, systems.design, systems.experiments, names)
            found.notes += replicas
            found.grids.append(Grid(group, systems.factors, columns, how.level))


def _parts(group: Group, systems: _Systems) -> list[Part]:
    """Split a set by length, speaker and the noise that the first system's manifest names."""
    decoding = systems.experiments[group.members[0]].sets[group.set_name].decoding
    return parts_of(group, systems.names, read_noise_db(decoding.cuts))


def _compare_systems(
    found: _Found, group: Group, base: int, names: Sequence[str], how: Bootstrap
) -> None:
    """Add the differences from the first system of all, or why there are none on this set."""
    if base == 0:
        found.differences += paired_differences(group, names, how)
    else:
        found.notes.append(
            f"{group.set_name}: {names[0]} was not decoded on it, so no system is compared with "
            f"{names[0]} there"
        )


def _incomparable(grids: Sequence[Grid], differences: Sequence[TypeDifference]) -> list[str]:
    """Name the factors of which no two levels have anything in common, set by set."""
    tested = {(one.set_name, one.factor) for one in differences}
    return [
        f"{grid.group.set_name}: no two {many_of(factor)} were trained with the same levels of the "
        f"other factors, so none are compared"
        for grid in grids
        for number, factor in enumerate(grid.factors)
        if len(grid.levels(number)) > 1
        and grid.group.testable
        and (grid.group.set_name, factor) not in tested
    ]


def _fairness(experiments: Sequence[Experiment]) -> list[str]:
    """Say what a comparison of types holds equal that might not suit each of them equally."""
    rates = {one.settings.get("optimizer.lr") for one in experiments}
    notes = []
    if len(rates) == 1 and None not in rates:
        (rate,) = rates
        notes.append(
            f"all types were trained with one peak learning rate, optimizer.lr = {rate}, tuned for "
            f"none of them here"
        )
    if any(one.run.position == "cape" for one in experiments):
        notes.append(
            "cape augments too: in training it shifts and stretches positions at random, so its "
            "difference from the others is not one of positions alone"
        )
    return notes


def _check_arguments(folders: Sequence[Path], num_resamples: int, level: float) -> None:
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


def _set_result(
    scored: ScoredSet, group: Group, member: int, interval: Interval | None
) -> SetResult:
    counts = sum(scored.counts, ErrorCounts())
    wer = counts.wer if counts.reference_words else None
    decoding = scored.decoding
    speakers = {utterance.speaker for utterance in scored.utterances}
    return SetResult(
        counts=counts,
        wer=wer,
        cer=wer if scored.metric is CER else scored.cer,
        interval=interval,
        unit=group.unit,
        method=wer_method(group, member),
        num_utterances=len(scored.utterances),
        num_speakers=0 if speakers == {UNKNOWN_SPEAKER} else len(speakers),
        units=units_of(group, group.column(member)),
        normaliser=decoding.normaliser,
        search=" ".join(part for part in (decoding.head, decoding.search) if part) or None,
        beam=decoding.beam,
        rtf=decoding.rtf,
        device=decoding.device,
        attention_backend=decoding.attention_backend,
    )


def _why_unpaired(
    members: dict[int, ScoredSet], pair: tuple[int, int], names: Sequence[str], set_name: str
) -> str:
    base, k = pair
    left, right = ({u.id: u for u in members[i].utterances} for i in pair)
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
        f"{set_name}: {names[k]} and {names[base]} were not scored on the same utterances "
        f"({', '.join(reasons)}), so there is no paired difference"
    )


def _rows(systems: _Systems, results: dict[tuple[int, str], SetResult]) -> list[Row]:
    rows = []
    for k, (name, experiment) in enumerate(zip(systems.names, systems.experiments, strict=True)):
        # no levels where they are not known
        levels = dict(zip(systems.factors, systems.design.levels[k], strict=False))
        sets = {set_name: result for (i, set_name), result in results.items() if i == k}
        rows.append(Row(name, str(experiment.folder), experiment.run, levels, sets))
    return rows


def _outdated(experiments: Sequence[Experiment], names: Sequence[str]) -> list[str]:
    """Warn of sets that were decoded with other weights than the system's model has now."""
    return [
        f"WARNING: {set_name} of {name} was decoded with other weights than "
        f"{RunFolder(experiment.folder).model} holds now; decode it again"
        for name, experiment in zip(names, experiments, strict=True)
        for set_name in outdated_sets(experiment)
    ]


def _decoded_twice(experiments: Sequence[Experiment], names: Sequence[str]) -> list[str]:
    """Sets of one system with the same utterances and hypotheses: one measurement counted twice."""
    notes = []
    for name, experiment in zip(names, experiments, strict=True):
        seen: dict[tuple[tuple[str, str, str], ...], str] = {}
        for set_name, scored in experiment.sets.items():
            found = sorted((u.id, u.reference, u.hypothesis) for u in scored.utterances)
            first = seen.setdefault(tuple(found), set_name)
            if first != set_name:
                notes.append(
                    f"WARNING: {set_name} of {name} has the utterances and hypotheses of {first}: "
                    f"the same set twice, not a second measurement"
                )
    return notes


def _unspaced(experiments: Sequence[Experiment]) -> list[str]:
    """Name the sets whose words are longer than those of languages with spaces."""
    found: dict[str, float] = {}
    for experiment in experiments:
        for set_name, scored in experiment.sets.items():
            texts = [utterance.reference for utterance in scored.utterances]
            num_words = sum(len(text.split()) for text in texts)
            found[set_name] = sum(map(len, texts)) / max(num_words, 1)
    return [
        f"{set_name}: {length:.0f} characters a word: if its language has no spaces, compare by "
        f"characters (--metric cer)"
        for set_name, length in sorted(found.items())
        if length > _LONG_WORDS
    ]


def _warnings(rows: Sequence[Row], metric: Metric) -> list[str]:
    """List what makes the rows of a set not comparable at all, or not in every column."""
    notes = []
    for set_name in sorted({name for row in rows for name in row.sets}):
        present = [(row.name, row.sets[set_name]) for row in rows if set_name in row.sets]
        normalisers = {name: result.normaliser for name, result in present}
        if len(set(normalisers.values())) > 1:
            notes.append(
                f"WARNING: {set_name}: normalisers differ ({_listed(normalisers)}): "
                f"these {metric.long}s cannot be compared"
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
        if few == 0:
            notes.append(
                f"{set_name}: who speaks is not known: intervals and p-values are over utterances, and "
                f"say nothing of another speaker"
            )
        elif few < MIN_SPEAKERS:
            notes.append(
                f"{set_name}: {few} speaker{'s are' if few > 1 else ' is'} too few to say anything "
                f"of another speaker: intervals and p-values are over utterances, for these alone"
            )
        elif few < MIN_RESAMPLED:
            notes.append(
                f"{set_name}: {few} speakers are too few to resample, so intervals are wide"
            )
            if lowest_p(few) > 0.05 and len(present) > 1:
                notes[-1] += (
                    f", and no difference can be told: even if all {few} speakers favour one system, "
                    f"chance does as much with p = {lowest_p(few):g}"
                )
    return notes


def _unlike_engines(rows: Sequence[Row]) -> list[str]:
    """Mark speeds of which one was computed by another attention engine than the others.

    Older runs did not record theirs; they are named where others differ.
    """
    speeds = {
        "train": {
            row.name: row.run.attention_backend
            for row in rows
            if row.run.train_audio_s_per_s is not None
        }
    }
    for set_name in sorted({name for row in rows for name in row.sets}):
        speeds[f"RTF of {set_name}"] = {
            row.name: row.sets[set_name].attention_backend
            for row in rows
            if set_name in row.sets and row.sets[set_name].rtf is not None
        }
    return [
        f"WARNING: {what}: these speeds come from unlike attention engines "
        f"({_listed({name: engine or 'not recorded' for name, engine in engines.items()})}): a "
        f"difference is one of engines as much as of systems"
        for what, engines in speeds.items()
        if len(set(engines.values()) - {None}) > 1
    ]


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value or '-'}" for name, value in values.items())
