"""Conformer layer (Gulati et al. 2020, arXiv 2005.08100), pre-norm, its convolution normalised per
frame so that neither padding nor the rest of the batch can change an utterance's result."""

from __future__ import annotations

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.nn.attention import MultiHeadAttention
from asr.nn.dropout import Dropout

NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class FeedForward(nn.Sequential):
    """norm, widen, SiLU, narrow."""

    def __init__(self, dim: int, ff_dim: int, dropout: float):
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, ff_dim),
            nn.SiLU(),
            Dropout(dropout),
            nn.Linear(ff_dim, dim),
            Dropout(dropout),
        )


class Convolution(nn.Module):
    """norm, gated pointwise, depthwise over time, norm per frame, SiLU, pointwise."""

    def __init__(self, dim: int, kernel: int, norm: str, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * dim)
        # two-dimensional with a height of 1: PyTorch's CPU kernel is three times as fast that way
        self.depthwise = nn.Conv2d(dim, dim, (1, kernel), padding=(0, kernel // 2), groups=dim)
        self.depthwise_norm = NORMS[norm](dim)
        self.narrow = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames_bt: Tensor) -> Tensor:
        x_btd = nn.functional.glu(self.widen(self.norm(x_btd)), dim=-1)
        x_btd = torch.where(frames_bt[..., None], x_btd, 0.0)
        x_btd = self.depthwise(x_btd.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        x_btd = nn.functional.silu(self.depthwise_norm(x_btd))
        return self.dropout(self.narrow(x_btd))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm."""

    def __init__(
        self,
        attention: MultiHeadAttention,
        dim: int,
        ff_dim: int,
        conv_kernel: int,
        conv_norm: str,
        dropout: float,
    ):
        super().__init__()
        self.ff_before = FeedForward(dim, ff_dim, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.attention_dropout = Dropout(dropout)
        self.convolution = Convolution(dim, conv_kernel, conv_norm, dropout)
        self.ff_after = FeedForward(dim, ff_dim, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_btd: Tensor, mask: Mask, frames_bt: Tensor) -> Tensor:
        x_btd = x_btd + 0.5 * self.ff_before(x_btd)
        attended_btd = self.attention(self.attention_norm(x_btd), mask)
        x_btd = x_btd + self.attention_dropout(attended_btd)
        x_btd = x_btd + self.convolution(x_btd, frames_bt)
        x_btd = x_btd + 0.5 * self.ff_after(x_btd)
        return self.norm(x_btd)
