"""Audio files to mono float samples, with every way a file can be bad told in one line.

soundfile reads WAV, FLAC, Ogg, Opus and MP3. What it cannot read (M4A, WebM, video) goes through
PyAV where the extra ``media`` is installed.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from asr.errors import InputError

# Files that only PyAV can open: the hint to install it is given for these.
MEDIA_EXTENSIONS = frozenset(
    {".m4a", ".m4b", ".mp4", ".m4v", ".aac", ".webm", ".mkv", ".mka", ".mov", ".avi", ".wma"}
    | {".wmv", ".flv", ".3gp", ".amr", ".ac3"}
)

# Files that count as audio when a folder is searched for it.
CORPUS_EXTENSIONS = MEDIA_EXTENSIONS | {
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"),
    *(".w64", ".rf64", ".sph"),
}

# The length in an MP3 header counts encoder delay and padding, at most some four frames of 1152.
MP3_TOLERANCE_SAMPLES = 4 * 1152
# The second where soundfile cannot even read libsndfile's complaint, which cites the file's bytes.
SOUNDFILE_ERRORS = (soundfile.LibsndfileError, UnicodeDecodeError)
# One step of 16 bits to either side.
_SILENT_SPAN = 2.0**-14
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
# Numbers that are decoded at once, all channels together: 16 MB.
_BLOCK_VALUES = 1 << 22
# Writers to a pipe cannot know the length and leave 0 or a huge number in a WAV header.
_WAV_UNKNOWN_BYTES = 0x7FFF0000
_WAV_TOLERANCE_BYTES = 64
# An Ogg page is at most 27 + 255 + 255 * 255 bytes long.
_OGG_MAX_PAGE_BYTES = 65307


class AudioError(InputError):
    """A file that cannot be used as audio; ``reason`` is the short category reports count by."""

    def __init__(self, message: str, reason: str = "unreadable audio") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class AudioInfo:
    """``silent``: see ``is_silent``; never where samples were not looked at."""

    num_samples: int
    sample_rate: int
    num_channels: int
    silent: bool = False


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16000) -> np.ndarray:
    """The whole file as float32 (n,): channels averaged, resampled to ``sample_rate``.

    Raises:
        AudioError: missing, unreadable, truncated, without samples, with NaN or infinite ones.
    """
    samples_nc, source_rate = decode(path)
    return to_mono(samples_nc.T, source_rate, sample_rate)


def probe(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """(num_samples, sample_rate, num_channels) from the header; only PyAV's formats are decoded.

    Raises:
        AudioError: as ``read_audio``, as far as the header tells.
    """
    path = Path(path)
    check_container(path)
    try:
        # not soundfile.info(), which fails on a header with text in it that is not UTF-8
        with soundfile.SoundFile(soundfile_name(path)) as file:
            num_samples, rate, num_channels = file.frames, file.samplerate, file.channels
    except SOUNDFILE_ERRORS as error:
        use_pyav(path, error)
        samples_nc, rate = _decode_with_pyav(path)
        num_samples, num_channels = samples_nc.shape
    if num_samples == 0:
        raise AudioError(f"{path}: no audio: zero samples", "empty audio")
    check_rate(rate, path)
    return num_samples, rate, num_channels


def check_audio(path: str | os.PathLike[str]) -> AudioInfo:
    """Decode everything and throw the samples away: what a header cannot tell.

    Raises:
        AudioError: as ``read_audio``.
    """
    path = Path(path)
    num_samples = num_channels = 0
    lowest, highest = np.inf, -np.inf
    blocks_nc, rate = _open_blocks(path)
    for block_nc in blocks_nc:
        check_finite(block_nc, path)
        lowest, highest = min(lowest, block_nc.min()), max(highest, block_nc.max())
        num_samples, num_channels = num_samples + block_nc.shape[0], block_nc.shape[1]
    return AudioInfo(num_samples, rate, num_channels, is_silent(lowest, highest))


def is_silent(lowest: float, highest: float) -> bool:
    """Whether samples between these are silence: 16-bit zero, at most with its dither and an offset."""
    return bool(highest - lowest <= _SILENT_SPAN)


def decode(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """float32 (num_samples, num_channels) in [-1, 1] and the file's own sample rate.

    Raises:
        AudioError: as ``read_audio``.
    """
    path = Path(path)
    stream_nc, rate = _open_blocks(path)
    blocks_nc = list(stream_nc)
    samples_nc = blocks_nc[0] if len(blocks_nc) == 1 else np.concatenate(blocks_nc)
    check_finite(samples_nc, path)
    return samples_nc, rate


def _open_blocks(path: Path) -> tuple[Iterator[np.ndarray], int]:
    """Blocks of float32 (n, channels), at least one of them and none empty, and their rate.

    A header may promise any number of samples: memory is taken for those that come.
    """
    check_container(path)
    try:
        file = soundfile.SoundFile(soundfile_name(path))
    except SOUNDFILE_ERRORS as error:
        use_pyav(path, error)
        samples_nc, rate = _decode_with_pyav(path)
        check_rate(rate, path)
        return iter([samples_nc]), rate
    check_rate(file.samplerate, path)
    return _read_blocks(file, path), file.samplerate


def _read_blocks(file: soundfile.SoundFile, path: Path) -> Iterator[np.ndarray]:
    block_frames, num_read = max(1, _BLOCK_VALUES // file.channels), 0
    tolerance = MP3_TOLERANCE_SAMPLES if file.format == "MP3" else 0
    with file:
        promised = file.frames
        while True:
            try:
                block_nc = file.read(block_frames, dtype="float32", always_2d=True)
            except SOUNDFILE_ERRORS as error:
                # The header was fine, so this is an audio file whose data end early or are damaged.
                raise AudioError(
                    f"{path}: truncated or damaged: the header promises {promised} samples, "
                    f"decoding fails ({reason_of(error)})",
                    "truncated audio",
                ) from None
            num_read += len(block_nc)
            if len(block_nc):
                yield block_nc
            if len(block_nc) < block_frames:
                break
    if num_read < promised - tolerance:
        raise AudioError(
            f"{path}: truncated: the header promises {promised} samples, {num_read} can be decoded",
            "truncated audio",
        )
    if num_read == 0:
        raise AudioError(f"{path}: no audio: zero samples", "empty audio")


def check_rate(rate: int, where: object) -> None:
    """AudioError for a rate that only a damaged header has: resampling would ask for any memory."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{where}: {rate} samples per second, which cannot be right")


