"""How position enters attention: modules that may turn queries and keys and may add a score bias.

Each maps ``(q_bhtd, k_bhsd, q_start, k_start)`` to ``(q_bhtd, k_bhsd, PositionBias | None)``. Query
row t stands at frame ``q_start + t`` and key row s at ``k_start + s``, so caches and chunks need no
other code. None of them knows the weighting. Offsets are key minus query throughout.
"""

from __future__ import annotations

import math

import torch
from sigmoid_attention import PositionBias
from torch import Tensor, nn

Positioned = tuple[Tensor, Tensor, PositionBias | None]


class Position(nn.Module):
    """The base of all positions, and itself the position `none`: attention sees its keys as a set; in
    a Conformer the convolutions still know the order.

    ``kind`` is that of the PositionBias it returns, None without one.
    """

    kind: str | None = None

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        """What attention takes in place of (q, k), and what is added to the scores."""
        return q_bhtd, k_bhsd, None


class Rope(Position):
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34).

    Channel i of the first half of a head is paired with channel i of the second half; the pair turns
    by ``position / base ** (2 i / d)`` radians, so a score depends on key minus query only.
    """

    def __init__(self, head_dim: int, base: float = 10000.0):
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"head_dim = {head_dim}: rotary positions need an even head_dim")
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        self.register_buffer("frequencies_i", base**-exponents, persistent=False)
        self.frequencies_i: Tensor

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        q_bhtd = self._turn(q_bhtd, q_start)
        return q_bhtd, self._turn(k_bhsd, k_start), None

    def _turn(self, x_bhtd: Tensor, start: int) -> Tensor:
        frames_t = torch.arange(start, start + x_bhtd.shape[2], device=x_bhtd.device)
        # in float64: at an hour of frames a float32 angle has lost its last three digits
        angles_ti = frames_t[:, None] * self.frequencies_i
        cos_ti, sin_ti = angles_ti.cos().to(x_bhtd.dtype), angles_ti.sin().to(x_bhtd.dtype)
        first, second = x_bhtd.chunk(2, dim=-1)
        return torch.cat(
            [first * cos_ti - second * sin_ti, second * cos_ti + first * sin_ti], dim=-1
        )


class Alibi(Position):
    """Attention with linear biases (Press et al. 2022, arXiv 2108.12409), symmetric for encoders:
    ``slope_h * |key - query|`` is subtracted from the score of head h. Slopes are not trained."""

    kind = "alibi"

    def __init__(self, num_heads: int):
        super().__init__()
        slopes_h = torch.tensor(alibi_slopes(num_heads))
        self.register_buffer("slopes_h", slopes_h, persistent=False)
        self.slopes_h: Tensor

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        return q_bhtd, k_bhsd, PositionBias.alibi(self.slopes_h, symmetric=True)


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8/n), 2^(-16/n), ... for n heads, n a power of two; for any other number the slopes of the
    power below and every second one of the power above, as the paper's authors do."""
    below = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    between = [2.0 ** (-8.0 * (i + 1) / (2 * below)) for i in range(0, 2 * below, 2)]
    return slopes + between[: num_heads - below]


class Relative(Position):
    """Transformer-XL's relative positions (Dai et al. 2019, arXiv 1901.02860, section 3.3).

    score = ((q + u) . k + (q + v) . W r[key - query]) * scale, with r sinusoidal and u, v, W trained.
    """

    kind = "relative"

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.dim, self.num_heads, self.head_dim = dim, num_heads, dim // num_heads
        self.project = nn.Linear(dim, dim, bias=False)
        self.u_hd = nn.Parameter(torch.zeros(num_heads, self.head_dim))
        self.v_hd = nn.Parameter(torch.zeros(num_heads, self.head_dim))

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        lowest = k_start - (q_start + q_bhtd.shape[2] - 1)
        highest = k_start + k_bhsd.shape[2] - 1 - q_start
        offsets_p = torch.arange(lowest, highest + 1, device=q_bhtd.device)
        r_pd = sinusoids(offsets_p, self.dim).to(self.project.weight.dtype)
        r_hpd = self.project(r_pd).unflatten(-1, (self.num_heads, self.head_dim)).transpose(0, 1)
        return q_bhtd, k_bhsd, PositionBias.relative(self.u_hd, self.v_hd, r_hpd, zero=-lowest)


def sinusoids(positions_p: Tensor, dim: int) -> Tensor:
    """(p, dim): sines in the first half of the channels, cosines in the second (dim odd: one sine
    more), of position / 10000 ** (2 i / dim). In float64, for the same reason as in ``Rope``."""
    exponents_i = torch.arange(0, dim, 2, device=positions_p.device, dtype=torch.float64) / dim
    angles_pi = positions_p[:, None] * 10000.0**-exponents_i
    return torch.cat([angles_pi.sin(), angles_pi.cos()[:, : dim // 2]], dim=-1)
