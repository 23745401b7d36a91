"""The most likely CTC alignment of a known token sequence: when each token begins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def first_frames(
    log_probs_tv: NDArray[np.float64], tokens: Sequence[int], blank: int = 0
) -> tuple[int, ...]:
    """First frame of each token in the alignment with the highest probability (Viterbi).

    Time and memory grow with frames times tokens: for utterances and windows, not for hours.

    Args:
        log_probs_tv: (frames, tokens), natural-log probabilities.
        tokens: what is said, without blanks.

    Raises:
        ValueError: fewer frames than the tokens need (one each, and a blank between repeats).
    """
    needed = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
    num_frames = len(log_probs_tv)
    if num_frames < needed:
        raise ValueError(f"{len(tokens)} tokens need {needed} frames, there are {num_frames}")
    if not tokens:
        return ()
    # States: blank, token, blank, token, ..., blank. Odd states emit.
    labels_s = np.full(2 * len(tokens) + 1, blank)
    labels_s[1::2] = tokens
    # A blank may be skipped between two different tokens.
    may_skip_s = np.zeros(len(labels_s), dtype=bool)
    may_skip_s[3::2] = labels_s[3::2] != labels_s[1:-2:2]

    score_s = np.full(len(labels_s), -np.inf)
    score_s[:2] = log_probs_tv[0, labels_s[:2]]
    steps_ts = np.zeros((num_frames, len(labels_s)), dtype=np.int8)
    for t in range(1, num_frames):
        arrivals = np.full((3, len(labels_s)), -np.inf)
        arrivals[0] = score_s
        arrivals[1, 1:] = score_s[:-1]
        arrivals[2, 2:] = np.where(may_skip_s[2:], score_s[:-2], -np.inf)
        steps_ts[t] = arrivals.argmax(axis=0)
        score_s = arrivals.max(axis=0) + log_probs_tv[t, labels_s]

    state = len(labels_s) - 1 if score_s[-1] > score_s[-2] else len(labels_s) - 2
    frames = [0] * len(tokens)
    for t in range(num_frames - 1, -1, -1):
        if state % 2:
            frames[state // 2] = t
        state -= int(steps_ts[t, state])
    return tuple(frames)