def check_finite(samples: np.ndarray, where: object) -> None:
    """Raise AudioError where ``samples`` holds NaN or infinity."""
    # The sum is NaN or infinite if any sample is, and costs a fraction of isfinite().
    with np.errstate(invalid="ignore"):
        total = np.sum(samples, dtype=np.float64)
    if not np.isfinite(total):
        raise AudioError(f"{where}: NaN or infinite samples", "NaN or infinite samples")


def to_mono(samples_cn: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """float (channels, n) at ``source_rate`` to contiguous float32 (m,) at ``sample_rate``."""
    mono = samples_cn[0] if samples_cn.shape[0] == 1 else samples_cn.mean(axis=0)
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    if source_rate == sample_rate:
        return mono
    return np.asarray(soxr.resample(mono, source_rate, sample_rate), dtype=np.float32)


def soundfile_name(path: Path) -> str | bytes:
    """For soundfile, which cannot spell a name that is not UTF-8 but takes its bytes."""
    return str(path) if sys.platform == "win32" else os.fsencode(path)


def check_container(path: Path) -> None:
    """What soundfile says unclearly or not at all: no such file, no bytes, a missing tail."""
    try:
        if path.is_dir():
            raise AudioError(f"{path}: a folder, not an audio file")
        with open(path, "rb") as file:
            head = file.read(12)
            if not head:
                raise AudioError(f"{path}: the file is empty (0 bytes)", "empty audio")
            if head[:4] == b"RIFF" and head[8:] == b"WAVE":
                _check_wav_tail(file, path)
            elif head[:4] == b"OggS":
                _check_ogg_tail(file, path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file", "missing audio") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from None


def _check_wav_tail(file: BinaryIO, path: Path) -> None:
    """libsndfile silently shortens a WAV whose data chunk is cut off."""
    num_bytes = file.seek(0, os.SEEK_END)
    position = 12
    while position + 8 <= num_bytes:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        position += 8
        if name == b"data":
            missing = position + size - num_bytes
            if size < _WAV_UNKNOWN_BYTES and missing > _WAV_TOLERANCE_BYTES:
                raise AudioError(
                    f"{path}: truncated: the header promises {size} bytes of audio, "
                    f"{missing} are missing",
                    "truncated audio",
                )
            return
        position += size + size % 2


def _check_ogg_tail(file: BinaryIO, path: Path) -> None:
    """A finished Ogg stream (Vorbis, Opus) marks its last page; without it the tail is missing."""
    num_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, num_bytes - _OGG_MAX_PAGE_BYTES))
    tail = file.read()
    start = tail.rfind(b"OggS")
    header = tail[start : start + 27] if start >= 0 else b""
    complete = len(header) == 27 and bool(header[5] & 0x04)
    if complete:
        segments = tail[start + 27 : start + 27 + header[26]]
        complete = len(segments) == header[26] and len(tail) >= start + 27 + len(segments) + sum(
            segments
        )
    if not complete:
        raise AudioError(f"{path}: truncated: the Ogg stream has no last page", "truncated audio")


