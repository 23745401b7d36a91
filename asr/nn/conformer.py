"""The Conformer's modules (Gulati et al. 2020, arXiv 2005.08100), its convolution normalised per frame
so that neither padding nor the rest of the batch can change an utterance's result."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from asr.nn.attention import MultiHeadAttention
from asr.nn.depthwise import DepthwiseConv
from asr.nn.dropout import Dropout
from asr.nn.frames import Frames
from asr.nn.residual import PreNorm

NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}

Around = Callable[[nn.Module, float], PreNorm]
"""(module, its weight in the sum) -> the module with residual connection and norm."""


class FeedForward(nn.Module):
    """Widen, SiLU, narrow."""

    def __init__(self, dim: int, ff_dim: int, dropout: float):
        super().__init__()
        self.widen = nn.Linear(dim, ff_dim)
        self.narrow = nn.Linear(ff_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        wide_btf = self.dropout(nn.functional.silu(self.widen(x_btd)))
        return self.dropout(self.narrow(wide_btf))


class SelfAttention(nn.Module):
    """Attention among the frames of each utterance."""

    def __init__(self, attention: MultiHeadAttention, dropout: float):
        super().__init__()
        self.attention = attention
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        return self.dropout(self.attention(x_btd, frames.mask, frames.memory))


class Convolution(nn.Module):
    """Gated pointwise, depthwise over time, norm per frame, SiLU, pointwise.

    ``causal``: a frame sees itself and the ``kernel - 1`` frames before; else as many on both sides.
    """

    def __init__(self, dim: int, kernel: int, norm: str, dropout: float, causal: bool = False):
        super().__init__()
        self.left = kernel - 1 if causal else 0
        self.widen = nn.Linear(dim, 2 * dim)
        self.depthwise = DepthwiseConv(dim, kernel)
        self.depthwise_norm = NORMS[norm](dim)
        self.narrow = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        x_btd = nn.functional.glu(self.widen(x_btd), dim=-1)
        # a product is five times as fast as a choice on a CPU; what is not there is finite
        x_btd = x_btd * frames.exist_bt[..., None]
        x_bdt, num_frames = x_btd.transpose(1, 2), x_btd.shape[1]
        if self.left:
            x_bdt = frames.with_past(self, x_bdt, self.left)
        y_bdt = self.depthwise(x_bdt.unsqueeze(2)).squeeze(2)
        if self.left:
            # the kernel is centred: half of the frames before have been its middle
            y_bdt = y_bdt.narrow(2, self.left // 2, num_frames)
        x_btd = y_bdt.transpose(1, 2)
        x_btd = nn.functional.silu(self.depthwise_norm(x_btd))
        return self.dropout(self.narrow(x_btd))


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm."""

    def __init__(
        self,
        attention: SelfAttention,
        convolution: Convolution,
        ff_before: FeedForward,
        ff_after: FeedForward,
        around: Around,
        norm: nn.Module,
    ):
        """
        Args:
            around: puts residual connection and norm around each module.
            norm: after the last module; a post-norm layer has one there already.
        """
        super().__init__()
        self.ff_before = around(ff_before, 0.5)
        self.attention = around(attention, 1.0)
        self.convolution = around(convolution, 1.0)
        self.ff_after = around(ff_after, 0.5)
        self.norm = norm

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        for module in (self.ff_before, self.attention, self.convolution, self.ff_after):
            x_btd = module(x_btd, frames)
        return self.norm(x_btd)
