"""The Conformer's layer (Gulati et al. 2020, arXiv 2005.08100), its convolution normalised per frame
so that neither padding nor the rest of the batch can change an utterance's result."""

from __future__ import annotations

from torch import Tensor, nn

from asr.config import EncoderConfig
from asr.nn.depthwise import DepthwiseConv
from asr.nn.dropout import Dropout
from asr.nn.frames import Frames
from asr.nn.modules import NORMS, Around, FeedForward, Layer, SelfAttention, convolve


class Convolution(nn.Module):
    """Gated pointwise, depthwise over time, norm per frame, SiLU, pointwise.

    ``causal``: a frame sees itself and the ``kernel - 1`` frames before; else as many on both sides.
    """

    def __init__(self, dim: int, kernel: int, norm: str, dropout: float, causal: bool = False):
        super().__init__()
        self.causal = causal
        self.widen = nn.Linear(dim, 2 * dim)
        self.depthwise = DepthwiseConv(dim, kernel)
        self.depthwise_norm = NORMS[norm](dim)
        self.narrow = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        x_btd = nn.functional.glu(self.widen(x_btd), dim=-1)
        x_btd = convolve(self.depthwise, x_btd, frames, self.causal)
        x_btd = nn.functional.silu(self.depthwise_norm(x_btd))
        return self.dropout(self.narrow(x_btd))


class ConformerLayer(Layer):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm."""

    ends_in_norm = True

    def __init__(self, config: EncoderConfig, attention: SelfAttention, around: Around):
        super().__init__()
        dim, ff_dim, dropout = config.dim, config.ff_dim, config.dropout
        convolution = Convolution(dim, config.conv_kernel, config.conv_norm, dropout, config.causal)
        self.ff_before = around(FeedForward(dim, ff_dim, dropout, config.activation), 0.5)
        self.attention = around(attention, 1.0)
        self.convolution = around(convolution, 1.0)
        self.ff_after = around(FeedForward(dim, ff_dim, dropout, config.activation), 0.5)
        # a post-norm layer has one there already
        self.norm = nn.LayerNorm(dim) if config.norm == "pre" else nn.Identity()

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        for module in (self.ff_before, self.attention, self.convolution, self.ff_after):
            x_btd = module(x_btd, frames)
        return self.norm(x_btd)
