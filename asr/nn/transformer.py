"""Transformer encoder layer, pre-norm (Xiong et al. 2020, arXiv 2002.04745)."""

from __future__ import annotations

from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.nn.attention import MultiHeadAttention
from asr.nn.conformer import FeedForward
from asr.nn.dropout import Dropout


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward."""

    def __init__(self, attention: MultiHeadAttention, dim: int, ff_dim: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.attention_dropout = Dropout(dropout)
        self.ff = FeedForward(dim, ff_dim, dropout)

    def forward(self, x_btd: Tensor, mask: Mask, frames_bt: Tensor) -> Tensor:
        attended_btd = self.attention(self.attention_norm(x_btd), mask)
        x_btd = x_btd + self.attention_dropout(attended_btd)
        return x_btd + self.ff(x_btd)
