"""Comparison on longer audio: utterances of one speaker joined, decoded whole, scored again.

Each duration has the same words: every utterance is in one joined one. So what changes with duration
is the length alone (and the seams).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut

from asr.compare.comparison import (
    Comparison,
    Difference,
    LengthResult,
    Row,
    TypeResult,
    corrected,
)
from asr.compare.contrasts import Grid, type_results
from asr.compare.experiment import ScoredSet, read_scored_set
from asr.compare.interactions import compared_types
from asr.compare.stats.paired import (
    Bootstrap,
    Group,
    group_of,
    paired_differences,
    units_of,
    wer_intervals,
)
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.index import cut_speaker
from asr.data.store.manifest import load_waveform, read_cuts
from asr.decode.decoded import read_decoding
from asr.decode.score import score_folder
from asr.errors import InputError
from asr.files import write_atomically
from asr.model.folder import Model, find_model, load_model
from asr.run_folder import WEIGHTS, DecodedFolder, RunFolder
from asr.search.factory import GREEDY, build_search
from asr.text.normalise import Normaliser, get_normaliser

CPU = torch.device("cpu")
# A longer recording than the last one's by less than this factor is the same measurement again.
LEAST_GROWTH = 1.25


@dataclass(frozen=True)
class Joined:
    """A set's utterances joined to about ``length_s``, groups in order; ``mean_s`` came out."""

    length_s: float
    groups: list[list[Cut]]
    mean_s: float

    @property
    def label(self) -> str:
        """Return the duration that was joined, not the one that was asked for."""
        return f"{self.mean_s:.3g} s"


def compare_lengths(
    comparison: Comparison, lengths_s: Sequence[float], device: torch.device = CPU
) -> Comparison:
    """Add each system's and type's WER on the first set's utterances joined to each duration.

    A duration that makes recordings hardly longer than the one before is left out, with a note: it
    would be the same measurement twice, and be counted twice by Holm's correction. What was decoded
    before stays in EXP/lengths/ and is used again until the model or the utterances change.

    Raises:
        InputError: a duration not above 0, no system with a decoded set, its manifest is gone, or no
            model folder.
    """
    for length_s in lengths_s:
        if not 0 < length_s < math.inf:
            raise InputError(f"--lengths {length_s:g}: must be above 0 seconds, and finite")
    first = comparison.rows[0]
    if not first.sets:
        raise InputError(f"--lengths: {first.folder} has no decoded set to take utterances from")
    set_name = next(iter(first.sets))
    rows = [row for row in comparison.rows if set_name in row.sets]
    names = [row.name for row in rows]
    cuts = _manifest(first, set_name)
    kept, notes = _durations(cuts, lengths_s)
    sets = [_decode(row, kept, set_name, device) for row in rows]
    # Systems are numbered by their place in ``rows`` here, so that a type's are columns too.
    types = {
        tuple(one.levels.values()): [names.index(name) for name in one.names]
        for one in comparison.types
        if one.set_name == set_name
    }
    groups: list[Group] = []
    of_types: list[TypeResult] = []
    grids: list[Grid] = []
    factors = [factor.name for factor in comparison.factors]
    for number, joined in enumerate(kept):
        members = {k: of_lengths[number] for k, of_lengths in enumerate(sets)}
        group = group_of(joined.label, members)
        groups.append(group)
        grids.append(Grid(group, factors, types, comparison.level))
        of_types += type_results(grids[-1], names)
    differences, interactions = compared_types(grids)
    return replace(
        comparison,
        notes=[*comparison.notes, *notes],
        lengths=_results(names, groups, kept, comparison),
        length_types=of_types,
        length_differences=differences,
        length_interactions=interactions,
    )


def _durations(cuts: Sequence[Cut], lengths_s: Sequence[float]) -> tuple[list[Joined], list[str]]:
    """Return the durations that say something new, shortest first, and why others do not."""
    kept: list[Joined] = []
    notes = []
    for length_s in sorted(set(lengths_s)):
        groups = join(cuts, length_s)
        joined = Joined(length_s, groups, sum(map(_seconds, groups)) / len(groups))
        if kept and joined.mean_s < LEAST_GROWTH * kept[-1].mean_s:
            notes.append(
                f"joined to {length_s:g} s: left out, speakers have utterances for "
                f"{joined.mean_s:.1f} s on average, and {kept[-1].mean_s:.1f} s are there already"
            )
        else:
            kept.append(joined)
    return kept, notes


def join(cuts: Sequence[Cut], length_s: float) -> list[list[Cut]]:
    """Groups of one speaker's utterances, in the order of their ids, of about ``length_s`` each.

    A speaker's utterances are shared out evenly, cut between utterances where an even share ends: no
    group is a short rest, and a speaker with less than ``length_s`` is one group.
    """
    by_speaker: dict[str, list[Cut]] = {}
    for cut in sorted(cuts, key=lambda cut: (cut.supervisions[0].speaker, cut.id)):
        by_speaker.setdefault(cut.supervisions[0].speaker, []).append(cut)
    groups: list[list[Cut]] = []
    for own in by_speaker.values():
        whole_s = _seconds(own)
        share_s = whole_s / max(1, round(min(whole_s / length_s, 1e6)))
        shares: dict[int, list[Cut]] = {}
        before_s = 0.0
        for cut in own:
            shares.setdefault(int((before_s + cut.duration / 2) / share_s), []).append(cut)
            before_s += cut.duration
        groups += shares.values()
    return groups


