"""Position in attention: modules that may turn queries and keys and may add a score bias,
and absolute positions, which are added to the frames before the first layer.

Each of the former maps ``(q_bhtd, k_bhsd, q_start, k_start)`` to
``(q_bhtd, k_bhsd, PositionBias | None)``. Query row t stands at frame ``q_start + t`` and key row s
at ``k_start + s``, so caches and chunks need no other code. None of them knows the weighting. Offsets
are key minus query throughout.
"""

from __future__ import annotations

import math

import torch
from sigmoid_attention import PositionBias
from torch import Tensor, nn

from asr.errors import InputError

Positioned = tuple[Tensor, Tensor, PositionBias | None]


class Position(nn.Module):
    """The base of all positions, and itself the position `none`: attention sees its keys as a set; in
    a Conformer the convolutions still know the order.

    ``kind`` is that of the PositionBias it returns, None without one.
    """

    kind: str | None = None

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        """Return what attention takes in place of (q, k), and what is added to the scores."""
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
        self.base = base

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        q_bhtd = self._turn(q_bhtd, q_start)
        return q_bhtd, self._turn(k_bhsd, k_start), None

    def _turn(self, x_bhtd: Tensor, start: int) -> Tensor:
        _, _, num_frames, dim = x_bhtd.shape
        # in float64: at an hour of frames a float32 angle has lost its last three digits. Not a buffer,
        # which a module's change of type would round
        exponents_i = torch.arange(0, dim, 2, device=x_bhtd.device, dtype=torch.float64) / dim
        frames_t = torch.arange(start, start + num_frames, device=x_bhtd.device)
        angles_ti = frames_t[:, None] * self.base**-exponents_i
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


class Table(Position):
    """A trained score per head and offset, added to the scores (T5: Raffel et al. 2020,
    arXiv 1910.10683, section 2.1). Offsets share ``num_buckets`` values: half of them for each
    side, small offsets one by one, larger ones in logarithmic steps up to ``max_distance``, and one
    bucket for all beyond. Zero in the beginning, so that training starts from no position."""

    kind = "table"

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128):
        super().__init__()
        self.max_distance = max_distance
        self.values_hc = nn.Parameter(torch.zeros(num_heads, num_buckets))
        offsets_p = torch.arange(-max_distance, max_distance + 1)
        buckets_p = offset_buckets(offsets_p, num_buckets, max_distance)
        self.register_buffer("buckets_p", buckets_p, persistent=False)
        self.buckets_p: Tensor

    def forward(self, q_bhtd: Tensor, k_bhsd: Tensor, q_start: int, k_start: int) -> Positioned:
        table_hp = self.values_hc[:, self.buckets_p]
        return q_bhtd, k_bhsd, PositionBias.table(table_hp, zero=self.max_distance)


def offset_buckets(offsets_p: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """T5's bucket of each offset (key minus query): 0 ... num_buckets / 2 - 1 for keys at or before
    the query, the rest for keys ahead; exact below a quarter of the buckets, then logarithmic."""
    per_side = num_buckets // 2
    exact = per_side // 2
    distances_p = offsets_p.abs()
    ratio_p = (distances_p.clamp(min=exact).double() / exact).log() / math.log(max_distance / exact)
    coarse_p = (exact + (ratio_p * (per_side - exact)).long()).clamp(max=per_side - 1)
    bucket_p = torch.where(distances_p < exact, distances_p, coarse_p)
    return bucket_p + per_side * (offsets_p > 0)


class Sinusoidal(nn.Module):
    """Absolute positions added to the frames: ``x sqrt(dim) + sinusoids(frame)`` (Vaswani et al.
    2017, arXiv 1706.03762, sections 3.4 and 3.5); frames count from ``start``."""

    def forward(self, x_btd: Tensor, lens_b: Tensor, start: int) -> Tensor:
        positions_t = torch.arange(start, start + x_btd.shape[1], device=x_btd.device)
        return _add_sinusoids(x_btd, positions_t)


class Learned(nn.Module):
    """Absolute positions added to the frames, a trained vector for each (Gehring et al. 2017, arXiv
    1705.03122, section 3.1); frames count from ``start``."""

    def __init__(self, num_positions: int, dim: int):
        super().__init__()
        self.table_pd = nn.Parameter(0.02 * torch.randn(num_positions, dim))

    @property
    def num_positions(self) -> int:
        """Frames that there are vectors for."""
        return len(self.table_pd)

    def forward(self, x_btd: Tensor, lens_b: Tensor, start: int) -> Tensor:
        """
        Raises:
            InputError: more frames than there are positions.
        """
        end = start + x_btd.shape[1]
        if end > self.num_positions:
            raise InputError(
                f"num_positions = {self.num_positions}: position = learned has no more, and {end} are "
                "asked for; cut the audio into shorter pieces"
            )
        return x_btd + self.table_pd[start:end].to(x_btd.dtype)


class Cape(nn.Module):
    """Continuous augmented positional embeddings (Likhomanenko et al. 2021, arXiv 2106.03143,
    section 3): sinusoidal positions whose zero is the middle of each utterance, so that padding
    moves nothing. In training every utterance's positions are shifted together by up to
    ``max_shift``, each frame's by up to ``max_local_shift``, and all are stretched by a factor
    between 1 / ``max_scale`` and ``max_scale``: what is learnt is relative.

    Units are frames. The paper's values for speech are 60 s, half a frame and a factor of 1.1.
    """

    def __init__(
        self, max_shift: float = 1500.0, max_local_shift: float = 0.5, max_scale: float = 1.1
    ):
        super().__init__()
        self.max_shift, self.max_local_shift, self.max_scale = max_shift, max_local_shift, max_scale

    def forward(self, x_btd: Tensor, lens_b: Tensor, start: int) -> Tensor:
        if start:
            raise ValueError(f"start = {start}: cape needs whole utterances, it centres them")
        frames_t = torch.arange(x_btd.shape[1], device=x_btd.device, dtype=torch.float64)
        positions_bt = frames_t - (lens_b[:, None] - 1).float() / 2
        if self.training:
            positions_bt = self._augment(positions_bt)
        return _add_sinusoids(x_btd, positions_bt)

    def _augment(self, positions_bt: Tensor) -> Tensor:
        shift_b1 = torch.empty_like(positions_bt[:, :1]).uniform_(-1, 1) * self.max_shift
        local_bt = torch.empty_like(positions_bt).uniform_(-1, 1) * self.max_local_shift
        log_scale_b1 = torch.empty_like(shift_b1).uniform_(-1, 1) * math.log(self.max_scale)
        return (positions_bt + shift_b1 + local_bt) * log_scale_b1.exp()


def _add_sinusoids(x_btd: Tensor, positions_t: Tensor) -> Tensor:
    dim = x_btd.shape[-1]
    return x_btd * math.sqrt(dim) + sinusoids(positions_t, dim).to(x_btd.dtype)


def sinusoids(positions_p: Tensor, dim: int) -> Tensor:
    """(..., p) -> (..., p, dim): sines in the first half of the channels, cosines in the second (dim
    odd: one sine more), of position / 10000 ** (2 i / dim). In float64, for the same reason as in
    ``Rope``."""
    exponents_i = torch.arange(0, dim, 2, device=positions_p.device, dtype=torch.float64) / dim
    angles_pi = positions_p[..., None] * 10000.0**-exponents_i
    return torch.cat([angles_pi.sin(), angles_pi.cos()[..., : dim // 2]], dim=-1)
