"""Places of a decoder's tokens by its cross-attention, for models without a head that places them.

A head of cross-attention that follows the speech looks, for each token, at frames behind those of the
token before. How well one does is what the best strictly increasing path through its weights is worth,
so heads that look at one place all the time are worth little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr.heads.attention_decoder import EDGE, AttentionDecoder
from asr.nn.frames import Source
from asr.search.best_alignment import Alignment, align, evenly
from asr.search.words import Spans

# Heads whose weights are added up, of all layers: those that follow the speech best.
NUM_HEADS = 3
_LEAST = 1e-6


@torch.no_grad()
def cross_spans(head: AttentionDecoder, frames_sd: Tensor, tokens: Sequence[int]) -> Spans:
    """Return where a decoder finds the tokens of a transcript, and the log-probability of each.

    A token ends with the frame that it was found at.

    Args:
        frames_sd: of the head.
    """
    num_frames, num = len(frames_sd), len(tokens)
    if not num:
        return Spans((), (), ())
    device = head.decoder.embedding.weight.device
    given_1u = torch.tensor([[EDGE, *tokens[:-1]]], device=device)
    source = Source(frames_sd[None].to(device), torch.tensor([num_frames], device=device))
    logits_1uv, weights_1hus = head.decoder.with_weights(given_1u, source)
    said_uv = logits_1uv[0].double().log_softmax(-1)
    log_probs = said_uv[torch.arange(num), torch.tensor(tokens, device=device)].tolist()
    if num > num_frames:
        firsts = evenly(num, num_frames)
    else:
        firsts = _path(weights_1hus[0].double().cpu())
    return Spans(firsts, tuple(first + 1 for first in firsts), tuple(log_probs))


def _path(weights_hus: Tensor) -> tuple[int, ...]:
    """Return a frame for each token, strictly increasing: the best through the best heads' weights."""
    share_hus = weights_hus / weights_hus.sum(-1, keepdim=True).clamp(min=_LEAST)
    worth = [one.log_prob for one in _increasing(share_hus)]
    best = np.argsort(worth)[::-1][:NUM_HEADS].copy()
    (found,) = _increasing(share_hus[best].mean(0, keepdim=True))
    return found.first_frames


def _increasing(share_hus: Tensor) -> list[Alignment]:
    """Return each head's likeliest path: that of CTC whose blanks cost nothing, with a token for each
    place in the transcript."""
    num_heads, num, num_frames = share_hus.shape
    log_hsu = share_hus.clamp(min=_LEAST).log().transpose(1, 2)
    with_blank_hsv = torch.nn.functional.pad(log_hsu, (1, 0)).numpy()
    places = list(range(1, num + 1))
    return align(with_blank_hsv, [num_frames] * num_heads, [places] * num_heads)
