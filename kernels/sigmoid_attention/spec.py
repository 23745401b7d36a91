"""Attention as a choice, in three frozen objects, one per axis: weights, positions, visibility.

A variant of one axis knows nothing of the others. The objects hold tensors by reference, so
trainable parameters inside them receive gradients.
"""

from __future__ import annotations

import math
import types
from dataclasses import dataclass

import torch
from torch import Tensor

from .weightings import MAPS, listed, maps_with

COUNTS = ("visible", "sequence", "effective")
ROW_SCALES = (None, "1/n", "1/sqrt n")
PRECISIONS = ("exact", "fast")
POSITIONS = ("alibi", "table", "relative")
# No position gets as far as UNREACHED, so a limit beyond it is as good; their sums fit 64 bits.
LAST_START = 2**60
UNREACHED = 2**61
MOST = 2**63 - 1


def is_int(value: object) -> bool:
    """Tell whether it counts something: an int, or one that a compiler does not know yet."""
    return isinstance(value, int | torch.SymInt) and not isinstance(value, bool)


def check_type(field: str, value: object, kind: type | types.UnionType, allowed: str) -> None:
    """Raise ValueError for a value of any other kind."""
    if not isinstance(value, kind):
        raise ValueError(f"{field}: got {type(value).__name__}, allowed: {allowed}")


def _is_limit(value: object, least: int) -> bool:
    return is_int(value) and value >= least  # type: ignore[operator]


def _reachable(limit: int | None) -> int | None:
    return None if limit is None else min(limit, UNREACHED)


