"""Transformer encoder layer (Vaswani et al. 2017, arXiv 1706.03762)."""

from __future__ import annotations

from torch import Tensor

from asr.config import EncoderConfig
from asr.nn.frames import Frames
from asr.nn.modules import Around, FeedForward, Layer, SelfAttention


class TransformerLayer(Layer):
    """Attention, then a feed-forward."""

    def __init__(self, config: EncoderConfig, attention: SelfAttention, around: Around):
        super().__init__()
        self.attention = around(attention, 1.0)
        self.ff = around(
            FeedForward(config.dim, config.ff_dim, config.dropout, config.activation), 1.0
        )

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        return self.ff(self.attention(x_btd, frames), frames)
