"""Any Lhotse manifest: cuts of every kind, or recordings with supervisions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lhotse import (
    AudioSource,
    CutSet,
    MonoCut,
    MultiCut,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
)
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy

from asr.data.audio import AudioError, is_silent
from asr.data.manifest import LeftOut, audio_source, load_samples, read_manifest
from asr.data.preparation import (
    PartReport,
    check_names,
    check_text,
    inspect_all,
    is_unicode,
    write_part,
)
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.errors import InputError

_REFUSED = {
    "command": "a shell command, which is not run",
    "memory": "in the manifest itself, which a manifest of ours cannot hold",
    "shar": "in a Shar archive, which is not read",
}
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
    """(a cut for each supervision, as long as that; the supervisions that do not lie in their cut).

    Raises:
        InputError: not a manifest of cuts, or one whose audio is in no file.
    """
    cuts: list[Cut] = []
    left_out: list[LeftOut] = []
    for cut in read_manifest(path, CutSet):
        if not cut.supervisions:
            cuts.append(_settle(cut, path))
        for supervision in cut.supervisions:
            name = str(cut.id if len(cut.supervisions) == 1 else supervision.id)
            try:
                one = _trimmed(cut, supervision, len(cut.supervisions) == 1)
            except _OutsideError as error:
                left_out.append(LeftOut(name, "segment outside its audio", str(error)))
                continue
            cuts.append(_settle(one.with_id(name), path))
    return cuts, left_out


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
    """One cut per supervision, and the supervisions whose recording is not there.

    Raises:
        InputError: not such manifests, or audio that is in no file.
    """
    by_id = {recording.id: recording for recording in read_manifest(recordings, RecordingSet)}
    told = read_manifest(supervisions, SupervisionSet)
    cuts: list[Cut] = []
    left_out: list[LeftOut] = []
    for supervision in told:
        if supervision.recording_id not in by_id:
            detail = f"its recording {supervision.recording_id} is not in {recordings}"
            left_out.append(LeftOut(supervision.id, "missing audio", detail))
            continue
        recording = by_id[supervision.recording_id]
        try:
            start_s, end_s = _inside(supervision.start, supervision.end, recording.duration)
        except _OutsideError as error:
            left_out.append(LeftOut(supervision.id, "segment outside its audio", str(error)))
            continue
        duration_s = end_s - start_s
        channel = supervision.channel
        kind = MultiCut if isinstance(channel, list) else MonoCut
        cut = kind(
            id=supervision.id,
            start=start_s,
            duration=duration_s,
            channel=channel,
            supervisions=[fastcopy(supervision, start=0.0, duration=duration_s)],
            recording=recording,
        )
        cuts.append(_settle(cut, recordings))
    return cuts, left_out


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
    if not cut.supervisions:
        return LeftOut(cut.id, "audio without transcript", "no supervision")
    supervision = cut.supervisions[0]
    speaker = supervision.speaker or UNKNOWN_SPEAKER
    if not (is_unicode(cut.id) and is_unicode(speaker)):
        return LeftOut(cut.id, "id is not UTF-8", repr(speaker))
    if problem := check_text(supervision.text or "", cut.duration):
        return LeftOut(cut.id, *problem)
    try:
        samples_cn = load_samples(cut)
    except AudioError as error:
        return LeftOut(cut.id, error.reason, str(error))
    if is_silent(samples_cn.min(), samples_cn.max()):
        return LeftOut(cut.id, "silent audio", audio_source(cut))
    supervision.speaker = speaker
    return cut