@dataclass(frozen=True, eq=False)
class Weighting:
    """The map from scores to weights.

    `softmax`: p = exp(s) / sum exp(s) over the visible keys.
    `sigmoid`: p = 1 / (1 + exp(-(s + shift + bias_h))) (Ramapuram et al. 2024, eq. 3).
    row_scale multiplies the weights of any other map by 1 / n or 1 / sqrt(n).
    `relu`: p = max(s, 0) / n. `polynomial`: p = s^power / sqrt(n) (Saratchandran et al. 2024).

    `n` says what is counted: "visible" (the keys this row may see), "sequence" (the utterance's
    valid keys, the same for each of its rows), "effective" (the sum of exp(position bias) over the
    keys this row may see, by head: what a local head sees of them; as "visible" where position
    adds no bias or one that depends on q), an int, or a tensor of shape (B,), (B, T) or (B, H, T)
    (for shards of the keys, which must be given the global count). n is at least 1, but for
    effective counts, which are below 1 where all visible biases are low.
    `exponent_h` (H,) may be trainable: the shift is -exponent_h * log n then.
    """

    map: str
    shift: float | str | None = None
    row_scale: str | None = None
    power: int = 1
    n: str | int | Tensor = "visible"
    bias_h: Tensor | None = None
    precision: str = "exact"
    exponent_h: Tensor | None = None

    def __post_init__(self) -> None:
        _check_choice("Weighting.map", self.map, tuple(MAPS))
        _check_choice("Weighting.row_scale", self.row_scale, ROW_SCALES)
        _check_choice("Weighting.precision", self.precision, PRECISIONS)
        if isinstance(self.shift, str):
            _check_choice("Weighting.shift", self.shift, ("-log n",), "None, a finite float, ")
        elif isinstance(self.shift, Tensor):  # its gradient would be lost
            raise ValueError(
                "Weighting.shift: got a tensor, allowed: None, a finite float, '-log n'; "
                "train bias_h instead"
            )
        elif self.shift is not None and not math.isfinite(self.shift):
            raise ValueError(
                f"Weighting.shift: got {self.shift}, allowed: None, a finite float, '-log n'"
            )
        if isinstance(self.n, str):
            _check_choice(
                "Weighting.n",
                self.n,
                COUNTS,
                "a positive int, a tensor (B,), (B, T) or (B, H, T), ",
            )
        elif not isinstance(self.n, Tensor) and not (is_int(self.n) and 1 <= self.n <= MOST):
            raise ValueError(
                f"Weighting.n: got {self.n}, allowed: an int of at least 1, below 2**63"
            )
        if not is_int(self.power) or not 1 <= self.power <= MOST:
            raise ValueError(
                f"Weighting.power: got {self.power}, allowed: an int of at least 1, below 2**63"
            )
        for name in ("bias_h", "exponent_h"):
            value = getattr(self, name)
            if value is not None:
                check_type(f"Weighting.{name}", value, Tensor, "one value per head (H,)")
                if value.dim() != 1:
                    raise ValueError(
                        f"Weighting.{name}: got shape {tuple(value.shape)}, "
                        "allowed: one value per head (H,)"
                    )
        if self.exponent_h is not None and self.shift != "-log n":
            raise ValueError(
                f"Weighting.exponent_h: got it with shift={self.shift!r}, allowed: only with "
                "'-log n', which it multiplies"
            )
        self._check_map()

    def _check_map(self) -> None:
        """Refuse what the map does not allow."""
        one = MAPS[self.map]
        if not one.shift and (self.shift is not None or self.bias_h is not None):
            shifted = listed(tuple(map(repr, maps_with(lambda other: other.shift))))
            raise ValueError(
                f"Weighting.shift: got a shift or bias_h with map={self.map!r}, "
                f"allowed: only with {shifted}"
            )
        if not one.scaled and self.row_scale is not None:
            raise ValueError(
                f"Weighting.row_scale: got {self.row_scale!r} with map={self.map!r}, "
                "allowed: None, its rows sum to one"
            )
        if not one.scaled and not isinstance(self.n, str):
            raise ValueError(
                f"Weighting.n: got a count with map={self.map!r}, allowed: only with other maps; "
                f"{self.map} is normalised by all keys at once, so shards of them do not add up"
            )

    @staticmethod
    def softmax() -> Weighting:
        """Weights of each row sum to one."""
        return Weighting("softmax")

    @staticmethod
    def sigmoid(
        shift: float | str | None = "-log n",
        n: str | int | Tensor = "visible",
        bias_h: Tensor | None = None,
        precision: str = "exact",
        exponent_h: Tensor | None = None,
    ) -> Weighting:
        """Each weight alone: p = sigmoid(s + shift + bias_h); `bias_h` (H,) may be trainable.

        `exponent_h` (H,) multiplies `-log n` head by head and may be trainable too.

        `precision="fast"` allows a kernel to trade accuracy in the left tail for speed; backends
        without such a mode compute the exact form.
        """
        return Weighting("sigmoid", shift, None, 1, n, bias_h, precision, exponent_h)

    @staticmethod
    def relu(n: str | int | Tensor = "visible") -> Weighting:
        """p = max(s, 0) / n."""
        return Weighting("relu", row_scale=MAPS["relu"].row_scale, n=n)

    @staticmethod
    def polynomial(power: int = 3, n: str | int | Tensor = "visible") -> Weighting:
        """p = s^power / sqrt(n) (Saratchandran et al. 2024, sec. 4)."""
        return Weighting("polynomial", row_scale=MAPS["polynomial"].row_scale, power=power, n=n)

    @property
    def counts(self) -> bool:
        """Tell whether `n` enters the weights at all."""
        return self.shift == "-log n" or self.row_scale is not None

    def counts_biases(self, position: PositionBias | None) -> bool:
        """Tell whether `n` sums the biases of this position, so that heads have counts of their own."""
        fixed = position is not None and position.kind in ("alibi", "table")
        return fixed and isinstance(self.n, str) and self.n == "effective"


