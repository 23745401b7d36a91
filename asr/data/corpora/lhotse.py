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
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy

from asr.data.audio.samples import AudioError, is_silent
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import (
    MALFORMED,
    LeftOut,
    audio_source,
    check_fields,
    explain_error,
    load_samples,
    read_items,
)
from asr.data.store.preparation import (
    PartReport,
    check_name,
    check_names,
    check_text,
    inspect_all,
    write_part,
)
from asr.errors import InputError

MAX_OUTSIDE_S = 0.1
"""How far a supervision may lie outside its audio; it is clipped. Further, and it is left out."""
_ROUNDING_S = 1e-3

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
    """Cut out one cut per supervision, as long as that.

    Returns:
        The cuts, and what is malformed or does not lie in its audio.

    Raises:
        InputError: not a manifest of cuts, or one whose audio is in no file.
    """
    found: list[Cut] = []
    left_out: list[LeftOut] = []
    for cut in read_items(path, CutSet, left_out):
        try:
            found += [_settle(one, path) for one in _cut_apart(cut, left_out)]
        except InputError:
            raise
        except MALFORMED as error:
            left_out.append(_malformed(cut.id, error))
    return found, left_out


def _cut_apart(cut: Cut, left_out: list[LeftOut]) -> list[Cut]:
    """One cut per supervision; one that lies outside or is malformed goes to ``left_out``."""
    if not cut.supervisions:
        return [cut]
    found = []
    for supervision in cut.supervisions:
        name = cut.id if len(cut.supervisions) == 1 else supervision.id
        try:
            found.append(_trimmed(cut, supervision, len(cut.supervisions) == 1).with_id(name))
        except _OutsideError as error:
            left_out.append(LeftOut(str(name), "segment outside its audio", str(error)))
        except MALFORMED as error:
            left_out.append(_malformed(name, error))
    return found


def _malformed(name: object, error: Exception) -> LeftOut:
    return LeftOut(str(name), "malformed cut", explain_error(error))


class _OutsideError(ValueError):
    """A supervision that does not lie in its audio."""


def _trimmed(cut: Cut, supervision: SupervisionSegment, only: bool) -> Cut:
    """The cut's part of one supervision; the whole cut where it is filled by its only one."""
    start_s, end_s = _inside(supervision.start, supervision.end, cut.duration)
    if isinstance(cut, MixedCut):
        first_s, last_s = _beyond_padding(cut)
        if only and start_s - first_s < _ROUNDING_S and last_s - end_s < _ROUNDING_S:
            return cut
        alone = cut.filter_supervisions(lambda other: other.id == supervision.id)
    else:
        if only and start_s < _ROUNDING_S and cut.duration - end_s < _ROUNDING_S:
            return cut
        clipped = fastcopy(supervision, start=start_s, duration=end_s - start_s)
        alone = fastcopy(cut, supervisions=[clipped])
    try:
        (one,) = alone.trim_to_supervisions(keep_overlapping=False)
    except (ValueError, AssertionError, IndexError) as error:
        raise _OutsideError(f"Lhotse cannot cut it out: {error}") from None
    return one


def _inside(start_s: float, end_s: float, duration_s: float) -> tuple[float, float]:
    """The ends clipped to the audio, which they may leave by little: time stamps are rounded."""
    outside_s = max(-start_s, end_s - duration_s)
    clipped = max(start_s, 0.0), min(end_s, duration_s)
    # written so that NaN is outside
    if not (outside_s <= MAX_OUTSIDE_S and clipped[0] < clipped[1]):
        raise _OutsideError(f"from {start_s:.3f} to {end_s:.3f} s of {duration_s:.3f} s")
    return clipped


def _beyond_padding(cut: MixedCut) -> tuple[float, float]:
    """Where a mixed cut's audio begins and ends, the padding around it left aside."""
    tracks = [track for track in cut.tracks if not isinstance(track.cut, PaddingCut)]
    if not tracks:
        return 0.0, cut.duration
    ends_s = [track.offset + track.cut.duration for track in tracks]
    return min(track.offset for track in tracks), max(ends_s)


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
        except _OutsideError as error:
            detail = str(error)
            left_out.append(LeftOut(str(supervision.id), "segment outside its audio", detail))
        except MALFORMED as error:
            left_out.append(_malformed(supervision.id, error))
    return cuts, left_out


def _cut_of(supervision: SupervisionSegment, recording: Recording) -> Cut:
    start_s, end_s = _inside(supervision.start, supervision.end, recording.duration)
    channel = supervision.channel
    kind = MultiCut if isinstance(channel, list) else MonoCut
    return kind(
        id=supervision.id,
        start=start_s,
        duration=end_s - start_s,
        channel=channel,
        supervisions=[fastcopy(supervision, start=0.0, duration=end_s - start_s)],
        recording=recording,
    )


def _settle(cut: Cut, path: Path) -> Cut:
    """The cut with absolute paths."""
    if isinstance(cut, MixedCut):
        for track in cut.tracks:
            _settle(track.cut, path)
    if not isinstance(cut, DataCut) or cut.recording is None:
        return cut
    sources = []
    for source in cut.recording.sources:
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
    samples_cn = load_samples(cut)
    if is_silent(samples_cn.min(), samples_cn.max()):
        return LeftOut(str(cut.id), "silent audio", audio_source(cut))
    supervision.speaker = speaker
    # what was read must be readable again: Lhotse leaves out fields that are None
    line = json.dumps(cut.to_dict(), ensure_ascii=False).encode()
    CutSet.from_dicts([json.loads(line)])
    return None
