"""Long audio as overlapping windows whose frames fall on one grid, and which frames each gives.

A window starts at a multiple of the encoder's frame, so its frames are frames of the whole input. Of
an overlap the earlier window gives the first half and the later one the second: every frame is taken
once, from a window in which it has company on both sides, wherever the input has any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asr.errors import InputError
from asr.search.options_checks import number

# Longer than any input: a window of more is one of all.
_LONGEST_S = 1e9


@dataclass(frozen=True)
class Window:
    """Samples to compute at once.

    Attributes:
        samples_n: float32.
        first_frame: number of its first frame in the input.
        keep_first: the first of the window's own frames that is taken.
        num_kept: how many are taken; None is all that follow.
        ends_span: no frame of a following window continues this one's.
    """

    samples_n: np.ndarray
    first_frame: int
    keep_first: int
    num_kept: int | None
    ends_span: bool


@dataclass(frozen=True)
class Grid:
    """Sizes of windows, in frames of the encoder.

    Attributes:
        frame_samples: samples from one frame to the next.
        window, overlap: frames; the overlap is even.
    """

    frame_samples: int
    window: int
    overlap: int


def make_grid(frame_samples: int, sample_rate: int, window_s: float, overlap_s: float) -> Grid:
    """
    Raises:
        InputError: an overlap of more than half a window, a window below one frame, or no numbers.
    """
    window_s, overlap_s = (
        max(-_LONGEST_S, min(number(name, value), _LONGEST_S))
        for name, value in (("window_s", window_s), ("overlap_s", overlap_s))
    )
    window = round(window_s * sample_rate / frame_samples)
    overlap = 2 * round(overlap_s * sample_rate / frame_samples / 2)
    if not 0 <= 2 * overlap <= window or window < 1:
        raise InputError(
            f"window of {window_s:g} s, overlap of {overlap_s:g} s: the overlap must be at most half "
            f"of the window, and the window at least {frame_samples / sample_rate:g} s"
        )
    return Grid(frame_samples, window, overlap)


class WindowCutter:
    """Cuts one span of samples, pushed in blocks of any size, into windows.

    The last window is moved back so that it is as long as the others, if the span is.
    """

    def __init__(self, grid: Grid, first_frame: int = 0):
        """
        Args:
            first_frame: where the span begins in the input.
        """
        self._grid = grid
        self._span_start = first_frame
        # joined where a window needs them: joined with each push, long windows took quadratic time
        self._held = [np.zeros(0, np.float32)]
        self._num_held = 0
        self._held_start = (
            0  # frame of the first held sample; this and the next two within the span
        )
        self._next_start = 0
        self._next_kept = 0

    def push(self, samples_n: np.ndarray) -> list[Window]:
        """The windows that these samples complete."""
        self._held.append(samples_n)
        self._num_held += len(samples_n)
        grid, windows = self._grid, []
        # at least one sample more than a window: this one cannot be the last
        while self._num_samples_from(self._next_start) > grid.window * grid.frame_samples:
            keep_end = self._next_start + grid.window - grid.overlap // 2
            windows.append(self._window(self._next_start, grid.window, keep_end))
            # the last window may start anywhere after this one
            self._drop_before(self._next_start)
            self._next_kept = keep_end
            self._next_start += grid.window - grid.overlap
        return windows

    def finish(self) -> list[Window]:
        """The last window; none where there were no samples."""
        total = self._held_start * self._grid.frame_samples + self._num_held
        if total == 0:
            return []
        whole = self._grid.window * self._grid.frame_samples
        start = max(0, -(-(total - whole) // self._grid.frame_samples))
        return [self._window(start, None, None)]

    def _num_samples_from(self, frame: int) -> int:
        return self._num_held - (frame - self._held_start) * self._grid.frame_samples

    def _drop_before(self, frame: int) -> None:
        held_n = self._joined()[(frame - self._held_start) * self._grid.frame_samples :]
        self._held, self._num_held, self._held_start = [held_n], len(held_n), frame

    def _joined(self) -> np.ndarray:
        self._held = [np.concatenate(self._held)]
        return self._held[0]

    def _window(self, start: int, num_frames: int | None, keep_end: int | None) -> Window:
        first = (start - self._held_start) * self._grid.frame_samples
        end = None if num_frames is None else first + num_frames * self._grid.frame_samples
        return Window(
            samples_n=self._joined()[first:end].copy(),
            first_frame=self._span_start + start,
            keep_first=self._next_kept - start,
            num_kept=None if keep_end is None else keep_end - self._next_kept,
            ends_span=keep_end is None,
        )
