"""The E-Branchformer's layer (Kim et al. 2023, arXiv 2210.00077): attention and a gated convolution side
by side, merged by a convolution.

The paper normalises each branch's input on its own; one norm serves both here, which loses nothing:
gain and bias of a norm go into the linear layer after it. The squeeze-and-excitation that the paper
tries in the merge is left out, and both convolutions have one width, as its models have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asr.config import EncoderConfig
from asr.config.kinds import CGMLP_WIDTH
from asr.nn.depthwise import DepthwiseConv
from asr.nn.dropout import Dropout
from asr.nn.frames import Frames
from asr.nn.modules import Around, FeedForward, Layer, SelfAttention, convolve


class GatedConvolution(nn.Module):
    """Widen, GELU, gate, narrow (cgMLP: Sakuma et al. 2021).

    The gate multiplies one half of the channels by the other, normalised per frame and convolved over
    time; in the beginning it is 1 almost everywhere.
    """

    def __init__(self, dim: int, wide_dim: int, kernel: int, dropout: float, causal: bool):
        super().__init__()
        self.causal = causal
        self.widen = nn.Linear(dim, wide_dim)
        self.gate_norm = nn.LayerNorm(wide_dim // 2)
        self.depthwise = DepthwiseConv(wide_dim // 2, kernel)
        nn.init.normal_(self.depthwise.weight, std=1e-6)
        assert self.depthwise.bias is not None
        nn.init.ones_(self.depthwise.bias)
        self.narrow = nn.Linear(wide_dim // 2, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        x_btd, gate_btd = nn.functional.gelu(self.widen(x_btd)).chunk(2, dim=-1)
        gate_btd = convolve(self.depthwise, self.gate_norm(gate_btd), frames, self.causal)
        return self.dropout(self.narrow(self.dropout(x_btd * gate_btd)))


class Branches(nn.Module):
    """Attention and gated convolution of the same frames, then ``W (y + depthwise(y))`` of both."""

    def __init__(
        self, attention: SelfAttention, convolution: GatedConvolution, config: EncoderConfig
    ):
        super().__init__()
        self.causal = config.causal
        self.attention = attention
        self.convolution = convolution
        self.depthwise = DepthwiseConv(2 * config.dim, config.conv_kernel)
        self.merge = nn.Linear(2 * config.dim, config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        y_btd = torch.cat([self.attention(x_btd, frames), self.convolution(x_btd, frames)], dim=-1)
        y_btd = y_btd + convolve(self.depthwise, y_btd, frames, self.causal)
        return self.dropout(self.merge(y_btd))


class EBranchformerLayer(Layer):
    """Half a feed-forward, both branches, half a feed-forward, norm."""

    ends_in_norm = True

    def __init__(self, config: EncoderConfig, attention: SelfAttention, around: Around):
        super().__init__()
        dim, ff_dim, dropout = config.dim, config.ff_dim, config.dropout
        convolution = GatedConvolution(
            dim, config.cgmlp_dim or CGMLP_WIDTH * dim, config.conv_kernel, dropout, config.causal
        )
        self.ff_before = around(FeedForward(dim, ff_dim, dropout, config.activation), 0.5)
        self.branches = around(Branches(attention, convolution, config), 1.0)
        self.ff_after = around(FeedForward(dim, ff_dim, dropout, config.activation), 0.5)
        self.norm = nn.LayerNorm(dim) if config.norm == "pre" else nn.Identity()

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        for module in (self.ff_before, self.branches, self.ff_after):
            x_btd = module(x_btd, frames)
        return self.norm(x_btd)
