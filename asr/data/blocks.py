"""Audio of any length in blocks: mono float32 at the model's rate, in memory that does not grow.

What cannot be read is noted as a gap. All that lies before it is delivered, and what lies after it
where the file is read through PyAV, which can find its way back. Only where nothing at all can be read
is there an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from lhotse.cut import Cut

from asr.data.audio import (
    MP3_TOLERANCE_SAMPLES,
    SOUNDFILE_ERRORS,
    AudioError,
    check_container,
    check_rate,
    reason_of,
    soundfile_name,
    track_rate,
    use_pyav,
)
from asr.data.gaps import Gap, note_gap
from asr.data.manifest import load_waveform
from asr.data.media import PyavPieces, track_duration_s

BLOCK_S = 10.0
# What is decoded at once: the calls take 0.01 % of the sound's time, and so much may be lost at damage.
_PIECE_S = 0.25
# What libsndfile says of a FLAC whose header does not tell its length, as of one written to a pipe.
_UNKNOWN_FRAMES = (1 << 63) - 1
# Containers count encoder padding or round, and a track may end before them.
_DURATION_TOLERANCE_S = 0.5
BAD_SAMPLES = "NaN, infinite or absurd samples"
# Sound is between -1 and 1, or between -32768 and 32767; energies of far more overflow.
_LOUDEST = 1e6


@dataclass
class _Opened:
    """A file that decodes.

    Attributes:
        promised: samples that the header announces, 0 where it does not.
        tolerance: as many may be missing without a word.
        notes: what turned out to be wrong, filled while ``pieces_nc`` are read.
    """

    rate: int
    promised: int
    tolerance: int
    pieces_nc: Iterator[np.ndarray]
    notes: list[str]


def read_blocks(
    path: Path, sample_rate: int, gaps: list[Gap], channel: int | None = None
) -> Iterator[np.ndarray]:
    """float32 (n,) blocks of a file, one after the other, at ``sample_rate``.

    Args:
        gaps: what cannot be read is appended here while the blocks come.
        channel: the one to take, from 0; None is the mean of all.

    Raises:
        AudioError: missing, unreadable, without samples or without such a channel.
    """
    notes: list[str] = []
    try:
        check_container(path)
    except AudioError as error:
        if error.reason != "truncated audio":
            raise
        notes.append(str(error))
    opened = _open(path, notes, gaps)
    num_read = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_read
        for block_nc in _in_blocks(opened.pieces_nc, opened.rate):
            num_read += len(block_nc)
            yield block_nc

    yield from convert(counted(), opened.rate, sample_rate, gaps, channel, str(path))
    is_short = num_read < opened.promised - opened.tolerance
    if is_short:
        notes.append(
            f"{path}: truncated: the header promises {opened.promised} samples, "
            f"{num_read} can be decoded"
        )
    if num_read == 0:
        raise AudioError(notes[0] if notes else f"{path}: no audio: zero samples", "empty audio")
    if notes:
        end = opened.promised / opened.rate if is_short else None
        gaps.append(Gap(num_read / opened.rate, end, notes[0]))


def read_cut_blocks(cut: Cut, sample_rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
    """As ``read_blocks``, of a Lhotse cut and through Lhotse: the cut itself says its channels.

    Raises:
        InputError: names the cut, the file and the reason.
    """

    def pieces() -> Iterator[np.ndarray]:
        start_s = 0.0
        while start_s < cut.duration:
            length_s = min(BLOCK_S, cut.duration - start_s)
            whole = length_s == cut.duration
            piece = cut if whole else cut.truncate(offset=start_s, duration=length_s)
            yield load_waveform(piece, cut.sampling_rate)[:, None]
            start_s += BLOCK_S

    yield from convert(pieces(), cut.sampling_rate, sample_rate, gaps, None, f"cut {cut.id}")


def convert(
    blocks_nc: Iterable[np.ndarray],
    source_rate: int,
    sample_rate: int,
    gaps: list[Gap],
    channel: int | None = None,
    where: str = "array",
) -> Iterator[np.ndarray]:
    """Blocks (n, channels) at ``source_rate`` to mono float32 (m,) at ``sample_rate``; see
    ``Converter``."""
    converter = Converter(source_rate, sample_rate, gaps, channel, where)
    for block_nc in blocks_nc:
        yield converter.push(block_nc)
    rest_m = converter.finish()
    if len(rest_m):
        yield rest_m


class Converter:
    """Blocks (n, channels) at one rate to mono float32 (m,) at another, as they come.

    NaN and infinite samples become silence and a gap. Samples beyond 1 are left as they are.
    """

    def __init__(
        self,
        source_rate: int,
        sample_rate: int,
        gaps: list[Gap],
        channel: int | None = None,
        where: str = "array",
    ):
        """
        Args:
            gaps: bad samples are appended here while the blocks come.
            channel: the one to take, from 0; None is the mean of all.
            where: what error messages call the input.

        Raises:
            AudioError: an absurd rate.
        """
        check_rate(source_rate, where)
        self._rate, self._gaps, self._channel, self._where = source_rate, gaps, channel, where
        # soxr's state is float32 as its input; equal rates need none
        self._resampler = (
            None if source_rate == sample_rate else soxr.ResampleStream(source_rate, sample_rate, 1)
        )
        self._num_samples, self._num_bad = 0, 0

    def push(self, block_nc: np.ndarray) -> np.ndarray:
        """(m,) what these samples complete; a resampler holds some back.

        Raises:
            AudioError: no such channel.
        """
        chosen_n = _choose(block_nc, self._channel, self._where)
        mono_n = np.ascontiguousarray(chosen_n, dtype=np.float32)
        bad_n = ~(np.abs(mono_n) <= _LOUDEST)  # true of NaN too
        if bad_n.any():
            mono_n = np.where(bad_n, np.float32(0), mono_n)
            self._num_bad += int(bad_n.sum())
            _note_bad(bad_n, self._num_samples, self._rate, self._gaps)
        self._num_samples += len(mono_n)
        return mono_n if self._resampler is None else self._resampler.resample_chunk(mono_n)

    def finish(self) -> np.ndarray:
        """(m,) what was held back.

        Raises:
            AudioError: no sample was finite.
        """
        if self._num_samples and self._num_bad == self._num_samples:
            raise AudioError(f"{self._where}: {BAD_SAMPLES} only", BAD_SAMPLES)
        nothing_n = np.zeros(0, np.float32)
        if self._resampler is None:
            return nothing_n
        return self._resampler.resample_chunk(nothing_n, last=True)


def resampling_delay_s(source_rate: int, sample_rate: int) -> float:
    """How long ``Converter`` holds a sample back at most, measured."""
    if source_rate == sample_rate:
        return 0.0
    resampler = soxr.ResampleStream(source_rate, sample_rate, 1)
    block_n = np.zeros(-(-source_rate // 100), np.float32)
    delays_s, num_out = [], 0
    for number in range(1, 201):
        num_out += len(resampler.resample_chunk(block_n))
        delays_s.append(number * len(block_n) / source_rate - num_out / sample_rate)
    return max(delays_s)


def _choose(block_nc: np.ndarray, channel: int | None, where: str) -> np.ndarray:
    num_channels = block_nc.shape[1]
    if channel is not None and not 0 <= channel < num_channels:
        raise AudioError(
            f"{where}: no channel {channel + 1}: choose from 1 to {num_channels}", "no such channel"
        )
    if channel is not None or num_channels == 1:
        return block_nc[:, channel or 0]
    with np.errstate(invalid="ignore", over="ignore"):
        return block_nc.mean(axis=1)


def _note_bad(bad_n: np.ndarray, at: int, rate: int, gaps: list[Gap]) -> None:
    """Append the spans of bad samples of one block, joined to what came shortly before."""
    edges = np.flatnonzero(np.diff(bad_n, prepend=False, append=False)).reshape(-1, 2)
    for first, end in (edges + at) / rate:
        note_gap(Gap(float(first), float(end), BAD_SAMPLES), gaps)


def _open(path: Path, notes: list[str], gaps: list[Gap]) -> _Opened:
    try:
        file = soundfile.SoundFile(soundfile_name(path))
    except SOUNDFILE_ERRORS as error:
        use_pyav(path, error)
        return _open_with_pyav(path, gaps, notes)
    tolerance = MP3_TOLERANCE_SAMPLES if file.format == "MP3" else 0
    pieces_nc = _soundfile_pieces(file, path, notes)
    promised = 0 if file.frames == _UNKNOWN_FRAMES else file.frames
    return _Opened(file.samplerate, promised, tolerance, pieces_nc, notes)


def _soundfile_pieces(
    file: soundfile.SoundFile, path: Path, notes: list[str]
) -> Iterator[np.ndarray]:
    """Short ones: of that in which decoding fails nothing is delivered."""
    with file:
        num_frames = max(1, int(_PIECE_S * file.samplerate))
        while True:
            try:
                piece_nc = file.read(num_frames, dtype="float32", always_2d=True)
            except SOUNDFILE_ERRORS as error:
                notes.append(f"{path}: damaged: decoding fails ({reason_of(error)})")
                return
            if not len(piece_nc):
                return
            yield piece_nc


def _in_blocks(pieces_nc: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same samples, at least ``BLOCK_S`` of them at a time, but for the last."""
    pending: list[np.ndarray] = []
    num_pending = 0
    for piece_nc in pieces_nc:
        pending.append(piece_nc)
        num_pending += len(piece_nc)
        if num_pending >= BLOCK_S * rate:
            yield np.concatenate(pending)
            pending, num_pending = [], 0
    if pending:
        yield np.concatenate(pending)


def _open_with_pyav(path: Path, gaps: list[Gap], notes: list[str]) -> _Opened:
    import av

    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, EOFError) as error:
        raise AudioError(
            f"{path}: not an audio file that can be read ({reason_of(error)})"
        ) from None
    try:
        rate = track_rate(container, path)
    except AudioError:
        container.close()
        raise
    tolerance, promised = int(_DURATION_TOLERANCE_S * rate), int(track_duration_s(container) * rate)
    pieces_nc = PyavPieces(container, rate, path, gaps, notes)
    return _Opened(rate, promised, tolerance, iter(pieces_nc), notes)
