"""Manifests of Lhotse cuts: writing, reading, and a cut's audio as samples.

A part of a corpus is one file ``<part>.cuts.jsonl.gz``: one cut per utterance, a whole recording or
a segment of one, with text and speaker, and the audio's absolute path. No audio is copied.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioLoadingError, DurationMismatchError
from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut

from asr.data.audio import AudioError, check_audio, check_finite, decode, to_mono
from asr.data.members import Member, fetch_members
from asr.errors import InputError
from asr.files import write_atomically

# Whether a whole file is searched for files that follow it; see ``load_samples``.
_read_all: ContextVar[bool] = ContextVar("read_all", default=False)


class CorpusAudio(LibsndfileBackend):
    """libsndfile, which reads most of what corpora hold, and PyAV for the rest (M4A, video)."""

    def read_audio(
        self,
        path_or_fd: str | Path | BinaryIO,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[np.ndarray, int]:
        """float32 (channels, n) and its rate, of a whole file or of a part of it, in seconds."""
        only_first = duration is None and not _read_all.get()
        if not isinstance(path_or_fd, (str, Path)):
            name = "audio in memory"
            samples_nc, rate = decode(path_or_fd, offset, duration, name, only_first)
        elif ".tar/" in str(path_or_fd):  # Lhotse's own spelling of a member
            return super().read_audio(path_or_fd, offset, duration, force_opus_sampling_rate)
        else:
            path = Path(path_or_fd)
            samples_nc, rate = decode(path, offset, duration, only_first=only_first)
        return samples_nc.T, rate


# Lhotse's own choice tries torchaudio.load, which needs an extra package since torchaudio 2.9, and
# ffmpeg. A user's own choice goes first.
if "LHOTSE_AUDIO_BACKEND" not in os.environ:
    set_current_audio_backend(CorpusAudio())

MANIFEST_SUFFIX = ".cuts.jsonl.gz"

Manifest = TypeVar("Manifest", CutSet, RecordingSet, SupervisionSet)

_ITEMS = {CutSet: Cut, RecordingSet: Recording, SupervisionSet: SupervisionSegment}
_NAMES = {CutSet: "cuts", RecordingSet: "recordings", SupervisionSet: "supervisions"}


@dataclass(frozen=True)
class LeftOut:
    """An item that did not make it into the manifest."""

    id: str
    reason: str
    detail: str


def cuts_path(out: Path, part: str) -> Path:
    return out / f"{part}{MANIFEST_SUFFIX}"


def min_ctc_frames(tokens: Sequence[Any]) -> int:
    """Frames that CTC needs for ``tokens``: one each, and a blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def write_cuts(cuts: Iterable[Cut], path: Path) -> None:
    """JSON lines, gzipped; the same cuts give the same bytes (no time stamp inside)."""
    lines = "".join(json.dumps(cut.to_dict(), ensure_ascii=False) + "\n" for cut in cuts)
    write_atomically(path, gzip.compress(lines.encode(), compresslevel=6, mtime=0))


def read_cuts(path: str | os.PathLike[str]) -> CutSet:
    """An eager CutSet from any manifest of cuts that Lhotse reads.

    Raises:
        InputError: no such file, not a manifest of cuts, one without cuts, or with an id twice.
    """
    path = Path(path)
    cuts = read_manifest(path, CutSet)
    if len(cuts) == 0:
        raise InputError(f"{path}: an empty manifest: no cuts in it")
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise InputError(f"{path}: two cuts have the id {cut.id!r}")
        seen.add(cut.id)
    return cuts


def read_manifest(path: Path, kind: type[Manifest]) -> Manifest:
    """An eager Lhotse manifest (cuts, recordings, supervisions); what is in it is not checked.

    Raises:
        InputError: no such file, or not a manifest of that kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    try:
        loaded = kind.from_file(path)  # None for a file without a line
        items = kind() if loaded is None else loaded.to_eager()
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a manifest: {_one_line(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, EOFError) as error:
        raise InputError(
            f"{path}: not a manifest of Lhotse {_NAMES[kind]} "
            f"({type(error).__name__}: {_one_line(error)})"
        ) from None
    for item in items:
        if not isinstance(item, _ITEMS[kind]):
            raise InputError(
                f"{path}: not a manifest of Lhotse {_NAMES[kind]}: holds {type(item).__name__}"
            )
    return items


def load_waveform(cut: Cut, sample_rate: int) -> np.ndarray:
    """float32 (n,): the cut's audio, channels averaged, resampled to ``sample_rate``.

    Always through Lhotse, so that offsets, other storage and a manifest's own transforms count. Its
    overhead over bare decoding is some 0.4 ms per cut.

    Raises:
        InputError: names the cut, the file and the reason.
    """
    return to_mono(load_samples(cut), cut.sampling_rate, sample_rate)


def load_samples(cut: Cut) -> np.ndarray:
    """float32 (channels, n): the cut's audio at its own rate, out of a shard where it is in one; see
    ``load_waveform``."""
    in_memory = fetch_members(cut)
    try:
        samples_cn = in_memory.load_audio()
    except _LOADING_ERRORS:
        samples_cn = _load_all(cut, in_memory)
    if samples_cn is None:
        raise AudioError(f"cut {cut.id}: has no recording, so there is no audio to load")
    if samples_cn.shape[-1] == 0:
        raise AudioError(
            f"cut {cut.id}: {audio_source(cut)}: no audio: zero samples", "empty audio"
        )
    check_finite(samples_cn, f"cut {cut.id}: {audio_source(cut)}")
    return samples_cn


def _load_all(cut: Cut, in_memory: Cut) -> np.ndarray | None:
    """Once more, where Lhotse found less than the manifest says: a file may follow the first."""
    token = _read_all.set(True)
    try:
        samples_cn: np.ndarray | None = in_memory.load_audio()
    except _LOADING_ERRORS as error:
        raise _explain(cut, error) from None
    finally:
        _read_all.reset(token)
    return samples_cn


# What Lhotse is known to raise where audio is missing, damaged or shorter than the manifest says.
_LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AssertionError,
    AudioLoadingError,
    DurationMismatchError,
)


def _explain(cut: Cut, error: Exception) -> InputError:
    """Lhotse's messages are pages long: ask the file itself what is wrong with it."""
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    for source in map(audio_source, parts):
        if os.path.sep in source and not source.startswith("<"):
            try:
                check_audio(source)
            except AudioError as reason:
                return AudioError(f"cut {cut.id}: {reason}", reason.reason)
    name = audio_source(cut) or "audio"
    return AudioError(f"cut {cut.id}: {name} cannot be loaded: {type(error).__name__}")


def audio_source(cut: Cut) -> str:
    """The file of a cut's audio, ``<kind>`` for other storage, or an empty text."""
    if not isinstance(cut, DataCut) or cut.recording is None or not cut.recording.sources:
        return ""
    source = cut.recording.sources[0]
    if Member.parse(source) is not None:
        return f"<{source.source}>"
    return str(source.source) if source.type == "file" else f"<{source.type}>"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."