@dataclass(frozen=True, eq=False)
class PositionBias:
    """The bias that position adds to the scores, before the weighting; offset = key minus query.

    alibi: -slope_h * |offset| (Press et al. 2022; symmetric for encoders), not scaled.
    table: table_hp[h, clamp(offset + zero, 0, P - 1)], not scaled.
    relative: the scores become ((q + u) . k + (q + v) . r[offset + zero]) * scale
    (Dai et al. 2019, eq. of section 3.3; both terms scaled).
    """

    kind: str
    slopes_h: Tensor | None = None
    symmetric: bool = True
    table_hp: Tensor | None = None
    u_hd: Tensor | None = None
    v_hd: Tensor | None = None
    r_hpd: Tensor | None = None
    zero: int = 0

    def __post_init__(self) -> None:
        _check_choice("PositionBias.kind", self.kind, POSITIONS)

    @staticmethod
    def alibi(slopes_h: Tensor, symmetric: bool = True) -> PositionBias:
        """-slope * |key - query|; slopes_h (H,). symmetric=False demands that no key is ahead."""
        check_type("PositionBias.slopes_h", slopes_h, Tensor, "one slope per head (H,)")
        if slopes_h.dim() != 1:
            raise ValueError(
                f"PositionBias.slopes_h: got shape {tuple(slopes_h.shape)}, "
                "allowed: one slope per head (H,)"
            )
        return PositionBias("alibi", slopes_h=slopes_h, symmetric=symmetric)

    @staticmethod
    def table(table_hp: Tensor, zero: int) -> PositionBias:
        """A learned bias per head and clipped offset; table_hp (H, P), column `zero` for 0."""
        check_type("PositionBias.table_hp", table_hp, Tensor, "(H, P)")
        if table_hp.dim() != 2:
            raise ValueError(
                f"PositionBias.table_hp: got shape {tuple(table_hp.shape)}, allowed: (H, P)"
            )
        _check_zero(zero, table_hp.shape[1])
        return PositionBias("table", table_hp=table_hp, zero=zero)

    @staticmethod
    def relative(u_hd: Tensor, v_hd: Tensor, r_hpd: Tensor, zero: int) -> PositionBias:
        """Transformer-XL: u_hd, v_hd (H, D); r_hpd (H, P, D), row `zero` is offset 0.

        Every offset between a query and a key must have its row in r; the call checks it.
        """
        if u_hd.dim() != 2 or v_hd.shape != u_hd.shape:
            raise ValueError(
                f"PositionBias.u_hd, v_hd: got shapes {tuple(u_hd.shape)}, {tuple(v_hd.shape)}, "
                "allowed: both (H, D)"
            )
        if r_hpd.dim() != 3 or (r_hpd.shape[0], r_hpd.shape[2]) != tuple(u_hd.shape):
            raise ValueError(
                f"PositionBias.r_hpd: got shape {tuple(r_hpd.shape)}, allowed: (H, P, D) with "
                f"(H, D) = {tuple(u_hd.shape)}"
            )
        _check_zero(zero, r_hpd.shape[1])
        return PositionBias("relative", u_hd=u_hd, v_hd=v_hd, r_hpd=r_hpd, zero=zero)