def _manifest(row: Row, set_name: str) -> list[Cut]:
    decode = DecodedFolder(RunFolder(Path(row.folder)).decode / set_name).decoding
    path = read_decoding(decode.parent).cuts
    if path is None or not Path(path).is_file():
        raise InputError(f"--lengths: {path}, the manifest that {decode} names, is not there")
    cuts = list(read_cuts(path))
    if any(cut_speaker(cut) in ("", UNKNOWN_SPEAKER) for cut in cuts):
        raise InputError(
            f"--lengths joins a speaker's utterances, and some in {path} are of no known speaker"
        )
    return cuts


def _decode(
    row: Row, durations: Sequence[Joined], set_name: str, device: torch.device
) -> list[ScoredSet]:
    """Return the scored set of each duration, decoding where none is up to date."""
    model: Model | None = None
    weights = find_model(Path(row.folder)) / WEIGHTS
    results = []
    for joined in durations:
        name, groups = f"{set_name}-joined-{joined.length_s:g}s", joined.groups
        out = RunFolder(Path(row.folder)).lengths / name
        found = _read_newer(out, weights)
        if found is None or not _is_of(found, groups):
            model = model or load_model(Path(row.folder), device)
            _decode_joined(model, groups, out, name, device)
            score_folder(out)
            found = read_scored_set(out)
        results.append(found)
    return results


def _read_newer(out: Path, weights: Path) -> ScoredSet | None:
    """Read the set decoded with these very weights; None where there is none."""
    done = DecodedFolder(out).score
    if not done.is_file() or done.stat().st_mtime < weights.stat().st_mtime:
        return None
    return read_scored_set(out)


def _is_of(found: ScoredSet, groups: Sequence[Sequence[Cut]]) -> bool:
    """Tell whether these very utterances were decoded, not others of a manifest that has changed."""
    normalise = get_normaliser(found.decoding.normaliser)
    expected = [(_name(group), _text(group, normalise), _seconds(group)) for group in groups]
    return len(expected) == len(found.utterances) and all(
        (one.id, one.reference) == (name, text) and abs(one.duration_s - duration_s) < 0.01
        for one, (name, text, duration_s) in zip(found.utterances, expected, strict=True)
    )


def _name(group: Sequence[Cut]) -> str:
    return f"{group[0].id}+{len(group) - 1}"


def _text(group: Sequence[Cut], normalise: Normaliser) -> str:
    return " ".join(normalise(cut.supervisions[0].text or "") for cut in group)


def _seconds(group: Sequence[Cut]) -> float:
    return sum(cut.duration for cut in group)


def _decode_joined(
    model: Model, groups: Sequence[Sequence[Cut]], out: Path, name: str, device: torch.device
) -> None:
    """One joined utterance at a time, whole; ``hypotheses.jsonl`` and ``decode.json`` into ``out``."""
    search = build_search(GREEDY, model)
    normalise = model.normaliser
    rate = model.config.features.sample_rate
    lines = []
    for group in groups:
        wave_n = np.concatenate([load_waveform(cut, rate) for cut in group])
        with torch.inference_mode():
            frames_btx, lens_b = model.net(
                torch.from_numpy(wave_n)[None].to(device),
                torch.tensor([len(wave_n)], device=device),
                head=search.head,
            )
        (hypotheses,) = search(frames_btx, lens_b)
        line = {
            "id": _name(group),
            "speaker": group[0].supervisions[0].speaker,
            "duration_s": round(len(wave_n) / rate, 4),
            "reference": _text(group, normalise),
            "hypothesis": model.tokenizer.decode(hypotheses[0].tokens),
        }
        lines.append(json.dumps(line) + "\n")
    summary = {
        "set": name,
        **search.settings,
        "normaliser": model.config.tokenizer.normaliser,
        "num_utterances": len(lines),
    }
    write_atomically(DecodedFolder(out).hypotheses, "".join(lines))
    write_atomically(DecodedFolder(out).decoding, json.dumps(summary, indent=2) + "\n")


def _results(
    names: Sequence[str],
    groups: Sequence[Group],
    durations: Sequence[Joined],
    comparison: Comparison,
) -> list[LengthResult]:
    """Return the results of all durations: one table, so Holm's correction is over them all."""
    how = Bootstrap(comparison.level, comparison.num_resamples, comparison.seed)
    found = [paired_differences(group, names, how) for group in groups]
    all_of_them = iter(corrected([one for each in found for one in each]))
    results = []
    for group, joined in zip(groups, durations, strict=True):
        differences = [next(all_of_them) for _ in names[1:]]
        results += _of_length(names, group, joined.length_s, differences, how)
    return results


def _of_length(
    names: Sequence[str],
    group: Group,
    length_s: float,
    against_first: Sequence[Difference],
    how: Bootstrap,
) -> list[LengthResult]:
    differences = [None, *against_first]
    duration_s = float(np.mean([utterance.duration_s for utterance in group.utterances]))
    wer_m = group.errors_um.sum(axis=0) / group.words_u.sum()
    return [
        LengthResult(
            name=name,
            label=group.set_name,
            length_s=length_s,
            mean_duration_s=duration_s,
            num_utterances=len(group.utterances),
            units=units_of(group, number),
            wer=float(wer),
            interval=interval,
            difference=None if one is None else one.difference,
            p_value=None if one is None else one.p_value,
            p_holm=None if one is None else one.p_holm,
        )
        for number, (name, wer, interval, one) in enumerate(
            zip(names, wer_m, wer_intervals(group, how), differences, strict=True)
        )
    ]
