"""Any Lhotse manifest: cuts of every kind, or recordings with supervisions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lhotse import AudioSource, CutSet, MonoCut, MultiCut, RecordingSet, SupervisionSet
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut

from asr.data.audio import AudioError
from asr.data.manifest import LeftOut, load_samples, read_manifest
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
        (part_name(path), read_lhotse_cuts(path), []) for path in manifests
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


def read_lhotse_cuts(path: Path) -> list[Cut]:
    """Cuts with one supervision each; one with several is cut apart.

    Raises:
        InputError: not a manifest of cuts, or one whose audio is in no file.
    """
    found: list[Cut] = []
    for cut in read_manifest(path, CutSet):
        if len(cut.supervisions) > 1:
            each = cut.trim_to_supervisions(keep_overlapping=False)
            found += [one.with_id(one.supervisions[0].id) for one in each]
        else:
            found.append(cut)
    return [_settle(cut, path) for cut in found]


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
        channel = supervision.channel
        kind = MultiCut if isinstance(channel, list) else MonoCut
        cut = kind(
            id=supervision.id,
            start=supervision.start,
            duration=supervision.duration,
            channel=channel,
            supervisions=[supervision.with_offset(-supervision.start)],
            recording=by_id[supervision.recording_id],
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
        load_samples(cut)
    except AudioError as error:
        return LeftOut(cut.id, error.reason, str(error))
    supervision.speaker = speaker
    return cut
