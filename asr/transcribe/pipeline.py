"""Sources made into transcripts: windows of all files in batches by length, frames back in order.

One pass of the device computes features and model. What is held at any time is a pool of windows,
and per unfinished file half a minute of frames and the words found so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from asr.data.audio.gaps import Gap, Remark
from asr.data.batches import sorted_batches
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.transcribe.assemble import Assembler, Reader
from asr.transcribe.pieces import LONGEST_S
from asr.transcribe.result import Segment, Transcript
from asr.transcribe.sources import Source
from asr.transcribe.speech import SpeechFinder, SpeechPart, Vad
from asr.transcribe.usual_settings import each_in_usual_settings, usual_settings
from asr.transcribe.windows import Grid, Window, WindowCutter

Progress = Callable[[float], object]
"""Is told how many seconds of sound were computed since the last time."""

# Windows to choose batches from, in batches: the more, the less padding and the more memory.
_BATCHES_IN_POOL = 4


@dataclass(frozen=True)
class Failure:
    """Why a source gave nothing."""

    error: InputError


@dataclass(frozen=True)
class Outcome:
    """The end of a source: a transcript or a failure."""

    source: Source
    result: Transcript | Failure


class Pipeline:
    """Transcribes any number of sources with one model."""

    def __init__(
        self,
        net: Recogniser,
        reader: Reader,
        grid: Grid,
        sample_rate: int,
        max_batch_s: float,
        in_bf16: bool = False,
        vad: Vad | None = None,
    ):
        """
        Args:
            max_batch_s: padded seconds that the model computes at once.
            in_bf16: matrix products in bfloat16; features and log-softmax never are.
            vad: leaves out what it hears no speech in; None: nothing is left out.
        """
        self._net = net
        self._reader = reader
        self._grid = grid
        self._rate = sample_rate
        self._max_batch_s = max_batch_s
        self._device = net.device
        self._in_bf16 = in_bf16
        self._vad = vad

    def run(self, sources: Iterable[Source], progress: Progress | None = None) -> Iterator[Outcome]:
        """Yield what becomes of each source, in their order, as soon as it is known.

        Raises:
            InputError: the model's outputs are NaN, whatever the source.
        """
        jobs: deque[_Job] = deque()
        pool: list[_Task] = []
        pooled_s = 0.0
        for source in sources:
            job = _Job(source, self._reader, self._grid, self._rate, self._vad)
            jobs.append(job)
            for task in each_in_usual_settings(job.tasks()):
                pool.append(task)
                pooled_s += len(task.window.samples_n) / self._rate
                if pooled_s >= _BATCHES_IN_POOL * self._max_batch_s:
                    self._compute(pool, progress)
                    pool, pooled_s = [], 0.0
                    yield from _finished(jobs)
        self._compute(pool, progress)
        yield from _finished(jobs)

    def _compute(self, pool: list[_Task], progress: Progress | None) -> None:
        with usual_settings():
            self._compute_batches(pool, progress)

    def _compute_batches(self, pool: list[_Task], progress: Progress | None) -> None:
        pool = [task for task in pool if task.job.error is None]
        durations_s = np.array([len(task.window.samples_n) / self._rate for task in pool])
        for indices in sorted_batches(durations_s, self._max_batch_s):
            batch = [pool[index] for index in indices]
            num_frames = 0
            for task, frames_tx in zip(batch, self._frames(batch), strict=True):
                task.job.take(task, frames_tx)
                num_frames += len(frames_tx)
            if progress is not None:
                progress(num_frames * self._reader.frame_s)

    @torch.inference_mode()
    def _frames(self, batch: list[_Task]) -> list[np.ndarray]:
        """The frames (frames, channels) of each window that are taken."""
        lens_b = torch.tensor([len(task.window.samples_n) for task in batch])
        wave_bn = torch.zeros(len(batch), int(lens_b.max()), dtype=torch.float32)
        for row_n, task in zip(wave_bn, batch, strict=True):
            row_n[: len(task.window.samples_n)] = torch.from_numpy(task.window.samples_n)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._in_bf16):
            frames_btx, lens_b = self._net(
                wave_bn.to(self._device), lens_b.to(self._device), head=self._reader.search.head
            )
        frames = frames_btx.cpu().numpy()
        return [
            # a copy: a view would keep the whole batch
            frames[row, task.window.keep_first : num_frames][: task.window.num_kept].copy()
            for row, (task, num_frames) in enumerate(zip(batch, lens_b.tolist(), strict=True))
        ]


@dataclass(frozen=True)
class _Task:
    """A window of a source and its number there."""

    job: _Job
    number: int
    window: Window


class _Job:
    """A source on its way: reads it, and puts the frames of its windows in order."""

    def __init__(
        self,
        source: Source,
        reader: Reader,
        grid: Grid,
        sample_rate: int,
        vad: Vad | None,
    ):
        self.source = source
        self.error: InputError | None = None
        self._assembler = Assembler(reader)
        self._grid = grid
        self._rate = sample_rate
        self._gaps: list[Gap] = []
        self._is_cut_blindly = vad is None and reader.search.aligner is None
        self._speech = None if vad is None else SpeechFinder(vad, grid, sample_rate, self._gaps)
        self._num_samples = 0
        self._num_windows: int | None = None  # until the source was read to its end
        self._num_taken = 0
        self._waiting: dict[int, tuple[Window, np.ndarray]] = {}

    def tasks(self) -> Iterator[_Task]:
        """The windows of the source; an error ends them and stays in ``error``."""
        number = 0
        try:
            for window in self._windows():
                yield _Task(self, number, window)
                number += 1
        except InputError as error:
            self.error = error
        except OSError as error:  # the storage's, in the middle of a file
            self.error = InputError(f"{self.source.name}: cannot be read: {error.strerror}")
        self._num_windows = number

    def _windows(self) -> Iterator[Window]:
        if self._speech is not None:
            yield from self._windows_of_speech(self._speech)
            return
        cutter = WindowCutter(self._grid)
        for block_n in self._blocks():
            yield from cutter.push(block_n)
        yield from cutter.finish()

    def _windows_of_speech(self, speech: SpeechFinder) -> Iterator[Window]:
        """Each stretch of speech is cut for itself."""
        cutter: WindowCutter | None = None
        for part in self._parts(speech):
            cutter = cutter or WindowCutter(self._grid, part.first_frame)
            yield from cutter.push(part.samples_n)
            if part.ends:
                yield from cutter.finish()
                cutter = None

    def _parts(self, speech: SpeechFinder) -> Iterator[SpeechPart]:
        for block_n in self._blocks():
            yield from speech.push(block_n)
        yield from speech.finish()

    def _blocks(self) -> Iterator[np.ndarray]:
        for block_n in self.source.open(self._rate, self._gaps):
            self._num_samples += len(block_n)
            yield block_n

    def take(self, task: _Task, frames_tx: np.ndarray) -> None:
        """Frames of a window, which go on as soon as all before them have."""
        self._waiting[task.number] = task.window, frames_tx
        while self._num_taken in self._waiting:
            window, frames_tx = self._waiting.pop(self._num_taken)
            first_frame = window.first_frame + window.keep_first
            self._assembler.push(first_frame, frames_tx, window.ends_span)
            self._num_taken += 1

    @property
    def is_finished(self) -> bool:
        return self.error is not None or self._num_windows == self._num_taken

    def outcome(self) -> Outcome:
        if self.error is not None:
            return Outcome(self.source, Failure(self.error))
        duration_s = self._num_samples / self._rate
        segments = self._assembler.segments(duration_s)
        text = " ".join(segment.text for segment in segments)
        remarks = (gap for gap in self._gaps if isinstance(gap, Remark))
        gaps = (gap for gap in self._gaps if not isinstance(gap, Remark))
        transcript = Transcript(
            self.source.name,
            text,
            segments,
            duration_s,
            tuple(sorted(gaps, key=lambda gap: gap.start_s)),
            self.source.channel,
            (*(remark.reason for remark in remarks), *self._cuts(duration_s), *_doubts(segments)),
        )
        return Outcome(self.source, transcript)

    def _cuts(self, duration_s: float) -> Iterator[str]:
        """Yield a note where the sound had to be cut blindly."""
        if self._is_cut_blindly and duration_s > LONGEST_S:
            yield (
                f"cut every {LONGEST_S:g} s, perhaps within words: no head of this model says where "
                "they end; voice activity (--vad) cuts at silences"
            )


def _doubts(segments: Iterable[Segment]) -> Iterator[str]:
    """Yield the notes of segments."""
    for one in segments:
        if one.note:
            yield (
                f"words from {one.start_s:.2f} s to {one.end_s:.2f} s are doubtful: the search had to "
                f"end their transcript: {one.note}"
            )


def _finished(jobs: deque[_Job]) -> Iterator[Outcome]:
    while jobs and jobs[0].is_finished:
        yield jobs.popleft().outcome()
