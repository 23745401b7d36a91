"""Connectionist temporal classification (Graves et al. 2006): each frame is a token or the blank."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asr.config import CtcConfig
from asr.heads.base import Head
from asr.text.tokenizer import BLANK


class Ctc(Head):
    """A linear layer and a softmax; frames are log-probabilities (b, t, v), blank at 0.

    The loss is that of the last layer, mixed with those of ``ctc.intermediate_layers`` through the same
    weights (Lee and Watanabe 2021, arXiv 2102.03216, equation 9, several layers averaged). With
    ``ctc.consistency`` above 0 it is the mean over two augmented views, and how far they disagree is
    added (CR-CTC: Yao et al. 2024, arXiv 2410.05101).
    """

    def __init__(self, config: CtcConfig, dim: int, vocab_size: int):
        super().__init__()
        self.linear = nn.Linear(dim, vocab_size)
        self.layers = tuple(config.intermediate_layers)
        self.num_views = 2 if config.consistency else 1
        self.num_channels = vocab_size
        self._weight = config.weight
        self._between, self._consistency = config.intermediate_weight, config.consistency

    def frames(self, encoded_btd: Tensor) -> Tensor:
        """Return log-probabilities (b, t, v), in float32 at least: autocast gives a bfloat16 product."""
        logits_btv = self.linear(encoded_btd)
        return logits_btv.log_softmax(
            -1, dtype=torch.promote_types(logits_btv.dtype, torch.float32)
        )

    def loss_of_frames(
        self, frames_btx: Tensor, lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
    ) -> Tensor:
        """Return minus the log-probability (b) of each transcript.

        Infinite where a transcript does not fit into its frames; training skips those beforehand.
        """
        return nn.functional.ctc_loss(
            frames_btx.transpose(0, 1),
            tokens_bu,
            lens_b,
            token_lens_b,
            blank=BLANK,
            reduction="none",
        )

    def loss(
        self,
        outputs: Sequence[Tensor],
        lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
    ) -> Tensor:
        frames = [self.frames(encoded_btd) for encoded_btd in outputs]
        *between_b, loss_b = (
            self.loss_of_frames(frames_btx, lens_b, tokens_bu, token_lens_b)
            for frames_btx in frames
        )
        if between_b:
            loss_b = torch.lerp(loss_b, torch.stack(between_b).mean(0), self._between)
        if self.num_views == 1:
            return self._weight * loss_b
        first_btv, second_btv = frames[-1].chunk(2)
        pulled_b = consistency(first_btv, second_btv, lens_b.chunk(2)[0])
        loss_b = loss_b.unflatten(0, (2, -1)).mean(0)
        return self._weight * (loss_b + self._consistency * pulled_b)

    @staticmethod
    def frames_needed(tokens: Sequence[Any]) -> int:
        """One for each token, and a blank between equal neighbours."""
        return frames_needed(tokens)

    def labels(self, frames_tx: NDArray[np.floating]) -> NDArray[np.int64]:
        return frames_tx.argmax(axis=1)


def frames_needed(tokens: Sequence[Any]) -> int:
    """Return the fewest frames for these tokens: one each, and a blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


def consistency(first_btv: Tensor, second_btv: Tensor, lens_b: Tensor) -> Tensor:
    """Return half the sum of ``KL(sg(z2) || z1) + KL(sg(z1) || z2)`` over each utterance's frames (b).

    CR-CTC, equations 3 and 4: each view learns from the other, which stands still (sg: no gradient).

    Args:
        first_btv, second_btv: log-probabilities of the two views.
        lens_b: frames of each utterance; the rest does not count.
    """
    pulled_btv = _terms(second_btv, first_btv) + _terms(first_btv, second_btv)
    frames_bt = torch.arange(first_btv.shape[1], device=lens_b.device) < lens_b[:, None]
    return 0.5 * torch.where(frames_bt, pulled_btv.sum(-1), 0.0).sum(-1)


def _terms(target_btv: Tensor, log_probs_btv: Tensor) -> Tensor:
    """p (log p - log q), p standing still."""
    target_btv = target_btv.detach()
    return target_btv.exp() * (target_btv - log_probs_btv)