def use_pyav(path: Path, error: Exception) -> bool:
    """True if PyAV may try; AudioError if it may not."""
    if importlib.util.find_spec("av") is not None:
        return True
    if path.suffix.lower() in MEDIA_EXTENSIONS:
        raise AudioError(
            f"{path}: reading {path.suffix} needs PyAV: pip install sigmoid-asr[media]"
        ) from None
    raise AudioError(f"{path}: not an audio file that can be read ({reason_of(error)})") from None


def _decode_with_pyav(path: Path) -> tuple[np.ndarray, int]:
    import av

    blocks_nc: list[np.ndarray] = []
    rate = 0
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            rate = track_rate(container, path)
            stream = container.streams.audio[0]
            resampler = packed_floats(stream, rate)
            for frame in itertools.chain(container.decode(stream), [None]):
                blocks_nc += [frame_samples(block) for block in resampler.resample(frame)]
    except (av.FFmpegError, EOFError) as error:
        raise AudioError(
            f"{path}: not an audio file that can be read ({reason_of(error)})"
        ) from None
    if not blocks_nc:
        raise AudioError(f"{path}: no audio: zero samples", "empty audio")
    return np.concatenate(blocks_nc).astype(np.float32, copy=False), rate


def packed_floats(stream: Any, rate: int) -> Any:
    """PyAV's resampler to float samples of one plane: with a plane per channel it reads memory that is
    not its own from the ninth channel on.
    """
    import av

    return av.AudioResampler(format="flt", layout=stream.layout, rate=rate)


def frame_samples(frame: Any) -> np.ndarray:
    """(n, channels) of what ``packed_floats`` gives."""
    samples_nc: np.ndarray = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    return samples_nc


def track_rate(container: Any, path: Path) -> int:
    """Samples per second of the first audio track that PyAV found.

    Raises:
        AudioError: none, or no decoder for it.
    """
    if not container.streams.audio:
        raise AudioError(f"{path}: has no audio track", "empty audio")
    codec = container.streams.audio[0].codec_context
    if codec is None or not codec.sample_rate:
        raise AudioError(f"{path}: its audio track cannot be decoded")
    return int(codec.sample_rate)


def reason_of(error: Exception) -> str:
    """What a library says is wrong, on one line."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
