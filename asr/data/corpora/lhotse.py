"""Any Lhotse manifest: cuts of every kind, or recordings with supervisions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lhotse import (
    AudioSource,
    CutSet,
    MonoCut,
    MultiCut,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
)
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut

from asr.data.audio import AudioError
from asr.data.manifest import (
    MALFORMED,
    LeftOut,
    check_fields,
    explain_error,
    load_samples,
    read_items,
)
from asr.data.preparation import (
    MAX_OVERSHOOT_S,
    PartReport,
    check_name,
    check_names,
    check_text,
    inspect_all,
    write_part,
)
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.errors import InputError

_REFUSED = {
    "command": "a shell command, which is not run",
    "memory": "in the manifest itself, which a manifest of ours cannot hold",
    "shar": "in a Shar archive, which is not read",
}
_SUFFIXES = (".gz", ".jsonl", ".json", ".yaml", ".yml", ".cuts")


def part_name(path: Path) -> str:
    """``train`` for ``train.cuts.jsonl.gz``."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name or path.name


def prepare_lhotse(
    out: Path,
    manifests: Sequence[Path] = (),
    recordings: Path | None = None,
    supervisions: Path | None = None,
    num_jobs: int = 0,
) -> list[PartReport]:
    """Load every cut's audio, write ``<out>/<part>.cuts.jsonl.gz`` and its report.

    Args:
        manifests: of cuts; each becomes a part of its name.
        recordings, supervisions: a part of the supervisions' name.

    What is malformed costs itself and is named in the report.

    Raises:
        InputError: nothing to read, not such manifests, two parts of one name, a part without a
            usable utterance. All manifests are read before the first part is written.
    """
    if (recordings is None) != (supervisions is None):
        raise InputError("--recordings and --supervisions belong together")
    if not manifests and recordings is None:
        raise InputError("name manifests: --corpus CUTS, or --recordings with --supervisions")
    parts: list[tuple[str, list[Cut], list[LeftOut]]] = [
        (part_name(path), *read_lhotse_cuts(path)) for path in manifests
    ]
    if recordings is not None and supervisions is not None:
        parts.append((part_name(supervisions), *read_recordings(recordings, supervisions)))
    check_names([name for name, _, _ in parts])
    return [
        write_part(
            name, inspect_all(name, [[cut] for cut in cuts], _inspect_each, num_jobs), out, left_out
        )
        for name, cuts, left_out in parts
    ]


def read_lhotse_cuts(path: Path) -> tuple[list[Cut], list[LeftOut]]:
    """Cuts with one supervision each (one with several is cut apart), and what is malformed.

    Raises:
        InputError: not a manifest of cuts, or one whose audio is in no file.
    """
    found: list[Cut] = []
    left_out: list[LeftOut] = []
    for cut in read_items(path, CutSet, left_out):
        try:
            cuts = _cut_apart(cut, left_out) if len(cut.supervisions) > 1 else [cut]
            found += [_settle(one, path) for one in cuts]
        except InputError:
            raise
        except MALFORMED as error:
            left_out.append(_malformed(cut.id, error))
    return found, left_out


def _cut_apart(cut: Cut, left_out: list[LeftOut]) -> list[Cut]:
    """One cut per supervision; one that lies outside or is malformed goes to ``left_out``."""
    found = []
    for supervision in cut.supervisions:
        try:
            if isinstance(cut, DataCut):
                if _is_outside(supervision, cut.duration):
                    left_out.append(_outside(supervision, cut))
                    continue
                alone: Cut = replace(cut, supervisions=[supervision.trim(cut.duration)])
            else:
                name = supervision.id
                alone = cut.filter_supervisions(lambda other, name=name: other.id == name)
            (one,) = alone.trim_to_supervisions(keep_overlapping=False)
            found.append(one)
        except MALFORMED as error:
            left_out.append(_malformed(supervision.id, error))
    return found


def _is_outside(supervision: SupervisionSegment, duration_s: float) -> bool:
    """Whether it begins outside, or ends further over the end than what is cut off there."""
    start_s, end_s = supervision.start, supervision.end
    return not 0 <= start_s < min(end_s, duration_s) or end_s > duration_s + MAX_OVERSHOOT_S


