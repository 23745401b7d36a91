"""Manifests of Lhotse cuts: writing, reading, and a cut's audio as samples.

A part of a corpus is one file ``<part>.cuts.jsonl.gz``: one cut per utterance, a whole recording or
a segment of one, with text and speaker, and the audio's absolute path. No audio is copied.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import yaml
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioLoadingError, DurationMismatchError
from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut

from asr.data.audio import AudioError, check_audio, check_finite, decode, to_mono
from asr.data.gate import ForeignSource, check_item, open_no_pipes
from asr.data.members import Member, fetch_members
from asr.errors import InputError
from asr.files import write_atomically


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
        if not isinstance(path_or_fd, (str, Path)):
            samples_nc, rate = decode(path_or_fd, offset, duration, "audio in memory")
        elif ".tar/" in str(path_or_fd):  # Lhotse's own spelling of a member
            return super().read_audio(path_or_fd, offset, duration, force_opus_sampling_rate)
        else:
            path = Path(path_or_fd)
            if path.exists() and not path.is_file():
                raise AudioError(f"{path}: a folder, a pipe or a device, not an audio file")
            samples_nc, rate = decode(path, offset, duration)
        return samples_nc.T, rate


# Lhotse's own choice tries torchaudio.load, which needs an extra package since torchaudio 2.9, and
# ffmpeg. A user's own choice goes first.
if "LHOTSE_AUDIO_BACKEND" not in os.environ:
    set_current_audio_backend(CorpusAudio())
open_no_pipes()

MANIFEST_SUFFIX = ".cuts.jsonl.gz"

Manifest = TypeVar("Manifest", CutSet, RecordingSet, SupervisionSet)

_ITEMS = {CutSet: Cut, RecordingSet: Recording, SupervisionSet: SupervisionSegment}
_NAMES = {CutSet: "cuts", RecordingSet: "recordings", SupervisionSet: "supervisions"}


# What Lhotse is known to raise for an item whose fields are missing, of another type or without sense.
MALFORMED = (
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
# What reading a compressed file raises where its bytes are damaged; OSError is the rest.
DAMAGED = (EOFError, zlib.error)


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
        InputError: no such file, not a manifest of cuts, one without cuts, with an id twice, or with
            a cut that nobody can read.
    """
    path = Path(path)
    cuts = read_manifest(path, CutSet)
    if len(cuts) == 0:
        raise InputError(f"{path}: an empty manifest: no cuts in it")
    seen: set[str] = set()
    for cut in cuts:
        try:
            told = [(part.text, part.speaker) for part in cut.supervisions]
            check_fields(cut.id, cut.duration, told)
        except MALFORMED as error:
            raise InputError(f"{path}: cut {cut.id!r}: {_one_line(error)}") from None
        if cut.id in seen:
            raise InputError(f"{path}: two cuts have the id {cut.id!r}")
        seen.add(cut.id)
    return cuts


def check_fields(name: object, duration_s: Any, told: Iterable[tuple[object, object]]) -> None:
    """Check the id, seconds, texts and speakers of a cut, for which Lhotse takes anything.

    Raises:
        TypeError, ValueError: one of them is of another type, or the seconds are none.
    """
    texts = [("id", name or None), *(("text", text or "") for text, _ in told)]
    for field, value in (*texts, *(("speaker", speaker or "") for _, speaker in told)):
        if not isinstance(value, str):
            raise TypeError(f"its {field} is {value!r}, expected a text")
    if not 0 < duration_s < math.inf:
        raise ValueError(f"its duration is {duration_s} s")


