"""What n means in `-log n` and in 1 / n: how many keys a row sees, or how many a head can see.

The effective count N of a row is the sum of exp(position bias) over its visible keys, so that weights
exp(score - log N) of a row sum to 1 where q . k is 0, as n makes them without a position. ALiBi has a
closed form; a table of P columns is summed by doubling, O(log P) steps for each row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .spec import Mask, PositionBias, Weighting, compute_dtype

# Of a bias, where a table says "never" by -inf: differences of two stay numbers.
LOWEST = -1.0e30

Runs = tuple[Tensor, Tensor]


def log_counts(
    weighting: Weighting,
    position: PositionBias | None,
    mask: Mask,
    runs: Runs | None,
    q_bhtd: Tensor,
    num_keys: int,
) -> Tensor:
    """Return log n of each row, (B', H', T'): an axis is 1 where all that see a key agree.

    runs: (lo_bt, hi_bt) of `flat.visible_runs`. Rows that see no key, or only keys whose biases say
    "never", count as n = 1.
    """
    dtype, num_queries = compute_dtype(q_bhtd.dtype), q_bhtd.shape[2]
    if weighting.counts_biases(position) and num_queries * num_keys > 0:
        assert position is not None
        if runs is None:
            ends_bt = torch.tensor([[0], [num_keys]], device=q_bhtd.device).expand(2, num_queries)
            runs = (ends_bt[:1], ends_bt[1:])
        delta = mask.k_start - mask.q_start  # offset of key 0 and query 0
        lo_bt, hi_bt = runs[0].long(), runs[1].long()
        if position.slopes_h is not None:
            log_n_bht = _log_of_slopes(position.slopes_h.to(dtype), lo_bt, hi_bt, delta, num_keys)
        else:
            log_n_bht = _log_of_table(position, lo_bt, hi_bt, delta, dtype)
        # A shift by -LOWEST would undo what hides keys in the engines.
        nothing_bht = (hi_bt <= lo_bt)[:, None] | (log_n_bht < LOWEST / 2)
        return log_n_bht.masked_fill(nothing_bht, 0.0)
    if isinstance(weighting.n, Tensor):
        n = weighting.n.to(dtype)
        n_bht = n if n.dim() == 3 else n[:, None, None] if n.dim() == 1 else n[:, None]
        # A count of biases may be below 1, and is not 0 but by underflow.
        return n_bht.clamp(min=1.0 if n.dim() < 3 else torch.finfo(dtype).tiny).log()
    n_bt = _keys(weighting, mask, runs, num_queries, num_keys, q_bhtd.device)
    return n_bt[:, None].clamp(min=1).to(dtype).log()


def _keys(
    weighting: Weighting,
    mask: Mask,
    runs: Runs | None,
    num_queries: int,
    num_keys: int,
    device: torch.device,
) -> Tensor:
    """Return n as (B', T), or (B', 1) where the rows that see a key agree."""
    sequence = weighting.n == "sequence"
    if not sequence and isinstance(weighting.n, str) and runs is not None and mask.banded:
        return runs[1] - runs[0]
    if sequence and mask.cu_seqlens is not None:
        lens_n = mask.cu_seqlens.long().diff()
        return lens_n.repeat_interleave(lens_n, output_size=num_queries)[None]
    if isinstance(weighting.n, str) and mask.key_lens is not None:
        return mask.key_lens.clamp(max=num_keys)[:, None]
    n = num_keys if isinstance(weighting.n, str) else weighting.n
    return torch.full((1, 1), n, device=device)  # type: ignore[arg-type]


def _log_of_slopes(
    slopes_h: Tensor, lo_bt: Tensor, hi_bt: Tensor, delta: int, num_keys: int
) -> Tensor:
    """Return log sum over lo <= j < hi of exp(-slope |j - own|): two geometric sums, (B', H, T).

    From the visible key nearest to the row's own position, which both contain, to either end; sums
    of each length are formed once per head, in logarithms, since those of a slope below 0 grow.
    """
    dtype, slope_h1 = slopes_h.dtype, slopes_h[:, None]
    # Not abs and clamp: at a slope of 0 both would lose half of its gradient.
    steep_h1 = torch.where(slope_h1 < 0, -slope_h1, slope_h1)
    rise_h1 = torch.where(slope_h1 < 0, -slope_h1, torch.zeros_like(slope_h1))
    num_m = torch.arange(1, num_keys + 1, device=lo_bt.device, dtype=dtype)
    log_sums_hm = rise_h1 * (num_m - 1) + _geometric(steep_h1, num_m).log()
    own_t = torch.arange(lo_bt.shape[1], device=lo_bt.device) - delta
    nearest_bt = torch.minimum(torch.maximum(own_t, lo_bt), (hi_bt - 1).clamp(min=0))
    before = log_sums_hm[:, (nearest_bt - lo_bt).clamp(min=0)].transpose(0, 1)
    after = log_sums_hm[:, (hi_bt - 1 - nearest_bt).clamp(min=0)].transpose(0, 1)
    most = torch.maximum(before, after)
    total = (before - most).exp() + (after - most).exp() - (-most).exp()
    gap_b1t = (nearest_bt - own_t).abs()[:, None].to(dtype)
    return most + total.log() - slope_h1 * gap_b1t


def _geometric(slope: Tensor, num: Tensor) -> Tensor:
    """Return 1 + r + ... + r^(num - 1) for r = exp(-slope), slope at least 0."""
    return num * _decayed(slope * num) / _decayed(slope)


def _decayed(x: Tensor) -> Tensor:
    """Return (1 - exp(-x)) / x, 1 at 0, with its gradient there."""
    small = x < 1e-3
    above = torch.where(small, torch.ones_like(x), x)
    series = 1 - x / 2 * (1 - x / 3 * (1 - x / 4))
    return torch.where(small, series, -torch.expm1(-above) / above)


def _log_of_table(
    position: PositionBias, lo_bt: Tensor, hi_bt: Tensor, delta: int, dtype: torch.dtype
) -> Tensor:
    """Return log sum over lo <= j < hi of exp(table[j - own]), (B', H, T).

    The outermost columns serve all offsets beyond. A run of the others is made of sums of 1, 2, 4, ...
    neighbouring columns, those of its length's binary digits; sums of a prefix would lose small
    biases beside large ones.
    """
    assert position.table_hp is not None
    sums_hp = table_hp = position.table_hp.to(dtype).clamp(min=LOWEST)
    heads, num_columns = table_hp.shape
    own_t = torch.arange(lo_bt.shape[1], device=lo_bt.device) - delta
    first_bt, end_bt = lo_bt - own_t + position.zero, hi_bt - own_t + position.zero
    at_bt, inner_end_bt = first_bt.clamp(0, num_columns), end_bt.clamp(0, num_columns)
    length_bt = (inner_end_bt - at_bt).clamp(min=0)
    total = sums_hp.new_full((lo_bt.shape[0], heads, lo_bt.shape[1]), LOWEST)
    size = 1
    while size <= num_columns:
        taken_bt = (length_bt // size) % 2 == 1
        part_hbt = sums_hp[:, at_bt.clamp(max=num_columns - 1)]
        joined = torch.logaddexp(total, part_hbt.transpose(0, 1))
        total = torch.where(taken_bt[:, None], joined, total)
        at_bt = at_bt + size * taken_bt
        beyond_hp = sums_hp.new_full((heads, size), LOWEST)
        sums_hp = torch.logaddexp(sums_hp, torch.cat([sums_hp[:, size:], beyond_hp], 1))
        size *= 2
    before_bt = torch.minimum(end_bt, torch.zeros_like(end_bt)) - first_bt
    after_bt = end_bt - first_bt.clamp(min=num_columns)
    for num_bt, bias_h in ((before_bt, table_hp[:, 0]), (after_bt, table_hp[:, -1])):
        outer = num_bt.clamp(min=1).to(dtype).log()[:, None] + bias_h[:, None]
        total = torch.where((num_bt > 0)[:, None], torch.logaddexp(total, outer), total)
    return total
