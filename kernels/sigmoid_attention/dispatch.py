"""Choice of the backend that serves a call: decided by names, before any number is computed."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from . import cpp_engine as cpp
from . import reference, sdpa
from .call import call
from .checks import DTYPES, check_call, check_objects, check_tensors
from .flat import flatten, row_factor
from .spec import (
    NO_MASK,
    POSITIONS,
    Mask,
    PositionBias,
    Weighting,
    check_mask_kind,
    check_type,
)
from .weightings import LoopWarning, listed, served_by

BACKENDS = ("auto", "reference", "sdpa", "blockwise", "triton")
# Of the Triton kernels: d_qk and d_v, and heads of all utterances (the second axis of a CUDA grid).
MOST_CHANNELS = 128
MOST_HEADS = 65535

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Resolved:
    """Attention with its backend chosen: `name` says which, `engine` what runs it.

    engine: "torch" for reference, sdpa and pure torch blockwise; "c++" for compiled blockwise,
    "triton".

    Call it with q_bhtd, k_bhsd, v_bhsd and the position and mask of this batch; tensors must be of
    the device and dtype, position and mask of the kinds that it was resolved for. `bias_h` (H,)
    and `exponent_h` (H,) replace the weighting's own, for a module that wants its parameters to travel
    through each call.
    `backend` is what was asked for.
    """

    name: str
    engine: str
    weighting: Weighting
    position_kind: str | None
    mask_kind: str
    device: torch.device
    dtype: torch.dtype
    backend: str

    def to(self, device: torch.device, dtype: torch.dtype) -> Resolved:
        """Itself, or the same request resolved for another device or dtype (under autocast)."""
        if device.type == self.device.type and dtype == self.dtype:
            return self
        request = (self.weighting, self.position_kind, self.mask_kind, device, dtype, self.backend)
        return resolve(*request)

    def __call__(
        self,
        q_bhtd: Tensor,
        k_bhsd: Tensor,
        v_bhsd: Tensor,
        *,
        position: PositionBias | None = None,
        mask: Mask | None = None,
        scale: float | None = None,
        bias_h: Tensor | None = None,
        exponent_h: Tensor | None = None,
    ) -> Tensor:
        """o_bhtd (B, H, T, Dv); see `attend`."""
        check_objects(position, mask, scale)
        mask = mask or NO_MASK
        weighting = self.weighting
        if bias_h is not None:
            weighting = replace(weighting, bias_h=bias_h)
        if exponent_h is not None:
            weighting = replace(weighting, exponent_h=exponent_h)
        self._check_as_resolved(q_bhtd, position, mask)
        check_call(q_bhtd, k_bhsd, v_bhsd, weighting, position, mask)
        if self.name == "reference":
            return reference.attend(
                q_bhtd,
                k_bhsd,
                v_bhsd,
                weighting=weighting,
                position=position,
                mask=mask,
                scale=scale,
            )
        engine = self.engine
        if self.name == "triton":
            reason = _beyond_triton(q_bhtd, v_bhsd)
            if reason is not None and self.backend != "auto":
                raise ValueError(f"{reason} with backend 'triton'")
            if reason is not None:
                engine = "torch"
                _warn_of_loop(weighting.map, kind_of(position), str(self.dtype), reason)
        flat = flatten(q_bhtd, k_bhsd, v_bhsd, weighting, position, mask, scale)
        if self.name == "sdpa":
            return sdpa.attend(flat)
        o_bhtd = call(flat, engine)
        factor_bht = row_factor(q_bhtd, k_bhsd.shape[2], weighting, position, mask)
        if factor_bht is None:
            return o_bhtd
        return (o_bhtd * factor_bht[..., None]).to(o_bhtd.dtype)

    def _check_as_resolved(self, q_bhtd: Tensor, position: PositionBias | None, mask: Mask) -> None:
        if q_bhtd.device.type != self.device.type or q_bhtd.dtype != self.dtype:
            raise ValueError(
                f"q_bhtd: got {q_bhtd.dtype} on {q_bhtd.device.type}, allowed: {self.dtype} on "
                f"{self.device.type}, as resolved"
            )
        if kind_of(position) != self.position_kind:
            raise ValueError(
                f"position: got kind {kind_of(position)!r}, allowed: {self.position_kind!r}, as resolved"
            )
        extra = set(filter(None, mask.kind.split("+"))) - set(self.mask_kind.split("+"))
        if extra:
            raise ValueError(
                f"mask: got {'+'.join(sorted(extra))}, allowed: {self.mask_kind or 'none'}, "
                "as resolved"
            )


def resolve(
    weighting: Weighting,
    position: PositionBias | str | None = None,
    mask_kind: Mask | str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> Resolved:
    """Choose a backend once; the result is called each forward.

    position: an instance or its kind ("alibi", "table", "relative") or None.
    mask_kind: an instance, or names joined by "+" ("key_lens+query_lens"), or None: the fields
    that calls may set. Any backend but "auto" is taken as said, or refused with a ValueError that
    gives the reason. "auto" takes, in this order: sdpa for softmax that no mask or position
    touches; triton for softmax, sigmoid and relu on CUDA; blockwise for all maps but softmax, and for
    softmax where its C++ engine serves (float32 on the CPU) or a position bias is added; sdpa for
    the rest. What is beyond the sizes of triton's kernels goes to blockwise where "auto" chose. On
    CUDA blockwise is a loop in Python over tiles, of which a LoopWarning tells once for each
    weighting and position.
    """
    check_type("weighting", weighting, Weighting, "a Weighting")
    check_type("position", position, PositionBias | str | None, "a PositionBias, its kind or None")
    check_type("mask", mask_kind, Mask | str | None, "a Mask, its kind or None")
    kind = position.kind if isinstance(position, PositionBias) else position
    if kind is not None and kind not in POSITIONS:
        raise ValueError(f"position: got {kind!r}, allowed: None, {', '.join(POSITIONS)}")
    masks = mask_kind.kind if isinstance(mask_kind, Mask) else check_mask_kind(mask_kind or "")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype}, allowed: {', '.join(map(str, DTYPES))}")
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, allowed: {', '.join(BACKENDS)}")
    device = torch.device(device)
    name = _choose(weighting, kind, masks, device, dtype) if backend == "auto" else backend
    reason = refusal(name, weighting, device, dtype)
    if reason:
        raise ValueError(f"backend: got {backend!r}, which cannot serve: {reason}")
    engine = _engine(name, weighting.map, device, dtype)
    if name == "blockwise" and device.type == "cuda":
        why = "backend='blockwise' is asked for" if backend == name else ""
        why = why or f"triton: {refusal('triton', weighting, device, dtype)}"
        _warn_of_loop(weighting.map, kind, str(dtype), why)
    what = (weighting.map, kind or "no position", masks or "no mask")
    _log(*what, device.type, str(dtype), name, engine)
    return Resolved(name, engine, weighting, kind, masks, device, dtype, backend)


def _constant(function: Callable[..., Result]) -> Callable[..., Result]:
    """``torch.compiler.assume_constant_result``, which imports torch._dynamo to set this attribute:
    more than a second at the start of every program, compiled or not."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def _engine(name: str, weighting_map: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the engine that runs a backend; compile the C++ engine where it would serve."""
    if name == "triton":
        return "triton"
    if (
        name == "blockwise"
        and cpp.refusal(weighting_map, device, dtype) is None
        and cpp.available()
    ):
        return "c++"
    return "torch"


