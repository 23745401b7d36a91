"""Linformer (Wang et al. 2020, arXiv 2006.04768, section 4): attention in linear time, because the keys
and values of an utterance are mixed into a fixed number of them."""

from __future__ import annotations

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.errors import InputError


class Linformer(nn.Module):
    """``k' = E k / sqrt(n)`` and ``v' = F v / sqrt(n)`` over an utterance's n frames, E and F trained,
    (length, max_frames) each and the same for all heads (the paper's headwise sharing).

    Frames past an utterance's length enter with nothing, so padding changes nothing, and the division
    keeps the mixtures' size whatever the length.
    """

    def __init__(self, length: int, max_frames: int):
        super().__init__()
        self.mix_k_ls = nn.Parameter(torch.randn(length, max_frames))
        self.mix_v_ls = nn.Parameter(torch.randn(length, max_frames))

    def forward(self, k_bhsd: Tensor, v_bhsd: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Mask]:
        """(b, h, length, d) keys and values, all of them visible to every existing query.

        Raises:
            InputError: an utterance has more frames than the model was made for.
        """
        num_frames, max_frames = k_bhsd.shape[2], self.mix_k_ls.shape[1]
        if num_frames > max_frames:
            raise InputError(
                f"an utterance of {num_frames} frames: this model's attention was made for at most "
                f"attention.linformer_frames = {max_frames}"
            )
        lens_b = mask.key_lens
        if lens_b is None:
            lens_b = torch.full((len(k_bhsd),), num_frames, device=k_bhsd.device)
        exist_bs = torch.arange(num_frames, device=k_bhsd.device) < lens_b[:, None]
        share_bs = exist_bs / lens_b.clamp(min=1).float().sqrt()[:, None]
        mixed = (
            (mix_ls[:, :num_frames] * share_bs[:, None].to(x_bhsd.dtype))[:, None]
            @ torch.where(exist_bs[:, None, :, None], x_bhsd, 0.0)
            for mix_ls, x_bhsd in ((self.mix_k_ls, k_bhsd), (self.mix_v_ls, v_bhsd))
        )
        k_bhld, v_bhld = mixed
        return k_bhld, v_bhld, Mask(query_lens=mask.query_lens)
