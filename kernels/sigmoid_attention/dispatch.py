"""Which backend serves a call: decided by names, before any number is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import blockwise, reference, sdpa
from .checks import DTYPES, check_call
from .flat import Flat, flatten
from .spec import NO_MASK, POSITIONS, Mask, PositionBias, Weighting, check_mask_kind

BACKENDS = ("auto", "reference", "sdpa", "blockwise")

_FLAT_BACKENDS: dict[str, Callable[[Flat], Tensor]] = {
    "sdpa": sdpa.attend,
    "blockwise": blockwise.attend,
}


@dataclass(frozen=True, eq=False)
class Resolved:
    """Attention with its backend chosen; `name` says which.

    Call it with q_bhtd, k_bhsd, v_bhsd and the position and mask of this batch; both must be of
    the kinds it was resolved for. `bias_h` (H,) replaces the weighting's own, for a module that
    wants its parameter to travel through each call.
    """

    name: str
    weighting: Weighting
    position_kind: str | None
    mask_kind: str

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
    ) -> Tensor:
        """o_bhtd (B, H, T, Dv); see `attend`."""
        mask = mask or NO_MASK
        weighting = self.weighting if bias_h is None else replace(self.weighting, bias_h=bias_h)
        self._check_kinds(position, mask)
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
        flat = flatten(q_bhtd, k_bhsd, v_bhsd, weighting, position, mask, scale)
        return _FLAT_BACKENDS[self.name](flat)

    def _check_kinds(self, position: PositionBias | None, mask: Mask) -> None:
        kind = position.kind if position else None
        if kind != self.position_kind:
            raise ValueError(
                f"position: got kind {kind!r}, allowed: {self.position_kind!r}, as resolved"
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
    that calls may set. backend "auto" takes sdpa for softmax without positions and blockwise for
    all else (which keeps one block where a problem is small). Any other backend is taken as said,
    or refused with a ValueError that gives the reason.
    """
    kind = position.kind if isinstance(position, PositionBias) else position
    if kind is not None and kind not in POSITIONS:
        raise ValueError(f"position: got {kind!r}, allowed: None, {', '.join(POSITIONS)}")
    masks = mask_kind.kind if isinstance(mask_kind, Mask) else check_mask_kind(mask_kind or "")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype}, allowed: {', '.join(map(str, DTYPES))}")
    if backend not in BACKENDS:
        raise ValueError(f"backend: got {backend!r}, allowed: {', '.join(BACKENDS)}")
    if backend == "auto":
        return Resolved(_choose(weighting, kind), weighting, kind, masks)
    reason = refusal(backend, weighting)
    if reason:
        raise ValueError(f"backend: got {backend!r}, which cannot serve: {reason}")
    return Resolved(backend, weighting, kind, masks)


def _choose(weighting: Weighting, position_kind: str | None) -> str:
    return "sdpa" if weighting.map == "softmax" and position_kind is None else "blockwise"


def refusal(backend: str, weighting: Weighting) -> str | None:
    """Why a backend cannot serve, or None where it can."""
    if backend == "sdpa" and weighting.map != "softmax":
        return f"it has softmax only, not {weighting.map!r}"
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
    scale multiplies q . k (and the relative position term); 1 / sqrt(D) by default.
    Masked keys contribute exactly 0; rows that see no key, and padded rows, are exactly 0.
    Frames nobody sees may hold anything, and padding changes no result.
    Raises ValueError naming the argument, its value and what is allowed.
    """
    chosen = resolve(weighting, position, mask, q_bhtd.device, q_bhtd.dtype, backend)
    return chosen(q_bhtd, k_bhsd, v_bhsd, position=position, mask=mask, scale=scale)
