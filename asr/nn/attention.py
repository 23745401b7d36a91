"""Multi-head self-attention that receives its position and its weighting and knows neither by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sigmoid_attention import Mask, Resolved, Weighting, attend, resolve
from torch import Tensor, nn

from asr.config import AttentionConfig
from asr.nn.position import Alibi, Position, Relative, Rope


class MultiHeadAttention(nn.Module):
    """``o = W_o attend(W_q x, W_k x, W_v x)``.

    Shapes: (batch, frame, channel) in and out. Keys that the mask hides contribute exactly nothing and
    padded query rows come out as the output projection's bias alone.
    """

    def __init__(
        self, dim: int, num_heads: int, position: Position, weighting: Weighting, backend: str
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim = {dim} must be a multiple of num_heads = {num_heads}")
        self.num_heads = num_heads
        self.position = position
        self.weighting = weighting
        self.backend = backend
        self.project_qkv = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x_btd: Tensor, mask: Mask) -> Tensor:
        q_bhtd, k_bhsd, v_bhsd = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.project_qkv(x_btd).chunk(3, dim=-1)
        )
        q_bhtd, k_bhsd, bias = self.position(q_bhtd, k_bhsd, mask.q_start, mask.k_start)
        o_bhtd = attend(
            q_bhtd,
            k_bhsd,
            v_bhsd,
            weighting=self.weighting,
            position=bias,
            mask=mask,
            backend=self.backend,
        )
        return self.project_out(o_bhtd.transpose(1, 2).flatten(2))

    def resolve(self, device: torch.device, dtype: torch.dtype) -> Resolved:
        """The backend that utterances of different lengths get, chosen or refused."""
        return resolve(
            self.weighting, self.position.kind, "key_lens+query_lens", device, dtype, self.backend
        )


WEIGHTINGS = {
    "softmax": Weighting.softmax,
    # the shift -log n over the keys a row may see makes the initial row sum about softmax's 1
    "sigmoid": lambda: Weighting.sigmoid(shift="-log n", n="visible"),
}

POSITIONS: dict[str, Callable[[int, int], Position]] = {
    "none": lambda dim, num_heads: Position(),
    "rope": lambda dim, num_heads: Rope(dim // num_heads),
    "alibi": lambda dim, num_heads: Alibi(num_heads),
    "relative": Relative,
}


def build_attention(config: AttentionConfig, dim: int) -> MultiHeadAttention:
    """The attention that two words choose."""
    position = POSITIONS[config.position](dim, config.num_heads)
    weighting = WEIGHTINGS[config.weighting]()
    return MultiHeadAttention(dim, config.num_heads, position, weighting, config.backend)


def frame_mask(lens_b: Tensor, num_frames: int) -> Tensor:
    """(batch, frame) bool: true on the frames that exist."""
    return torch.arange(num_frames, device=lens_b.device)[None, :] < lens_b[:, None]