@_constant
def _log(*choice: str) -> None:
    _log_once(choice)


@functools.cache
def _log_once(choice: tuple[str, ...]) -> None:
    """One line for each different choice, however many layers make it."""
    logger.info("attention: %s, %s, %s, %s %s: by %s (%s)", *choice)


@_constant
def _warn_of_loop(weighting_map: str, position_kind: str | None, dtype: str, why: str) -> None:
    _warn_once(weighting_map, position_kind or "no position", dtype, why)


@functools.cache
def _warn_once(weighting_map: str, position: str, dtype: str, why: str) -> None:
    """One warning for each weighting, position and reason, however many layers and calls have it."""
    warnings.warn(
        f"attention: {weighting_map} with {position} in {dtype} runs on cuda as a loop in Python over "
        f"tiles, for no fused engine serves it ({why}); compare its speed with no other's",
        LoopWarning,
        stacklevel=2,
    )


def kind_of(position: PositionBias | None) -> str | None:
    """Return the kind of a position, as it is asked for."""
    return None if position is None else position.kind


def _choose(
    weighting: Weighting,
    position_kind: str | None,
    mask_kind: str,
    device: torch.device,
    dtype: torch.dtype,
) -> str:
    bare = position_kind is None and not mask_kind
    by_sdpa = weighting.map in served_by("sdpa")
    if by_sdpa and bare:
        return "sdpa"
    if device.type == "cuda" and refusal("triton", weighting, device, dtype) is None:
        return "triton"
    if not by_sdpa or position_kind is not None:
        return "blockwise"
    return "blockwise" if _engine("blockwise", weighting.map, device, dtype) == "c++" else "sdpa"


def refusal(
    backend: str, weighting: Weighting, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Return why a backend cannot serve, or None where it can."""
    if backend in ("sdpa", "triton") and weighting.map not in served_by(backend):
        return f"it has {listed(served_by(backend))} only, not {weighting.map!r}"
    if backend != "triton":
        return None
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it has float16, bfloat16 and float32, not {dtype}"
    return _triton_cannot_run(device)


@_constant
def _triton_cannot_run(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET", "0") == "1":
        return None
    if device.type != "cuda":
        return (
            f"it runs on cuda (or in Triton's interpreter, TRITON_INTERPRET=1), not {device.type}"
        )
    return None


def _beyond_triton(q_bhtd: Tensor, v_bhsd: Tensor) -> str | None:
    """Return why triton's kernels cannot take tensors of these sizes; None where they can."""
    for name, x in (("q_bhtd", q_bhtd), ("v_bhsd", v_bhsd)):
        if x.shape[3] > MOST_CHANNELS:
            return f"{name}: got {x.shape[3]} channels, allowed: at most {MOST_CHANNELS}"
    batch, heads = q_bhtd.shape[:2]
    if batch * heads > MOST_HEADS:
        return (
            f"q_bhtd: got {batch} utterances of {heads} heads, allowed: at most {MOST_HEADS} heads "
            "in all"
        )
    return None


def attend(
    q_bhtd: Tensor,
    k_bhsd: Tensor,
    v_bhsd: Tensor,
    *,
    weighting: Weighting,
    position: PositionBias | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention o_bhtd = weights(q, k) v.

    q_bhtd (B, H, T, D), k_bhsd (B, Hk, S, D), v_bhsd (B, Hk, S, Dv) with Hk a divisor of H.
    scale multiplies q . k (and the relative position term); 1 / sqrt(D) by default (1 for D = 0).
    Masked keys contribute exactly 0; rows that see no key, and padded rows, are exactly 0.
    Frames nobody sees may hold anything, and padding changes no result.
    Raises ValueError naming the argument, its value and what is allowed.
    """
    check_tensors(q_bhtd, k_bhsd, v_bhsd)
    chosen = resolve(weighting, position, mask, q_bhtd.device, q_bhtd.dtype, backend)
    return chosen(q_bhtd, k_bhsd, v_bhsd, position=position, mask=mask, scale=scale)
