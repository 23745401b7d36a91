"""Any number of frames as pieces that a search takes whole: cut at pauses, between two words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from asr.search.units import Units
from asr.text.tokenizer import BLANK

# No word has such a pause in it, even where no token says that it ended: a model of characters that
# was trained on single sentences writes no space after the last word of one.
PAUSE_S = 0.6
# Search and its results need memory: what has no pause is cut at the longest one it has.
LONGEST_S = 30.0


class Labelled(Protocol):
    """Labels of frames (frames, channels) by their most likely tokens, -1 where that cannot be said: a
    head, a search."""

    @property
    def num_channels(self) -> int: ...

    def labels(self, frames_tx: NDArray[np.float32]) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Piece:
    """Frames of a head (frames, channels), and the number of the first frame in the input."""

    first_frame: int
    frames_tx: np.ndarray


class PieceCutter:
    """Cutter of frames in order into pieces; it holds ``LONGEST_S`` of them at most.

    Cuts are where the likeliest path has no letters for ``PAUSE_S``, and never between two frames of
    one token (unless it lasts for ``LONGEST_S``), so greedy search finds the same tokens in the whole
    and in the pieces. In what blocks the frames come makes no difference.
    """

    def __init__(self, labelled: Labelled, units: Units, frame_s: float):
        self._labels = labelled.labels
        self._spells_v = np.array([bool(letters) for letters in units.letters_v])
        self._spells_v[BLANK] = False
        self._pause = max(1, round(PAUSE_S / frame_s))
        self._longest = round(LONGEST_S / frame_s)
        self._first_frame = 0
        self._held_tx = np.zeros((0, labelled.num_channels), np.float32)
        self._path_t = np.zeros(0, np.int64)

    def push(self, first_frame: int, frames_tx: np.ndarray) -> list[Piece]:
        """The pieces that end within these frames, which follow the last ones or a flush."""
        if not len(self._path_t):
            self._first_frame = first_frame
        assert first_frame == self._first_frame + len(self._path_t)
        self._held_tx = np.concatenate([self._held_tx, frames_tx])
        self._path_t = np.concatenate([self._path_t, self._labels(frames_tx)])
        pieces = []
        while (cut := self._find_cut()) is not None:
            pieces.append(self._take(cut))
        return pieces

    @property
    def held(self) -> Piece:
        """Frames that are in no piece yet."""
        return Piece(self._first_frame, self._held_tx)

    def flush(self) -> list[Piece]:
        """All that is left."""
        return [self._take(len(self._path_t))] if len(self._path_t) else []

    def _take(self, end: int) -> Piece:
        piece = Piece(self._first_frame, self._held_tx[:end])
        self._first_frame += end
        self._held_tx, self._path_t = self._held_tx[end:], self._path_t[end:]
        return piece

    def _find_cut(self) -> int | None:
        """The frame before which to cut next: it depends on the frames alone, not on how many are
        held, as long as it is among them."""
        path_t = self._path_t[: self._longest]
        quiet_t = ~self._spells_v[path_t] & (path_t >= 0)
        edges = np.flatnonzero(np.diff(quiet_t, prepend=False, append=False)).reshape(-1, 2)
        pauses = [(begin, end) for begin, end in edges.tolist() if begin > 0]
        for begin, end in pauses:
            if end - begin >= self._pause:
                return self._between_tokens(begin, begin + self._pause // 2)
        if len(self._path_t) <= self._longest:
            return None
        if pauses:
            begin, end = max(pauses, key=lambda pause: pause[1] - pause[0])
            return self._between_tokens(begin, (begin + end) // 2)
        # silence, or a model that never pauses
        return self._between_tokens(1, self._longest - 1)

    def _between_tokens(self, first: int, last: int) -> int:
        """The last of these frames that repeats no token, lest one counts twice; else ``last``."""
        path_t = self._path_t[first - 1 : last + 1]
        begins = np.flatnonzero((path_t[1:] != path_t[:-1]) | (path_t[1:] == BLANK))
        return first + int(begins[-1]) if len(begins) else last