def _outside(supervision: SupervisionSegment, cut: Cut) -> LeftOut:
    detail = f"{supervision.start:.2f} to {supervision.end:.2f} s of {cut.duration:.2f} s"
    return LeftOut(str(supervision.id), "segment outside its audio", f"cut {cut.id}: {detail}")


def _malformed(name: object, error: Exception) -> LeftOut:
    return LeftOut(str(name), "malformed cut", explain_error(error))


def read_recordings(recordings: Path, supervisions: Path) -> tuple[list[Cut], list[LeftOut]]:
    """One cut per supervision, and what is malformed or has no recording.

    Raises:
        InputError: not such manifests, or audio that is in no file.
    """
    cuts: list[Cut] = []
    left_out: list[LeftOut] = []
    told = read_items(recordings, RecordingSet, left_out)
    by_id = {item.id: item for item in told if isinstance(item.id, str)}
    for supervision in read_items(supervisions, SupervisionSet, left_out):
        try:
            if supervision.recording_id not in by_id:
                detail = f"its recording {supervision.recording_id} is not in {recordings}"
                left_out.append(LeftOut(str(supervision.id), "missing audio", detail))
                continue
            cut = _cut_of(supervision, by_id[supervision.recording_id])
            cuts.append(_settle(cut, recordings))
        except InputError:
            raise
        except MALFORMED as error:
            left_out.append(_malformed(supervision.id, error))
    return cuts, left_out


def _cut_of(supervision: SupervisionSegment, recording: Recording) -> Cut:
    channel = supervision.channel
    kind = MultiCut if isinstance(channel, list) else MonoCut
    return kind(
        id=supervision.id,
        start=supervision.start,
        duration=supervision.duration,
        channel=channel,
        supervisions=[supervision.with_offset(-supervision.start)],
        recording=recording,
    )


def _settle(cut: Cut, path: Path) -> Cut:
    """The cut with absolute paths; InputError where its audio is not in a file (or at a URL)."""
    if isinstance(cut, MixedCut):
        for track in cut.tracks:
            _settle(track.cut, path)
    if not isinstance(cut, DataCut) or cut.recording is None:
        return cut
    sources = []
    for source in cut.recording.sources:
        if source.type in _REFUSED:
            raise InputError(
                f"{path}: the audio of {cut.id} is {_REFUSED[source.type]}; "
                "write it to a file and name that"
            )
        if source.type == "file":
            where = os.path.abspath(source.source)
            source = AudioSource("file", source.channels, where)
        sources.append(source)
    cut.recording = replace(cut.recording, sources=sources)
    return cut


def _inspect_each(cuts: Sequence[Cut]) -> list[Cut | LeftOut]:
    return [_inspect(cut) for cut in cuts]


def _inspect(cut: Cut) -> Cut | LeftOut:
    try:
        return _problem(cut) or cut
    except AudioError as error:
        return LeftOut(str(cut.id), error.reason, str(error))
    except MALFORMED as error:
        return _malformed(cut.id, error)


def _problem(cut: Cut) -> LeftOut | None:
    """Why a cut cannot be used.

    Raises:
        AudioError: its audio cannot be loaded.
        MALFORMED: a field is of another type.
    """
    if not cut.supervisions:
        return LeftOut(str(cut.id), "audio without transcript", "no supervision")
    supervision = cut.supervisions[0]
    text, speaker = supervision.text or "", supervision.speaker or UNKNOWN_SPEAKER
    check_fields(cut.id, cut.duration, [(text, speaker)])
    for name, value in (("id", cut.id), ("speaker", speaker)):
        if reason := check_name(name, value):
            return LeftOut(cut.id, reason, repr(value))
    if problem := check_text(text, cut.duration):
        return LeftOut(cut.id, *problem)
    load_samples(cut)
    supervision.speaker = speaker
    # what was read must be readable again: Lhotse leaves out fields that are None
    line = json.dumps(cut.to_dict(), ensure_ascii=False).encode()
    CutSet.from_dicts([json.loads(line)])
    return None
