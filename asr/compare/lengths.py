"""Decoded sets of one manifest's utterances joined to several durations (``asr join --to-s``).

Each duration has the same words: every utterance is in one joined one. So what changes with duration
is the length alone (and the seams).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from asr.compare.comparison import Difference, LengthResult, SetResult
from asr.compare.experiment import Experiment, ScoredSet
from asr.decode.decoded import JoinedFrom

# A longer recording than the last one's by less than this factor is the same measurement again.
LEAST_GROWTH = 1.25
# Characters of a setting in a note: enough of a hash to tell two apart.
_SHOWN = 12


@dataclass(frozen=True)
class Duration:
    """Sets joined to one duration.

    Attributes:
        length_s: what utterances were joined to.
        set_name: of the folder that each system's set is in.
        members: the set of each system that was decoded on them, by its number; the first's first.
    """

    length_s: float
    set_name: str
    members: dict[int, ScoredSet]

    @property
    def mean_s(self) -> float:
        """Return the mean of what came out of joining."""
        first = next(iter(self.members.values()))
        return float(np.mean([utterance.duration_s for utterance in first.utterances]))

    @property
    def label(self) -> str:
        """Return the duration that was joined, not the one that was asked for."""
        return f"{self.mean_s:.3g} s"

    @property
    def num_words(self) -> int:
        first = next(iter(self.members.values()))
        return sum(count.reference_words for count in first.counts)


def find_durations(
    experiments: Sequence[Experiment], names: Sequence[str]
) -> tuple[list[Duration], list[str]]:
    """Find the durations that say something new, shortest first, and why others are left out.

    A duration that makes recordings hardly longer than the one before would be the same measurement
    twice, and be counted twice by Holm's correction. A system takes part that was decoded at every
    duration at which the first one was.
    """
    found, notes = _by_length(experiments, names)
    systems = sorted({k for one in found.values() for k in one.members})
    kept: list[Duration] = []
    for length_s, one in sorted(found.items()):
        why = ""
        if systems[0] not in one.members:
            why = f"{names[systems[0]]} was not decoded on them"
        elif kept and one.num_words != kept[0].num_words:
            why = f"these are not the words of those joined to {kept[0].length_s:g} s"
        elif kept and one.mean_s < LEAST_GROWTH * kept[-1].mean_s:
            why = (
                f"speakers have utterances for {one.mean_s:.1f} s on average, and "
                f"{kept[-1].mean_s:.1f} s are there already"
            )
        if why:
            notes.append(f"joined to {length_s:g} s: left out, {why}")
        else:
            kept.append(one)
    for k in sorted({*range(len(names))} - {*systems}) if kept else ():
        notes.append(f"joined: {names[k]} left out, no such set of it is decoded")
    for k in systems:
        if missing := [f"{one.length_s:g} s" for one in kept if k not in one.members]:
            notes.append(f"joined: {names[k]} left out, not decoded at {', '.join(missing)}")
            for one in kept:
                one.members.pop(k, None)
    return kept, notes


def _by_length(
    experiments: Sequence[Experiment], names: Sequence[str]
) -> tuple[dict[float, Duration], list[str]]:
    """(durations by what was asked for, notes): of one source, decoded alike, in one folder's name.

    The first system with joined sets says which: its first folder's utterances, and the way in which
    most durations of them were decoded.
    """
    base = next((experiment.joined for experiment in experiments if experiment.joined), {})
    if not base:
        return {}, []
    source = _note(next(iter(base.values()))).of
    same = {name: scored for name, scored in base.items() if _note(scored).of == source}
    first = max(same, key=lambda name: _num_durations(same, same[name].way))
    way = same[first].way
    found: dict[float, Duration] = {}
    left_out: dict[tuple[str, str], list[str]] = {}
    for k, experiment in enumerate(experiments):
        for name, scored in experiment.joined.items():
            note, why = _note(scored), ""
            if note.of != source:
                why = f"joined from other utterances than {first}"
            elif scored.way != way:
                why = f"decoded with {way_text(scored.way)}, and {first} with {way_text(way)}"
            elif found.setdefault(note.to_s, Duration(note.to_s, name, {})).set_name != name:
                why = f"joined to {note.to_s:g} s as {found[note.to_s].set_name} is"
            if why:
                left_out.setdefault((name, why), []).append(names[k])
            else:
                found[note.to_s].members[k] = scored
    return found, [
        f"{name} of {', '.join(systems)}: left out, {why}"
        for (name, why), systems in left_out.items()
    ]


def _note(scored: ScoredSet) -> JoinedFrom:
    assert scored.decoding.joined is not None
    return scored.decoding.joined


def _num_durations(sets: Mapping[str, ScoredSet], way: dict[str, Any]) -> int:
    return len({_note(scored).to_s for scored in sets.values() if scored.way == way})


def way_text(way: Mapping[str, Any]) -> str:
    """``beam, beam 8, lm_sha256 0a1b2c3d``: long values shortened."""
    search = str(way.get("search", "search unknown"))
    others = (f"{key} {str(value)[:_SHOWN]}" for key, value in way.items() if key != "search")
    return ", ".join([search, *others])


def length_results(
    durations: Sequence[Duration],
    results: Mapping[tuple[int, str], SetResult],
    against_first: Sequence[Difference],
    names: Sequence[str],
) -> list[LengthResult]:
    """Return the results of all durations in one table.

    Args:
        results: by the number of the system and the label of the duration.
        against_first: of all durations, so that Holm's correction is over them all.
    """
    differences = {(one.name, one.set_name): one for one in against_first}
    found = []
    for duration in durations:
        for k in duration.members:
            result = results[k, duration.label]
            if result.wer is None:
                continue
            one = differences.get((names[k], duration.label))
            found.append(
                LengthResult(
                    name=names[k],
                    label=duration.label,
                    length_s=duration.length_s,
                    mean_duration_s=duration.mean_s,
                    num_utterances=result.num_utterances,
                    units=result.units,
                    wer=result.wer,
                    interval=result.interval,
                    difference=None if one is None else one.difference,
                    p_value=None if one is None else one.p_value,
                    p_holm=None if one is None else one.p_holm,
                    set_name=duration.set_name,
                    normaliser=result.normaliser,
                    search=way_text(duration.members[k].way),
                )
            )
    return found