@dataclass(frozen=True, eq=False)
class Mask:
    """The keys a row may see, by name.

    key_lens, query_lens: (B,) valid frames of each utterance, counted in the given tensors.
    cu_seqlens: (N + 1,) boundaries of sequences packed along time, batch 1; [0, ..., T].
    causal: key position <= query position. window: (left, right) frames, None for no limit;
    one int for both. chunk: (size, left_chunks) frames and chunks, left None for all of the past.
    q_start, k_start: positions of the first query and key (caches and shards).
    The position of query i is q_start + i, of key j is k_start + j; within a packed sequence both
    count from its beginning. All named limits hold at once, and may be of any size.
    """

    key_lens: Tensor | None = None
    query_lens: Tensor | None = None
    cu_seqlens: Tensor | None = None
    causal: bool = False
    window: int | tuple[int | None, int | None] | None = None
    chunk: int | tuple[int, int | None] | None = None
    q_start: int = 0
    k_start: int = 0

    def __post_init__(self) -> None:
        for name in ("key_lens", "query_lens", "cu_seqlens"):
            check_type(
                f"Mask.{name}",
                getattr(self, name),
                Tensor | None,
                "None, a tensor of torch.int32 or torch.int64",
            )
        if not isinstance(self.causal, bool):
            raise ValueError(f"Mask.causal: got {self.causal!r}, allowed: True, False")
        sides = self.window if isinstance(self.window, tuple) else (self.window, self.window)
        if len(sides) != 2 or not all(side is None or _is_limit(side, 0) for side in sides):
            raise ValueError(
                f"Mask.window: got {self.window!r}, allowed: None, an int of at least 0, or a pair "
                "(left, right) of these"
            )
        chunk = self.chunk if isinstance(self.chunk, tuple) else (self.chunk, None)
        if self.chunk is not None and not (
            len(chunk) == 2
            and _is_limit(chunk[0], 1)
            and (chunk[1] is None or _is_limit(chunk[1], 0))
        ):
            raise ValueError(
                f"Mask.chunk: got {self.chunk!r}, allowed: None, an int of at least 1, or a pair "
                "(size, left_chunks) of such an int and None or an int of at least 0"
            )
        for name in ("q_start", "k_start"):
            value = getattr(self, name)
            if not _is_limit(value, 0) or value > LAST_START:
                raise ValueError(
                    f"Mask.{name}: got {value!r}, allowed: an int of 0 to {LAST_START}"
                )
        if self.cu_seqlens is not None and (
            self.key_lens is not None or self.query_lens is not None or self.q_start or self.k_start
        ):
            raise ValueError(
                "Mask.cu_seqlens: got it beside key_lens, query_lens, q_start or k_start, "
                "allowed: packed sequences carry their lengths and start at position 0"
            )

    @property
    def window_sides(self) -> tuple[int | None, int | None]:
        """(left, right) in frames, at most UNREACHED; None for no limit."""
        left, right = self.window if isinstance(self.window, tuple) else (self.window, self.window)
        return _reachable(left), _reachable(right)

    @property
    def chunk_size_left(self) -> tuple[int | None, int | None]:
        """(size in frames, left chunks), each at most UNREACHED.

        size None for no chunks, left None for the whole past.
        """
        size, left = self.chunk if isinstance(self.chunk, tuple) else (self.chunk, None)
        return _reachable(size), _reachable(left)

    @property
    def banded(self) -> bool:
        """Tell whether the visible keys depend on more than the utterance's lengths."""
        return (
            self.cu_seqlens is not None
            or self.causal
            or self.window_sides != (None, None)
            or self.chunk is not None
        )

    @property
    def kind(self) -> str:
        """The names in use joined by "+", e.g. "key_lens+causal"; "" for nothing masked."""
        names = ("key_lens", "query_lens", "cu_seqlens", "window", "chunk")
        used = [name for name in names if getattr(self, name) is not None]
        return "+".join(used + (["causal"] if self.causal else []))


NO_MASK = Mask()
MASK_NAMES = ("key_lens", "query_lens", "cu_seqlens", "window", "chunk", "causal")


def check_mask_kind(kind: str) -> str:
    """The same string, once each of its "+"-joined names is one of MASK_NAMES."""
    for name in filter(None, kind.split("+")):
        _check_choice("mask_kind", name, MASK_NAMES)
    return kind


def _check_choice(field: str, value: object, allowed: tuple, also: str = "") -> None:
    if value not in allowed:
        raise ValueError(f"{field}: got {value!r}, allowed: {also}{', '.join(map(repr, allowed))}")


def _check_zero(zero: int, num_offsets: int) -> None:
    if not 0 <= zero < num_offsets:
        raise ValueError(
            f"PositionBias.zero: got {zero}, allowed: 0 to {num_offsets - 1}, a column of the table"
        )


def default_scale(q_bhtd: Tensor, scale: float | None) -> float:
    """1 / sqrt(d_qk) unless given; 1 for no channels, whose products are 0."""
    return scale if scale is not None else 1.0 / math.sqrt(max(q_bhtd.shape[-1], 1))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision scores and weights are formed in: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
