"""Hypotheses, and the checks that every search makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreParts:
    """Parts of the score of a search with a language model or two heads, before weights.

    Attributes:
        acoustic: natural-log probability of the tokens, summed over alignments.
        lm: natural-log probability of the words and the end of the sentence.
        num_words, num_unknown: words, and those among them that the language model does not know.
        hotwords: sum of the bonuses.
        neural: natural-log probability by the neural language model; 0 where none was asked.
        ctc, decoder: natural-log probabilities by each of two heads, whose mixture is ``acoustic``;
            None where a search asks one head alone.
    """

    acoustic: float
    lm: float
    num_words: int
    num_unknown: int
    hotwords: float
    neural: float = 0.0
    ctc: float | None = None
    decoder: float | None = None


@dataclass(frozen=True)
class Hypothesis:
    """One candidate transcript of one utterance.

    Attributes:
        tokens: token ids, without blanks.
        score: natural-log probability, or a weighted sum of them; of what, the search says.
        frames: for each token the first frame that emits it, in the most likely alignment; none where
            the model has no head that places tokens.
        parts: what the score is made of, where text or a second head has a say in it.
        stopped: why the search ended it, where the decoder did not; empty where it did.
    """

    tokens: tuple[int, ...]
    score: float
    frames: tuple[int, ...]
    parts: ScoreParts | None = None
    stopped: str = ""


NBest = list[list[Hypothesis]]
"""Per utterance its hypotheses, best first, never none."""

Run = Callable[[Tensor, Tensor], NBest]
"""A search: (frames_btx, lens_b) -> hypotheses."""


def check_log_probs(log_probs_btv: Tensor, lens_b: Tensor, blank: int) -> None:
    """Refuse what would decode to nonsense without a sound.

    Raises:
        ValueError: wrong shapes, a length outside [0, T], a blank outside [0, V), or a NaN within
            an utterance (beyond its length anything may stand).
    """
    if log_probs_btv.dim() != 3 or lens_b.shape != log_probs_btv.shape[:1]:
        raise ValueError(
            f"log_probs_btv {tuple(log_probs_btv.shape)} and lens_b {tuple(lens_b.shape)}: "
            f"expected (batch, frames, tokens) and (batch,)"
        )
    _, num_frames, num_tokens = log_probs_btv.shape
    if not 0 <= blank < num_tokens:
        raise ValueError(f"blank = {blank}: must be a token, from 0 to {num_tokens - 1}")
    if ((lens_b < 0) | (lens_b > num_frames)).any():
        raise ValueError(f"lens_b {lens_b.tolist()}: every length must be from 0 to {num_frames}")
    nan_b = rows_with_nan(log_probs_btv, lens_b)
    if nan_b.any():
        rows = ", ".join(str(row) for row in nan_b.nonzero().flatten().tolist())
        raise ValueError(f"log_probs_btv holds NaN in row {rows}")


def rows_with_nan(log_probs_btv: Tensor, lens_b: Tensor) -> Tensor:
    """Boolean (batch): True for each utterance with a NaN within its length."""
    return (log_probs_btv.isnan().any(dim=2) & valid_frames(log_probs_btv, lens_b)).any(dim=1)


def valid_frames(log_probs_btv: Tensor, lens_b: Tensor) -> Tensor:
    """Boolean (batch, frames): True within each utterance's length."""
    frame_t = torch.arange(log_probs_btv.shape[1], device=log_probs_btv.device)
    return frame_t[None, :] < lens_b.to(log_probs_btv.device)[:, None]