def read_manifest(path: Path, kind: type[Manifest]) -> Manifest:
    """An eager Lhotse manifest (cuts, recordings, supervisions); what is in it is not checked.

    Raises:
        InputError: no such file, or not a manifest of that kind.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    try:
        # absolute, or Lhotse would take a file called "pipe:..." for a command
        loaded = kind.from_file(path.absolute())  # None for a file without a line
        items = kind() if loaded is None else loaded.to_eager()
    except (OSError, *DAMAGED) as error:
        raise InputError(f"{path}: cannot be read as a manifest: {_one_line(error)}") from None
    except (*MALFORMED, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: not a manifest of Lhotse {_NAMES[kind]} ({explain_error(error)})"
        ) from None
    for item in items:
        if not isinstance(item, _ITEMS[kind]):
            raise InputError(
                f"{path}: not a manifest of Lhotse {_NAMES[kind]}: holds {type(item).__name__}"
            )
        _let_through(item, path)
    return items


def _let_through(item: Any, where: object) -> None:
    try:
        check_item(item)
    except ForeignSource as error:
        raise ForeignSource(f"{where}: {error}") from None
    except MALFORMED as error:
        raise InputError(f"{where}: a malformed item ({explain_error(error)})") from None


def read_items(path: Path, kind: type[Manifest], left_out: list[LeftOut]) -> list[Any]:
    """Read the items of a Lhotse manifest. In JSON lines a malformed one costs itself.

    Args:
        left_out: gets the lines that are no such item.

    Raises:
        InputError: no such file, a damaged one, or not one item of that kind in it.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return list(read_manifest(path, kind))
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    items: list[Any] = []
    malformed: list[LeftOut] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            check_item(raw)
            (item,) = kind.from_dicts([raw])
            items.append(item)
        except ForeignSource as error:
            raise ForeignSource(f"{path}, line {number}: {error}") from None
        except MALFORMED as error:
            detail = f"{path}, line {number}: {explain_error(error)}"
            malformed.append(LeftOut(f"{path.name}:{number}", "malformed line", detail))
    if malformed and not items:
        raise InputError(
            f"not a manifest of Lhotse {_NAMES[kind]}: all its lines are malformed; "
            f"the first: {malformed[0].detail}"
        )
    left_out += malformed
    return items


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, *DAMAGED) as error:
        raise InputError(f"{path}: cannot be read as a manifest: {_one_line(error)}") from None


def explain_error(error: Exception) -> str:
    """Kind and message of a library's error, on one line."""
    return f"{type(error).__name__}: {_one_line(error)}"


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
    ``load_waveform``.

    Raises:
        ForeignSource: it would run or open something else than audio files.
        AudioError: its audio cannot be loaded.
    """
    check_item(cut)
    in_memory = fetch_members(cut)
    try:
        samples_cn = in_memory.load_audio()
    except _LOADING_ERRORS as error:
        raise _explain(cut, error) from None
    if samples_cn is None:
        raise AudioError(f"cut {cut.id}: has no recording, so there is no audio to load")
    if samples_cn.shape[-1] == 0:
        raise AudioError(
            f"cut {cut.id}: {audio_source(cut)}: no audio: zero samples", "empty audio"
        )
    check_finite(samples_cn, f"cut {cut.id}: {audio_source(cut)}")
    return samples_cn


# What Lhotse is known to raise where audio is missing, damaged or shorter than the manifest says.
_LOADING_ERRORS = (
    *MALFORMED,
    *DAMAGED,
    OSError,
    RuntimeError,
    MemoryError,  # for samples that nobody can have
    AudioLoadingError,
    DurationMismatchError,
)


def _explain(cut: Cut, error: Exception) -> InputError:
    """Lhotse's messages are pages long: ask the file itself what is wrong with it."""
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    for source in map(audio_source, parts):
        if os.path.sep in source and not source.startswith("<"):
            if os.path.exists(source) and not os.path.isfile(source):
                return AudioError(f"cut {cut.id}: {source}: not a file")  # opening it could block
            try:
                check_audio(source)
            except AudioError as reason:
                return AudioError(f"cut {cut.id}: {reason}", reason.reason)
    name = audio_source(cut) or "audio"
    return AudioError(f"cut {cut.id}: {name} cannot be loaded: {explain_error(error)}")


def audio_source(cut: Cut) -> str:
    """The file of a cut's audio, ``<kind>`` for other storage, or an empty text."""
    if not isinstance(cut, DataCut) or cut.recording is None or not cut.recording.sources:
        return ""
    source = cut.recording.sources[0]
    if Member.parse(source) is not None:
        return f"<{source.source}>"
    return str(source.source) if source.type == "file" else f"<{source.type}>"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).partition("[extra info]")[0].split())  # Lhotse's are pages long
    return text if len(text) <= 120 else text[:117] + "..."
