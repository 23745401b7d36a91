"""Building blocks of layers of every kind."""

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
"""(module, its weight in the sum) -> the module with residual connection, norm and remedies."""


class Layer(nn.Module):
    """A layer of an encoder, (b, t, dim) and its ``Frames`` -> (b, t, dim).

    It is made of the encoder's configuration, self-attention, and what puts the residual connection
    around a module. Attributes:
        ends_in_norm: whether its output is normalised; of others the encoder normalises the last one's.
    """

    ends_in_norm = False


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
}


class FeedForward(nn.Module):
    """Widen, activate, narrow."""

    def __init__(self, dim: int, ff_dim: int, dropout: float, activation: str = "silu"):
        super().__init__()
        self.activate = ACTIVATIONS[activation]
        self.widen = nn.Linear(dim, ff_dim)
        self.narrow = nn.Linear(ff_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        wide_btf = self.dropout(self.activate(self.widen(x_btd)))
        return self.dropout(self.narrow(wide_btf))


class SelfAttention(nn.Module):
    """Attention among the frames of each utterance."""

    def __init__(self, attention: MultiHeadAttention, dropout: float):
        super().__init__()
        self.attention = attention
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: Tensor, frames: Frames) -> Tensor:
        return self.dropout(self.attention(x_btd, frames.mask, frames.memory, frames.beginnings))


def convolve(
    convolution: DepthwiseConv, x_btd: Tensor, frames: Frames, causal: bool = False
) -> Tensor:
    """Return (b, t, d): each channel convolved over the frames that exist, zeros beyond their ends.

    Args:
        x_btd: finite, also where no frame exists.
        causal: a frame sees itself and the ``kernel - 1`` frames before, of a stream too; else as many
            on both sides.
    """
    # a product is five times as fast as a choice on a CPU
    x_bdt = (x_btd * frames.exist_bt[..., None]).transpose(1, 2)
    num_frames, num_before = x_btd.shape[1], convolution.kernel_size[1] - 1
    if causal:
        x_bdt = frames.with_past(convolution, x_bdt, num_before)
    y_bdt = convolution(x_bdt.unsqueeze(2)).squeeze(2)
    if causal:
        # the kernel is centred: half of the frames before have been its middle
        y_bdt = y_bdt.narrow(2, num_before // 2, num_frames)
    return y_bdt.transpose(1, 2)
