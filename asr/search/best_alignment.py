"""The most likely CTC alignment of known token sequences: when each token begins and ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr.heads.ctc import frames_needed
from asr.search.hypothesis import NBest
from asr.text.tokenizer import BLANK

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Alignment:
    """Attributes:
    first_frames: of each token the first frame that emits it.
    end_frames: of each token the frame after the last one that emits it.
    log_prob: natural-log probability of this one alignment.
    """

    first_frames: tuple[int, ...]
    end_frames: tuple[int, ...]
    log_prob: float


def evenly(num_tokens: int, num_frames: int) -> tuple[int, ...]:
    """Return a frame for each token, spread over all frames."""
    return tuple(place * num_frames // num_tokens for place in range(num_tokens))


def placed(found: NBest, log_probs_btv: Tensor, lens_b: Tensor, blank: int = BLANK) -> NBest:
    """Return hypotheses with the first frames of their tokens, in each one's likeliest alignment.

    Tokens that would need more frames than there are stand evenly spread.
    """
    log_probs = log_probs_btv.detach().to("cpu", torch.float64).numpy()
    lens: list[int] = lens_b.tolist()
    results: NBest = [[] for _ in found]
    for rank in range(max(map(len, found), default=0)):
        ranked = {row: several[rank] for row, several in enumerate(found) if rank < len(several)}
        rows = [row for row, one in ranked.items() if frames_needed(one.tokens) <= lens[row]]
        those = log_probs if len(rows) == len(log_probs) else log_probs[rows]
        tokens_b = [ranked[row].tokens for row in rows]
        aligned = align(those, [lens[row] for row in rows], tokens_b, blank)
        firsts = {row: one.first_frames for row, one in zip(rows, aligned, strict=True)}
        for row, one in ranked.items():
            frames = firsts.get(row) or evenly(len(one.tokens), lens[row])
            results[row].append(dataclasses.replace(one, frames=frames))
    return results


def align(
    log_probs_btv: Floats, lens_b: Sequence[int], tokens_b: Sequence[Sequence[int]], blank: int = 0
) -> list[Alignment]:
    """The alignment of each utterance with the highest probability (Viterbi), all at once.

    Time grows with frames times tokens. Memory grows with tokens times the square root of frames:
    scores are kept at every so many frames only, and between two of these the steps are found again
    on the way back.

    Args:
        log_probs_btv: (batch, frames, tokens), natural-log probabilities; what lies beyond an
            utterance's length is never looked at.
        lens_b: frames of each utterance.
        tokens_b: what is said, without blanks.

    Raises:
        ValueError: fewer frames than the tokens need.
    """
    for row, (tokens, length) in enumerate(zip(tokens_b, lens_b, strict=True)):
        if length < frames_needed(tokens):
            raise ValueError(
                f"{len(tokens)} tokens need {frames_needed(tokens)} frames, there are {length} "
                f"(row {row})"
            )
    num_frames = max(lens_b, default=0)
    if num_frames == 0:
        return [Alignment((), (), 0.0) for _ in lens_b]
    lattice = _Lattice(log_probs_btv, np.asarray(lens_b), tokens_b, blank)
    block = math.isqrt(num_frames - 1) + 1
    starts = range(0, num_frames, block)
    score_bs = lattice.before_first_frame()
    checkpoints = []
    for start in starts:
        checkpoints.append(score_bs)
        score_bs, _ = lattice.run(score_bs, start, min(start + block, num_frames), keep=False)
    state_b, log_prob_b = lattice.best_ends(score_bs)
    states_bt = np.empty((len(lens_b), num_frames), dtype=np.int32)
    rows = np.arange(len(lens_b))
    for start, checkpoint_bs in zip(reversed(starts), reversed(checkpoints), strict=True):
        stop = min(start + block, num_frames)
        _, steps_tbs = lattice.run(checkpoint_bs, start, stop, keep=True)
        for t in range(stop - 1, start - 1, -1):
            states_bt[:, t] = state_b
            state_b = state_b - steps_tbs[t - start, rows, state_b]
    return [
        _alignment(states_bt[row, :length], len(tokens), float(log_prob))
        for row, (tokens, length, log_prob) in enumerate(
            zip(tokens_b, lens_b, log_prob_b, strict=True)
        )
    ]


class _Lattice:
    """States of each utterance: blank, token, blank, token, ..., blank. Odd states emit tokens."""

    def __init__(
        self,
        log_probs_btv: Floats,
        lens_b: NDArray[np.int64],
        tokens_b: Sequence[Sequence[int]],
        blank: int,
    ) -> None:
        num_frames, self._num_tokens = log_probs_btv.shape[1:]
        self._log_probs = log_probs_btv.reshape(-1)
        self._lens_b = lens_b
        self._num_states_b = np.array([2 * len(tokens) + 1 for tokens in tokens_b])
        num_states = int(self._num_states_b.max())
        self._labels_bs = np.full((len(tokens_b), num_states), blank)
        for row, tokens in enumerate(tokens_b):
            self._labels_bs[row, 1 : 2 * len(tokens) : 2] = tokens
        first_b = num_frames * self._num_tokens * np.arange(len(tokens_b))
        self._at_bs = self._labels_bs + first_b[:, None]  # of the labels in the first frames
        # A blank may be skipped between two different tokens; -inf forbids.
        self._skip_bs = np.full((len(tokens_b), num_states), -np.inf)
        differ = self._labels_bs[:, 3::2] != self._labels_bs[:, 1:-2:2]
        self._skip_bs[:, 3::2] = np.where(differ, 0.0, -np.inf)

    def before_first_frame(self) -> NDArray[np.float64]:
        """Return scores as if a state before the first blank could be left for the two first ones."""
        score_bs: NDArray[np.float64] = np.full(self._labels_bs.shape, -np.inf)
        score_bs[:, 0] = 0.0
        return score_bs

    def run(
        self, score_bs: NDArray[np.float64], start: int, stop: int, keep: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
        """(scores after the frames from start to stop, states gone forward in each if kept)."""
        shape = self._labels_bs.shape
        steps_tbs = np.zeros((stop - start if keep else 0, *shape), dtype=np.int8)
        one_bs = np.full(shape, -np.inf)
        two_bs = np.full(shape, -np.inf)
        for t in range(start, stop):
            one_bs[:, 1:] = score_bs[:, :-1]
            two_bs[:, 2:] = score_bs[:, :-2] + self._skip_bs[:, 2:]
            best_bs = np.maximum(score_bs, one_bs)
            running_b1 = (t < self._lens_b)[:, None]
            if keep:
                steps_bs = (one_bs > score_bs).astype(np.int8)
                steps_bs[two_bs > best_bs] = 2
                steps_tbs[t - start] = np.where(running_b1, steps_bs, 0)
            np.maximum(best_bs, two_bs, out=best_bs)
            frame_bs = np.take(self._log_probs, self._at_bs + t * self._num_tokens)
            # An utterance that has ended stays where it is.
            score_bs = np.where(running_b1, best_bs + frame_bs, score_bs)
        return score_bs, steps_tbs

    def best_ends(
        self, score_bs: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(last state, score) of each utterance: its last blank or its last token."""
        rows, last_b = np.arange(len(score_bs)), self._num_states_b - 1
        blank_b = score_bs[rows, last_b]
        token_b = np.where(last_b > 0, score_bs[rows, last_b - 1], -np.inf)
        return np.where(blank_b > token_b, last_b, np.maximum(last_b - 1, 0)), np.maximum(
            blank_b, token_b
        )


def _alignment(states_t: NDArray[np.int32], num_tokens: int, log_prob: float) -> Alignment:
    wanted = 2 * np.arange(num_tokens) + 1
    firsts = np.searchsorted(states_t, wanted, side="left")
    ends = np.searchsorted(states_t, wanted, side="right")
    return Alignment(tuple(firsts.tolist()), tuple(ends.tolist()), log_prob)
