"""Best-path CTC decoding: the likeliest token of each frame, repeats merged, blanks removed."""

from __future__ import annotations

import torch
from torch import Tensor

from asr.search.hypothesis import Hypothesis, check_log_probs, valid_frames


def greedy(log_probs_btv: Tensor, lens_b: Tensor, blank: int = 0) -> list[Hypothesis]:
    """The most likely single alignment of each utterance (Graves et al. 2006, section 3.2).

    Args:
        log_probs_btv: (batch, frames, tokens), normalised natural-log probabilities.
        lens_b: (batch,), frames of each utterance; what lies beyond is never looked at.
        blank: id of CTC's blank.

    Returns:
        One hypothesis per utterance; its score is the log-probability of that one alignment, a
        lower bound of the transcript's.

    Raises:
        ValueError: see ``check_log_probs``.
    """
    check_log_probs(log_probs_btv, lens_b, blank)
    batch_size, num_frames, _ = log_probs_btv.shape
    if batch_size == 0 or num_frames == 0:
        return [Hypothesis((), 0.0, ()) for _ in range(batch_size)]
    best_bt, token_bt = log_probs_btv.max(dim=2)
    valid_bt = valid_frames(log_probs_btv, lens_b)
    score_b = torch.where(valid_bt, best_bt.double(), 0.0).sum(dim=1).tolist()

    begins_bt = torch.ones_like(valid_bt)
    begins_bt[:, 1:] = token_bt[:, 1:] != token_bt[:, :-1]
    emits_bt = begins_bt & (token_bt != blank) & valid_bt
    num_emitted_b = emits_bt.sum(dim=1).tolist()
    tokens = token_bt[emits_bt].split(num_emitted_b)
    frames = emits_bt.nonzero()[:, 1].split(num_emitted_b)
    return [
        Hypothesis(tuple(token.tolist()), score, tuple(frame.tolist()))
        for token, score, frame in zip(tokens, score_b, frames, strict=True)
    ]
