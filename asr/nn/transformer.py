"""Transformer encoder layer (Vaswani et al. 2017, arXiv 1706.03762)."""

from __future__ import annotations

from torch import Tensor, nn

from asr.nn.conformer import Around, FeedForward, SelfAttention
from asr.nn.frames import Frames


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward."""

    def __init__(self, attention: SelfAttention, ff: FeedForward, around: Around):
        super().__init__()
        self.attention = around(attention, 1.0)
        self.ff = around(ff, 1.0)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        return self.ff(self.attention(x_btd, frames), frames)
