"""Speech in long audio: stretches of it, cut at silences, and gaps between them.

A stretch ends at any long silence, and once half a window long at any short one, so that most fit into
one window. What is a long one can be chosen: a model of short utterances reads them best one by one.
Nothing is decided with the future in hand: what is held is one silence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from asr.data.audio.gaps import Gap
from asr.errors import InputError
from asr.transcribe.voice_activity import FRAME_SAMPLES, RATE, ActivityStream, VoiceActivity
from asr.transcribe.windows import Grid

NO_SPEECH = "no speech"

# Probabilities from which speech begins, and below which it ends.
_BEGINS, _ENDS = 0.5, 0.35
_FRAME_S = FRAME_SAMPLES / RATE
_SHORT_SILENCE_S, LONG_SILENCE_S = 0.5, 2.0
# Words have shorter ones in them, before a plosive for one.
_LEAST_SILENCE_S = 0.2


@dataclass(frozen=True)
class Vad:
    """Settings by which speech is told from silence.

    Attributes:
        silence_s: a silence as long as this ends any stretch of speech.
    """

    activity: VoiceActivity
    silence_s: float = LONG_SILENCE_S

    def __post_init__(self) -> None:
        if not self.silence_s >= _LEAST_SILENCE_S:
            raise InputError(
                f"a silence of {self.silence_s:g} s to end speech: words have such in them; "
                f"give {_LEAST_SILENCE_S:g} s or more"
            )

    @property
    def short_silence_s(self) -> float:
        """Ends a stretch of at least half a window."""
        return min(self.silence_s, _SHORT_SILENCE_S)

    @property
    def pad_s(self) -> float:
        """Kept of the silence on both sides of speech, whose first and last sounds are the quietest: at
        most half of the shortest silence, or stretches would overlap."""
        return self.short_silence_s / 2


@dataclass(frozen=True)
class SpeechPart:
    """Samples of a stretch of speech, which follow those of the part before.

    Attributes:
        first_frame: the encoder frame with which the stretch begins.
        ends: whether it is the last part of the stretch.
    """

    first_frame: int
    samples_n: np.ndarray
    ends: bool


class _Held:
    """Samples in the blocks in which they came, so that each is copied only when it is taken.

    Attributes:
        start, end: numbers of the first held sample and of the one that comes next.
    """

    def __init__(self) -> None:
        self._blocks: deque[np.ndarray] = deque()
        self.start = self.end = 0

    def push(self, samples_n: np.ndarray) -> None:
        self._blocks.append(samples_n)
        self.end += len(samples_n)

    def take_until(self, sample: int) -> list[np.ndarray]:
        """The blocks before a sample, which are no longer held."""
        taken = []
        while self.start < min(sample, self.end):
            block_n = self._blocks.popleft()
            taken.append(block_n[: sample - self.start])
            self.start += len(taken[-1])
            if len(taken[-1]) < len(block_n):
                self._blocks.appendleft(block_n[len(taken[-1]) :])
        return taken


class SpeechFinder:
    """Finder of the samples with speech, in order; every other sample is in a gap.

    Stretches begin and end with frames of the encoder.
    """

    def __init__(self, vad: Vad, grid: Grid, sample_rate: int, gaps: list[Gap]):
        """
        Args:
            gaps: stretches without speech are appended here.
        """
        self._vad = vad
        self._activity = ActivityStream(vad.activity, sample_rate)
        self._frame_samples, self._rate = grid.frame_samples, sample_rate
        self._half_window_s = grid.window * grid.frame_samples / sample_rate / 2
        self._gaps = gaps
        self._held = _Held()
        self._num_known = 0  # frames of the network
        self._is_speech = False
        self._speech_end_s = 0.0
        self._start: int | None = None  # first frame of the stretch, while there is one
        self._end = 0  # frame after the last stretch

    def push(self, samples_n: np.ndarray) -> list[SpeechPart]:
        """Return what is known to be in a stretch of speech by now."""
        self._held.push(samples_n)
        parts = self._follow(self._activity.push(samples_n))
        if self._start is None:
            frame = self._frame(self._known_s - self._vad.pad_s)
            self._held.take_until(frame * self._frame_samples)
        else:
            sure = self._padded_end * self._frame_samples
            parts.append(SpeechPart(self._start, self._take_until(sure), False))
        return parts

    def finish(self) -> list[SpeechPart]:
        """The rest. The input has ended."""
        parts = self._follow(self._activity.finish())
        total = self._held.end
        end = self._end * self._frame_samples
        if self._start is not None:
            end = min(total, self._padded_end * self._frame_samples)
            parts.append(SpeechPart(self._start, self._take_until(end), True))
        self._note_gap(end, total)
        return parts

    def _follow(self, speech_t: np.ndarray) -> list[SpeechPart]:
        """The stretches that end within these frames of the network."""
        parts = []
        for probability in speech_t.tolist():
            start_s = self._known_s
            self._num_known += 1
            self._is_speech = probability >= (_ENDS if self._is_speech else _BEGINS)
            if self._is_speech:
                self._speech_end_s = self._known_s
                if self._start is None:
                    self._begin(self._frame(start_s - self._vad.pad_s))
            elif self._start is not None and self._is_long_enough(self._start):
                self._end = self._padded_end
                rest_n = self._take_until(self._end * self._frame_samples)
                parts.append(SpeechPart(self._start, rest_n, True))
                self._start = None
        return parts

    def _is_long_enough(self, start: int) -> bool:
        """The silence, for the stretch to end with it."""
        length_s = self._speech_end_s - start * self._frame_samples / self._rate
        is_short = length_s < self._half_window_s
        needed_s = self._vad.silence_s if is_short else self._vad.short_silence_s
        return self._known_s - self._speech_end_s >= needed_s

    def _begin(self, frame: int) -> None:
        self._note_gap(self._end * self._frame_samples, frame * self._frame_samples)
        self._held.take_until(frame * self._frame_samples)
        self._start = frame

    @property
    def _known_s(self) -> float:
        """Seconds until which activity is known."""
        return self._num_known * _FRAME_S

    @property
    def _padded_end(self) -> int:
        """The frame after the speech so far."""
        return self._frame(self._speech_end_s + self._vad.pad_s)

    def _frame(self, time_s: float) -> int:
        """The frame of the encoder at this time."""
        return max(0, int(time_s * self._rate / self._frame_samples))

    def _note_gap(self, first: int, end: int) -> None:
        if end > first:
            self._gaps.append(Gap(first / self._rate, end / self._rate, NO_SPEECH))

    def _take_until(self, sample: int) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.float32), *self._held.take_until(sample)])
