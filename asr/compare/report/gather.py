"""Contents of the report beside the comparison: curves, the utterances that differ most, attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.compare.comparison import Comparison, Row
from asr.compare.curves import Curves
from asr.compare.curves_picture import gather_curves
from asr.compare.experiment import ScoredSet, read_experiment
from asr.compare.report.media import SAMPLE_RATE, mp3_uri, png_uri, waveforms
from asr.errors import InputError
from asr.wer import Edit, align

NUM_UTTERANCES = 6
# From a model's folder, an utterance's samples and their rate to a picture of what the model attends to
# and the mean sum of a row of its weights. The caller gives it: comparing loads no model.
DrawAttention = Callable[[Path, np.ndarray, int], tuple[np.ndarray, float]]
# The pictures of one utterance of some seconds show more than those of a long one.
_MAP_MAX_S = 8.0


@dataclass(frozen=True)
class Heard:
    """One utterance as two systems heard it.

    Attributes:
        audio: a data URI; None where manifest or audio are gone, and ``why_silent`` says which.
        errors: of the first and of the second system.
    """

    id: str
    speaker: str
    duration_s: float
    audio: str | None
    why_silent: str | None
    errors: tuple[int, int]
    edits: tuple[list[Edit], list[Edit]]


@dataclass(frozen=True)
class Map:
    """Attention weights of one system. row_sum: mean over layers, heads and frames."""

    name: str
    label: str
    image: str
    row_sum: float


@dataclass(frozen=True)
class Contents:
    """Contents of a report.

    Attributes:
        pair: names of the two systems whose utterances are shown.
        notes: what could not be shown, and why.
    """

    comparison: Comparison
    curves: list[Curves]
    pair: tuple[str, str] | None
    set_name: str | None
    heard: list[Heard]
    maps: list[Map]
    map_utterance: str | None
    notes: list[str]


def gather(
    comparison: Comparison, draw_attention: DrawAttention, utterance: str | None = None
) -> Contents:
    """Gather the contents of the page.

    Args:
        draw_attention: InputError where it cannot.
        utterance: whose attention is shown; by default a short one on which two systems differ.

    Raises:
        InputError: an experiment can no longer be read, or the utterance is not in its set.
    """
    curves, notes = gather_curves(comparison)
    found = choose_pair(comparison)
    if found is None:
        notes.append("no two systems were decoded on the same set: no alignments, no attention")
        return Contents(comparison, curves, None, None, [], [], None, notes)
    first, second, set_name = found
    metric = comparison.metric
    sets = [read_experiment(Path(row.folder), metric).sets[set_name] for row in (first, second)]
    ids = most_different(sets[0], sets[1])
    chosen = utterance or _short_one(sets[0], ids)
    if chosen not in {one.id for one in sets[0].utterances}:
        raise InputError(f"--utterance {chosen}: not in {first.folder}/decode/{set_name}")
    waves, missing = waveforms(sets[0].decoding.cuts, [*ids, chosen])
    for why in dict.fromkeys(missing.values()):
        notes.append(f"{set_name}: no audio: {why}")
    if chosen in missing:
        notes.append(f"{set_name}: no audio of {chosen}, so no attention maps")
    return Contents(
        comparison=comparison,
        curves=curves,
        pair=(first.name, second.name),
        set_name=set_name,
        heard=[_heard(sets, id_, waves.get(id_), missing.get(id_)) for id_ in ids],
        maps=_maps(comparison, draw_attention, waves[chosen], notes) if chosen in waves else [],
        map_utterance=chosen,
        notes=notes,
    )


def choose_pair(comparison: Comparison) -> tuple[Row, Row, str] | None:
    """(first system, one to hear beside it, set): another level of the first factor with the same others
    and seed, where there is one, else the system that differs from the first by most."""
    first = comparison.rows[0]
    names = [one.name for one in comparison.differences]
    others = [row for row in comparison.rows[1:] if row.name in names]
    if not others:
        return None
    size = {one.name: abs(one.difference) for one in comparison.differences}

    def likeness(row: Row) -> tuple[bool, float]:
        same = (row.rest, row.run.seed) == (first.rest, first.run.seed)
        return same and row.first != first.first, size[row.name]

    second = max(others, key=likeness)
    set_name = next(one.set_name for one in comparison.differences if one.name == second.name)
    return first, second, set_name


def most_different(one: ScoredSet, other: ScoredSet) -> list[str]:
    """Utterances whose error counts differ most, in that order; short ones first among equals."""
    errors = {u.id: c.errors for u, c in zip(other.utterances, other.counts, strict=True)}
    ranked = sorted(
        (-abs(c.errors - errors[u.id]), u.duration_s, u.id)
        for u, c in zip(one.utterances, one.counts, strict=True)
    )
    return [id_ for difference, _, id_ in ranked[:NUM_UTTERANCES] if difference]


def _short_one(scored: ScoredSet, ids: Sequence[str]) -> str:
    durations = {u.id: u.duration_s for u in scored.utterances}
    short = [id_ for id_ in ids if durations[id_] <= _MAP_MAX_S]
    return short[0] if short else min(durations, key=lambda id_: (durations[id_], id_))


def _heard(
    sets: Sequence[ScoredSet], id_: str, wave: np.ndarray | None, why_silent: str | None
) -> Heard:
    one, other = (next(u for u in scored.utterances if u.id == id_) for scored in sets)
    counts = [
        next(c for u, c in zip(s.utterances, s.counts, strict=True) if u.id == id_) for s in sets
    ]
    split = sets[0].metric.split
    reference = split(one.reference)
    return Heard(
        id=id_,
        speaker=one.speaker,
        duration_s=one.duration_s,
        audio=None if wave is None else mp3_uri(wave),
        why_silent=why_silent,
        errors=(counts[0].errors, counts[1].errors),
        edits=(
            align(reference, split(one.hypothesis)),
            align(reference, split(other.hypothesis)),
        ),
    )


def _maps(
    comparison: Comparison, draw_attention: DrawAttention, wave_n: np.ndarray, notes: list[str]
) -> list[Map]:
    """One system of each type: the first in the table whose model folder is there."""
    maps: dict[str, Map] = {}
    for row in comparison.rows:
        if row.label in maps:
            continue
        try:
            image, row_sum = draw_attention(Path(row.folder), wave_n, SAMPLE_RATE)
        except InputError as error:
            notes.append(f"{row.name}: no attention maps: {error}")
            continue
        maps[row.label] = Map(row.name, row.label, png_uri(image), row_sum)
    return list(maps.values())
