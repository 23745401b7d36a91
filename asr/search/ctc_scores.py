"""The log-probability that CTC gives to known transcripts, summed over all their alignments.

Shapes: b utterance, n transcript, u token, t frame, v vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from asr.nn.frames import frame_mask
from asr.text.tokenizer import BLANK

# Numbers of float64 end at e^-708: above this, what lies below that is none of the first 16 digits.
LEAST = -600.0


def ctc_scores(
    log_probs_btv: Tensor, lens_b: Tensor, tokens_nu: Tensor, token_lens_n: Tensor
) -> Tensor:
    """Return the log-probability (n, float64, on the CPU) of each transcript.

    This is minus ``torch.nn.functional.ctc_loss``, three times as fast: the forward variables of Graves
    et al. (2006), equations 6 and 7, are no logarithms where the transcript is likely enough for that.

    Args:
        tokens_nu: as many transcripts for each utterance, one utterance's after the other's, padded with
            any tokens.
    """
    log_probs = log_probs_btv.detach().to("cpu", torch.float64)
    lens, labels_nu, num_n = (one.to("cpu") for one in (lens_b, tokens_nu, token_lens_n))
    width = len(labels_nu) // len(lens)
    score_n = _scores(log_probs, lens, labels_nu, num_n)
    if (rest := (score_n < LEAST).nonzero().squeeze(1)).numel():
        row_n = rest // width
        score_n[rest] = -nn.functional.ctc_loss(
            log_probs[row_n].transpose(0, 1),
            labels_nu[rest],
            lens[row_n],
            num_n[rest],
            blank=BLANK,
            reduction="none",
        )
    return score_n


def _scores(log_probs_btv: Tensor, lens_b: Tensor, labels_nu: Tensor, num_n: Tensor) -> Tensor:
    size = len(lens_b)
    labels_nu = labels_nu.where(frame_mask(num_n, labels_nu.shape[1]), BLANK)
    labels_nu = nn.functional.pad(labels_nu, (0, 1))  # one place at least
    first_b1 = log_probs_btv.shape[2] * torch.arange(size)[:, None]
    at_bk = (labels_nu.view(size, -1) + first_b1).numpy()  # of the labels, counted through all rows
    # a blank may be left out between two different tokens
    skips_nu = (labels_nu[:, 1:] != labels_nu[:, :-1]).double()
    skips_bwu = skips_nu.view(size, -1, skips_nu.shape[1]).numpy()
    # frames that do not exist say blank: whoever has ended stays there
    exist_bt = frame_mask(lens_b, log_probs_btv.shape[1])
    probs_btv = log_probs_btv.exp().where(exist_bt[..., None], 0.0)
    probs_btv[..., BLANK] += ~exist_bt
    # of alignments that end in each token, and in the blank before it; the first frame comes from
    # before the first blank
    token_bwu = np.zeros((size, len(labels_nu) // size, labels_nu.shape[1]))
    blank_bwu = np.pad(token_bwu, ((0, 0), (0, 0), (0, 1)))
    blank_bwu[..., 0] = 1.0
    for probs_bv in probs_btv.transpose(0, 1).contiguous().numpy():
        later_bwu = token_bwu + blank_bwu[..., :-1]
        later_bwu[..., 1:] += skips_bwu * token_bwu[..., :-1]
        later_bwu *= np.take(probs_bv, at_bk).reshape(later_bwu.shape)
        blank_bwu[..., 1:] += token_bwu
        blank_bwu *= probs_bv[:, BLANK, None, None]
        token_bwu = later_bwu
    last_bw1 = num_n.view(size, -1, 1).numpy()
    before_bwu = np.pad(token_bwu, ((0, 0), (0, 0), (1, 0)))  # token before each blank
    total_bw1 = np.take_along_axis(blank_bwu + before_bwu, last_bw1, 2)
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(total_bw1).reshape(-1))
