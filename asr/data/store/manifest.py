"""Manifests of Lhotse cuts: writing, reading, and a cut's audio as samples.

A part of a corpus is one file ``<part>.cuts.jsonl.gz``: one cut per utterance, a whole recording or
a segment of one, with text and speaker, and the audio's absolute path. No audio is copied.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
import yaml
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.audio import AudioLoadingError, DurationMismatchError
from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut
from lhotse.serialization import deserialize_item

from asr.data.audio.reader import check_rate
from asr.data.audio.samples import AudioError, check_audio, check_finite, decode, to_mono
from asr.data.store.gate import ForeignSource, check_item, check_values, open_no_pipes, parse_line
from asr.data.store.members import Member, fetch_members
from asr.data.store.told import NOTHING_TOLD, Told, expected, what_is_told
from asr.errors import InputError
from asr.files import MOST_PACKED, most_unpacked, write_atomically


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
        told: Told = getattr(expected, "told", NOTHING_TOLD)
        told_s = told.seconds
        if not isinstance(path_or_fd, (str, Path)):
            samples_nc, rate = decode(path_or_fd, offset, duration, "audio in memory", told_s)
        elif ".tar/" in str(path_or_fd):  # Lhotse's own spelling of a member
            tar = Path(str(path_or_fd).partition(".tar/")[0] + ".tar")
            if tar.exists() and not (tar.is_file() or tar.is_dir()):
                raise AudioError(f"{tar}: a pipe or a device, not an archive")
            return super().read_audio(path_or_fd, offset, duration, force_opus_sampling_rate)
        else:
            samples_nc, rate = decode(
                Path(path_or_fd), offset, duration, told_s=told_s, pipes=False
            )
        name = path_or_fd if isinstance(path_or_fd, (str, Path)) else "audio in memory"
        told.check(name, rate, samples_nc.shape[1])
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
    RuntimeError,
)
# What reading a compressed file raises where its bytes are damaged; OSError is the rest.
DAMAGED = (EOFError, zlib.error)
# An hour of words with their times has some 1 MB; a few packed bytes may stand for any length.
_MAX_LINE_BYTES = 64 << 20
_MAX_BYTES = 1 << 30  # of a manifest that is read whole
# Manifests shrink to a tenth or a fiftieth; a file of one repeated byte to a thousandth.
_MAX_YAML_DEPTH = 32
_MAX_EMPTY_LINES = 100_000


@dataclass(frozen=True)
class LeftOut:
    """An item that did not make it into the manifest."""

    id: str
    reason: str
    detail: str


def cuts_path(out: Path, part: str) -> Path:
    return out / f"{part}{MANIFEST_SUFFIX}"


def write_cuts(cuts: Iterable[Cut], path: Path) -> None:
    """Write JSON lines, gzipped where the name ends so; the same cuts give the same bytes.

    Raises:
        InputError: a name by which it would not be read again, or it cannot be written.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path}: a manifest's name ends in .jsonl.gz or .jsonl")
    lines = "".join(json.dumps(cut.to_dict(), ensure_ascii=False) + "\n" for cut in cuts).encode()
    is_packed = path.suffix == ".gz"  # without a time stamp
    write_atomically(path, gzip.compress(lines, compresslevel=6, mtime=0) if is_packed else lines)


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
    """An eager Lhotse manifest (cuts, recordings, supervisions), through the gate.

    Raises:
        InputError: no such file, damaged, or not a manifest of that kind; names the line.
        ForeignSource: an item would run or open something else than audio files.
    """
    items = []
    for where, raw in _raw_items(path):
        try:
            items.append(_parse_item(raw, kind))
        except ForeignSource as error:
            raise ForeignSource(f"{path}: {where}: {error}") from None
        except MALFORMED as error:
            raise InputError(
                f"{path}: {where}: not a manifest of Lhotse {_NAMES[kind]}: {explain_error(error)}"
            ) from None
    return kind.from_items(items)


def read_items(path: Path, kind: type[Manifest], left_out: list[LeftOut]) -> list[Any]:
    """Read the items of a Lhotse manifest. In JSON lines a malformed one costs itself.

    Args:
        left_out: gets the lines that are no such item.

    Raises:
        InputError: no such file, a damaged one, or not one item of that kind in it.
        ForeignSource: as ``read_manifest``.
    """
    if ".jsonl" not in path.suffixes:
        return list(read_manifest(path, kind))
    items: list[Any] = []
    malformed: list[LeftOut] = []
    for where, raw in _raw_items(path):
        try:
            items.append(_parse_item(raw, kind))
        except ForeignSource as error:
            raise ForeignSource(f"{path}, {where}: {error}") from None
        except MALFORMED as error:
            detail = f"{path}, {where}: {explain_error(error)}"
            name = f"{path.name}:{where.removeprefix('line ')}"
            malformed.append(LeftOut(name, "malformed line", detail))
    if malformed and not items:
        raise InputError(
            f"not a manifest of Lhotse {_NAMES[kind]}: all its lines are malformed; "
            f"the first: {malformed[0].detail}"
        )
    left_out += malformed
    return items


