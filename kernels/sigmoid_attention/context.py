"""Attention over time shared out among processes: sigmoid outputs over key shards just add.

There is no normaliser to merge, so each process weighs every query against its own keys and values
and the outputs are summed. The queries travel once each way, the keys and values never.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .counts import log_counts
from .dispatch import attend
from .flat import visible_runs
from .spec import NO_MASK, Mask, PositionBias, Weighting
from .weightings import MAPS, maps_with

_BIASES = ("slopes_h", "table_hp", "u_hd", "v_hd", "r_hpd")


def attend_context_parallel(
    q_bhtd: Tensor,
    k_bhsd: Tensor,
    v_bhsd: Tensor,
    *,
    weighting: Weighting,
    position: PositionBias | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    backend: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """o_bhtd of this process's queries over the keys of all processes of the group.

    Each process holds one shard, rank r the r-th of equal size, of queries and of keys and values.
    The mask speaks of the whole: its lengths and starts are the same on every process. Gradients
    reach each process's own q, k and v, and in full the tensors of weighting and position, which
    every process holds. Raises ValueError for softmax, whose shards do not add, for packed
    sequences and for shards of unequal shape.
    """
    mask = mask or NO_MASK
    if MAPS[weighting.map].weight is None:
        add_up = ", ".join(maps_with(lambda one: one.weight is not None))
        raise ValueError(
            f"weighting: got {weighting.map!r}, allowed: {add_up}, whose shards add up"
        )
    if mask.cu_seqlens is not None:
        raise ValueError("mask: got cu_seqlens, allowed: any other limit; shards cut sequences")
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    _check_shapes(q_bhtd, k_bhsd, size, group)
    num_keys = k_bhsd.shape[2] * size
    local = _local_mask(mask, k_bhsd.shape[2], rank)
    for name in ("bias_h", "exponent_h"):
        if getattr(weighting, name) is not None:
            shared_h = _SumGradient.apply(getattr(weighting, name), group)
            weighting = dataclasses.replace(weighting, **{name: shared_h})
    if position is not None:
        shared = {
            name: _SumGradient.apply(getattr(position, name), group)
            for name in _BIASES
            if getattr(position, name) is not None
        }
        position = dataclasses.replace(position, **shared)
    everywhere = _global_count(weighting, position, mask, num_keys, q_bhtd, size)
    part_bhtd = attend(
        _Gather.apply(q_bhtd, group),
        k_bhsd,
        v_bhsd,
        weighting=everywhere,
        position=position,
        mask=local,
        scale=scale,
        backend=backend,
    )
    o_bhtd: Tensor = _SumScatter.apply(part_bhtd, group)
    return o_bhtd


def _check_shapes(q: Tensor, k: Tensor, size: int, group: dist.ProcessGroup | None) -> None:
    mine = torch.tensor([*q.shape, *k.shape], device=q.device)
    shapes = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(shapes, mine, group=group)
    if any(not torch.equal(mine, other) for other in shapes):
        raise ValueError(
            f"q_bhtd, k_bhsd: got shapes {[x.tolist() for x in shapes]} on the processes of the "
            "group, allowed: the same on each"
        )


def _local_mask(mask: Mask, shard: int, rank: int) -> Mask:
    """The mask as this process's keys see it; queries are all there."""
    key_lens = mask.key_lens
    if key_lens is not None:
        key_lens = (key_lens - rank * shard).clamp(0, shard)
    return dataclasses.replace(mask, key_lens=key_lens, k_start=mask.k_start + rank * shard)


def _global_count(
    weighting: Weighting,
    position: PositionBias | None,
    mask: Mask,
    num_keys: int,
    q: Tensor,
    size: int,
) -> Weighting:
    """The weighting with n counted over the keys of all shards, for the queries of all."""
    if not weighting.counts or not isinstance(weighting.n, str):
        return weighting
    everyone = q.new_empty(()).expand(q.shape[0], q.shape[1], q.shape[2] * size, q.shape[3])
    runs = visible_runs(mask, everyone.shape[2], num_keys, q.device)
    log_n_bht = log_counts(weighting, position, mask, runs, everyone, num_keys)
    return dataclasses.replace(weighting, n=log_n_bht.exp().expand(everyone.shape[:3]))


def _gather_time(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Gather all shards, side by side along time."""
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x, group=group)
    return torch.cat(parts, 2)


def _sum_scatter_time(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return this process's share of time of the sum over processes."""
    # Summed in float32: a shard's part rounded to half precision would count each rounding.
    total = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32, copy=True)
    dist.all_reduce(total, group=group)
    shares = total.chunk(dist.get_world_size(group), 2)
    return shares[dist.get_rank(group)].to(x.dtype).contiguous()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _gather_time(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _sum_scatter_time(grad, ctx.group), None


class _SumScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _sum_scatter_time(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather_time(grad, ctx.group), None


class _SumGradient(torch.autograd.Function):
    """The tensor itself; its gradient is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
