"""Checks of one call: each message says which argument, what it was, what is allowed."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from .spec import Mask, PositionBias, Weighting, check_type

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_call(
    q_bhtd: Tensor,
    k_bhsd: Tensor,
    v_bhsd: Tensor,
    weighting: Weighting,
    position: PositionBias | None,
    mask: Mask,
) -> None:
    """Raise ValueError where shapes, types, devices or lengths do not fit together.

    Lengths are read from memory only on the CPU, or a GPU would have to wait for them.
    """
    check_tensors(q_bhtd, k_bhsd, v_bhsd)
    num_heads = q_bhtd.shape[1]
    for name in ("bias_h", "exponent_h"):
        if getattr(weighting, name) is not None:
            _check_heads(f"Weighting.{name}", getattr(weighting, name), num_heads, q_bhtd)
    if isinstance(weighting.n, Tensor):
        _check_n(weighting.n, q_bhtd)
    if position is not None:
        _check_position(q_bhtd, k_bhsd, position, mask)
    _check_mask(q_bhtd, k_bhsd, mask)


def check_objects(position: object, mask: object, scale: object) -> None:
    """Raise ValueError for what is neither of the kind that a call takes nor None."""
    check_type("position", position, PositionBias | None, "a PositionBias or None")
    check_type("mask", mask, Mask | None, "a Mask or None; masks are said by name")
    if scale is not None and not (isinstance(scale, int | float) and math.isfinite(scale)):
        raise ValueError(f"scale: got {scale!r}, allowed: None or a finite number")


def check_tensors(q_bhtd: Tensor, k_bhsd: Tensor, v_bhsd: Tensor) -> None:
    """Raise ValueError where q, k and v do not fit together."""
    for name, x in (("q_bhtd", q_bhtd), ("k_bhsd", k_bhsd), ("v_bhsd", v_bhsd)):
        check_type(name, x, Tensor, "a tensor (B, H, T, D)")
        _check_layout(name, x)
        if x.dim() != 4:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, allowed: 4 axes (B, H, T, D)")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name}: got dtype {x.dtype}, allowed: {', '.join(map(str, DTYPES))}")
        if x.dtype != q_bhtd.dtype:
            raise ValueError(
                f"{name}: got dtype {x.dtype}, allowed: that of q_bhtd, {q_bhtd.dtype}"
            )
        if x.device != q_bhtd.device:
            raise ValueError(
                f"{name}: got device {x.device}, allowed: that of q_bhtd, {q_bhtd.device}"
            )
        if x.shape[0] != q_bhtd.shape[0]:
            raise ValueError(
                f"{name}: got batch size {x.shape[0]}, allowed: that of q_bhtd, {q_bhtd.shape[0]}"
            )
    if k_bhsd.shape[-1] != q_bhtd.shape[-1]:
        raise ValueError(
            f"k_bhsd: got {k_bhsd.shape[-1]} channels, allowed: those of q_bhtd, {q_bhtd.shape[-1]}"
        )
    if v_bhsd.shape[1:3] != k_bhsd.shape[1:3]:
        raise ValueError(
            f"v_bhsd: got (heads, frames) {tuple(v_bhsd.shape[1:3])}, allowed: those of k_bhsd, "
            f"{tuple(k_bhsd.shape[1:3])}"
        )
    if k_bhsd.shape[1] == 0 or q_bhtd.shape[1] % k_bhsd.shape[1]:
        raise ValueError(
            f"k_bhsd: got {k_bhsd.shape[1]} heads, allowed: a divisor of the {q_bhtd.shape[1]} "
            "query heads"
        )


def _check_layout(name: str, x: Tensor) -> None:
    what = "a nested tensor" if x.is_nested else f"layout {x.layout}"
    if x.is_nested or x.layout != torch.strided:
        raise ValueError(f"{name}: got {what}, allowed: torch.strided, a dense tensor")


def _check_heads(name: str, x: Tensor, num_heads: int, like: Tensor) -> None:
    _check_layout(name, x)
    if x.shape[0] != num_heads:
        raise ValueError(f"{name}: got {x.shape[0]} heads, allowed: {num_heads} as in q_bhtd")
    if x.device != like.device:
        raise ValueError(f"{name}: got device {x.device}, allowed: that of q_bhtd, {like.device}")
    if not x.is_floating_point():
        raise ValueError(f"{name}: got dtype {x.dtype}, allowed: a floating point type")


def _check_n(n: Tensor, q_bhtd: Tensor) -> None:
    _check_layout("Weighting.n", n)
    batch, heads, frames, _ = q_bhtd.shape
    if tuple(n.shape) not in ((batch,), (batch, frames), (batch, heads, frames)):
        raise ValueError(
            f"Weighting.n: got shape {tuple(n.shape)}, allowed: ({batch},), ({batch}, {frames}) or "
            f"({batch}, {heads}, {frames})"
        )
    if n.is_complex() or n.dtype == torch.bool:
        raise ValueError(f"Weighting.n: got dtype {n.dtype}, allowed: a real number's")
    if n.device != q_bhtd.device:
        raise ValueError(f"Weighting.n: got device {n.device}, allowed: {q_bhtd.device}")


def _check_position(q_bhtd: Tensor, k_bhsd: Tensor, position: PositionBias, mask: Mask) -> None:
    num_heads, channels = q_bhtd.shape[1], q_bhtd.shape[3]
    for name in ("slopes_h", "table_hp", "u_hd", "v_hd", "r_hpd"):
        x = getattr(position, name)
        if x is not None:
            _check_heads(f"PositionBias.{name}", x, num_heads, q_bhtd)
    if not position.symmetric and not mask.causal and mask.window_sides[1] != 0:
        raise ValueError(
            "PositionBias.symmetric: got False with keys ahead visible, allowed: False only with "
            "Mask(causal=True) or a right window of 0"
        )
    if position.r_hpd is not None:
        if position.r_hpd.shape[2] != channels:
            raise ValueError(
                f"PositionBias.r_hpd: got {position.r_hpd.shape[2]} channels, allowed: {channels} "
                "as in q_bhtd"
            )
        _check_relative_range(q_bhtd, k_bhsd, position, mask)


def _check_relative_range(
    q_bhtd: Tensor, k_bhsd: Tensor, position: PositionBias, mask: Mask
) -> None:
    """Every offset that occurs in a full matrix needs a row, so no kernel must clamp."""
    assert position.r_hpd is not None
    delta = mask.k_start - mask.q_start
    lowest = delta - (q_bhtd.shape[2] - 1)
    highest = delta + k_bhsd.shape[2] - 1
    if lowest + position.zero < 0 or highest + position.zero >= position.r_hpd.shape[1]:
        raise ValueError(
            f"PositionBias.r_hpd: got rows for offsets {-position.zero} to "
            f"{position.r_hpd.shape[1] - 1 - position.zero}, "
            f"allowed: at least {lowest} to {highest}"
        )


def _check_mask(q_bhtd: Tensor, k_bhsd: Tensor, mask: Mask) -> None:
    batch, frames = q_bhtd.shape[0], {"query_lens": q_bhtd.shape[2], "key_lens": k_bhsd.shape[2]}
    for name, most in frames.items():
        lens_b = getattr(mask, name)
        if lens_b is None:
            continue
        _check_lens(f"Mask.{name}", lens_b, q_bhtd)
        if tuple(lens_b.shape) != (batch,):
            raise ValueError(
                f"Mask.{name}: got shape {tuple(lens_b.shape)}, "
                f"allowed: ({batch},), one per utterance"
            )
        if (
            _readable(lens_b)
            and batch
            and not (0 <= int(lens_b.min()) <= int(lens_b.max()) <= most)
        ):
            raise ValueError(f"Mask.{name}: got {lens_b.tolist()}, allowed: 0 to {most} frames")
    if mask.cu_seqlens is not None:
        _check_packed(q_bhtd, k_bhsd, mask.cu_seqlens)


def _check_packed(q_bhtd: Tensor, k_bhsd: Tensor, cu_seqlens: Tensor) -> None:
    _check_lens("Mask.cu_seqlens", cu_seqlens, q_bhtd)
    if q_bhtd.shape[0] != 1 or q_bhtd.shape[2] != k_bhsd.shape[2]:
        raise ValueError(
            f"Mask.cu_seqlens: got q {tuple(q_bhtd.shape)} and k {tuple(k_bhsd.shape)}, allowed: "
            "batch 1 and as many queries as keys"
        )
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"Mask.cu_seqlens: got shape {tuple(cu_seqlens.shape)}, allowed: (N + 1,) boundaries"
        )
    if _readable(cu_seqlens):
        ends = cu_seqlens.tolist()
        if (
            ends[0] != 0
            or ends[-1] != q_bhtd.shape[2]
            or any(b < a for a, b in itertools.pairwise(ends))
        ):
            raise ValueError(
                f"Mask.cu_seqlens: got {ends}, allowed: rising from 0 to {q_bhtd.shape[2]}"
            )


def _readable(x: Tensor) -> bool:
    """Tell whether values may be looked at: on the CPU, and not while a compiler traces."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _check_lens(name: str, x: Tensor, like: Tensor) -> None:
    _check_layout(name, x)
    if x.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name}: got dtype {x.dtype}, allowed: torch.int32, torch.int64")
    if x.device != like.device:
        raise ValueError(f"{name}: got device {x.device}, allowed: that of q_bhtd, {like.device}")