def _parse_item(raw: Any, kind: type[Manifest]) -> Any:
    """An item, checked before Lhotse sees it: some of its objects do things when they are made."""
    if isinstance(raw, bytes):
        raw = parse_line(raw)
    else:
        check_values(raw)
    if not isinstance(raw, dict):
        raise InputError(f"holds {type(raw).__name__}")
    check_item(raw)
    item = deserialize_item(raw)
    if not isinstance(item, _ITEMS[kind]):
        raise InputError(f"holds {type(item).__name__}")
    return item


def _raw_items(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, item) of a manifest in any of Lhotse's formats: bytes of a JSON line, or parsed."""
    if not path.is_file():
        there = (
            "a folder, a pipe or a device, not a manifest" if path.exists() else "no such manifest"
        )
        raise InputError(f"{path}: {there}")
    if ".jsonl" in path.suffixes:
        for number, line in enumerate(manifest_lines(path), start=1):
            if line.strip():
                yield f"line {number}", line
        return
    try:
        content = _content(path)
        if ".json" in path.suffixes:
            items = json.loads(content)
        elif ".yaml" in path.suffixes:
            items = _parse_yaml(content)
        else:
            raise ValueError("expected .jsonl, .json or .yaml, each with or without .gz")
        if not isinstance(items, list):
            raise TypeError("expected a list of items")
    except (*MALFORMED, yaml.YAMLError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a manifest of Lhotse's ({explain_error(error)})") from None
    for number, item in enumerate(items, start=1):
        yield f"item {number}", item


def _parse_yaml(content: bytes) -> Any:
    """Yaml without aliases, which let a few lines stand for gigabytes, and not so deep that the reader
    in C runs out of its stack."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first where it was compiled
    depth = 0
    for event in yaml.parse(content, loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"aliases (*{event.anchor}) are refused")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_YAML_DEPTH:
            raise ValueError(f"lists and mappings more than {_MAX_YAML_DEPTH} deep")
    return yaml.load(content, loader)


def _content(path: Path) -> bytes:
    try:
        with _open(path) as file:
            content = file.read(min(_MAX_BYTES, most_unpacked(path)) + 1)
    except (OSError, *DAMAGED) as error:
        raise InputError(f"{path}: cannot be read as a manifest: {_one_line(error)}") from None
    _check_packing(path, len(content))
    if len(content) > _MAX_BYTES:
        raise InputError(f"{path}: has more than {_MAX_BYTES} bytes; write it as .jsonl.gz")
    return content


def _check_packing(path: Path, num_bytes: int) -> None:
    if path.suffix == ".gz" and num_bytes > most_unpacked(path):
        raise InputError(
            f"{path}: unpacks to more than {MOST_PACKED} times its size, which no manifest does"
        )


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def manifest_lines(path: Path) -> Iterator[bytes]:
    """The lines of a manifest, unpacked.

    Raises:
        InputError: it cannot be read, is damaged, or a line has no end; names the line.
    """
    number, num_empty, num_bytes, most_bytes = 0, 0, 0, 0
    try:
        most_bytes = most_unpacked(path)
        with _open(path) as file:
            while line := file.readline(_MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > _MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}: line {number} has more than {_MAX_LINE_BYTES} bytes, which no "
                        "utterance has"
                    )
                num_bytes += len(line)
                num_empty += line.isspace()
                if num_empty > _MAX_EMPTY_LINES:
                    raise InputError(f"{path}: more than {_MAX_EMPTY_LINES} empty lines")
                if num_bytes > most_bytes:
                    _check_packing(path, num_bytes)
                yield line
    except (OSError, *DAMAGED) as error:
        raise InputError(
            f"{path}: cannot be read as a manifest: damaged after line {number}: {_one_line(error)}"
        ) from None


def explain_error(error: Exception) -> str:
    """Kind and message of a library's error, or the message of our own, on one line."""
    if isinstance(error, InputError):
        return _one_line(error)
    return f"{type(error).__name__}: {_one_line(error)}"


def load_waveform(cut: Cut, sample_rate: int) -> np.ndarray:
    """float32 (n,): the cut's audio, channels averaged, resampled to ``sample_rate``.

    Always through Lhotse, so that offsets, other storage and a manifest's own transforms count. Its
    overhead over bare decoding is some 0.4 ms per cut.

    Raises:
        InputError: names the cut, the file and the reason.
    """
    samples_cn = load_samples(cut)
    check_rate(cut.sampling_rate, f"cut {cut.id}")
    return to_mono(samples_cn, cut.sampling_rate, sample_rate)


def load_samples(cut: Cut) -> np.ndarray:
    """float32 (channels, n): the cut's audio at its own rate, out of a shard where it is in one; see
    ``load_waveform``.

    Raises:
        ForeignSource: it would run or open something else than audio files.
        AudioError: its audio cannot be loaded.
    """
    try:
        check_item(cut)
    except ForeignSource:
        raise
    except MALFORMED as error:
        raise AudioError(f"cut {cut.id}: malformed ({explain_error(error)})") from None
    in_memory = fetch_members(cut)
    try:
        expected.told = what_is_told(in_memory)
        samples_cn = in_memory.load_audio()
    except _LOADING_ERRORS as error:
        raise _explain(cut, error) from None
    finally:
        expected.told = NOTHING_TOLD
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
    ImportError,  # for transforms by packages that are not installed
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
    if isinstance(error, AudioError):
        said = " ".join(str(error).partition("[extra info]")[0].split())
        return AudioError(f"cut {cut.id}: {said}", error.reason)
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
