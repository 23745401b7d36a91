"""Multi-head self-attention that receives its position and its weighting and knows neither by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from sigmoid_attention import Mask, Resolved, Weighting, resolve
from sigmoid_attention.weightings import MAPS
from torch import Tensor, nn

from asr.config import AttentionConfig
from asr.nn.frames import Beginnings, Memory
from asr.nn.linformer import Linformer
from asr.nn.position import Alibi, Cape, Learned, Position, Relative, Rope, Sinusoidal, Table

# what every encoder masks: padding, and what lies outside a row's chunks
MASK_KINDS = "key_lens+query_lens+chunk"


class Attending(nn.Module):
    """A module that calls one kind of attention, whose backend is chosen where it first computes."""

    def __init__(self, weighting: Weighting, position: str | None, mask_kinds: str, backend: str):
        """
        Args:
            position: kind of the bias that position gives; None: it gives none.
            mask_kinds: fields of the masks that it will be given, joined by "+".
        """
        super().__init__()
        self.weighting = weighting
        self.backend = backend
        self._position_kind, self._mask_kinds = position, mask_kinds
        self._attend: Resolved | None = None

    def use(self, backend: str) -> None:
        """Compute by this backend from now on, as ``attention.backend`` would have it."""
        self.backend, self._attend = backend, None

    def resolve(self, device: torch.device, dtype: torch.dtype) -> Resolved:
        """The backend that serves here: chosen or refused the first time, then remembered."""
        if self._attend is None:
            kinds = (self._position_kind, self._mask_kinds)
            self._attend = resolve(self.weighting, *kinds, device, dtype, self.backend)
        self._attend = self._attend.to(device, dtype)
        return self._attend

    def trained_weighting(self) -> Weighting:
        """The weighting with what training has learnt of it."""
        return self.weighting


class MultiHeadAttention(Attending):
    """``o = N_o(W_o attend(N_q(W_q x), N_k(W_k x), W_v x))``, the norms being optional.

    Shapes: (batch, frame, channel) in and out. Keys that the mask hides contribute exactly nothing and
    padded query rows come out as those of a zero.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        position: Position,
        weighting: Weighting,
        backend: str = "auto",
        num_kv_heads: int | None = None,
        bias_h: nn.Parameter | None = None,
        exponent_h: nn.Parameter | None = None,
        head_norm: Callable[[int], nn.Module] = nn.Identity,
        output_norm: Callable[[int], nn.Module] = nn.Identity,
        linformer: Linformer | None = None,
        mask_kinds: str = MASK_KINDS,
    ):
        """
        Args:
            num_kv_heads: heads of keys and values, each shared by ``num_heads / num_kv_heads`` heads
                of queries (grouped-query attention, Ainslie et al. 2023, arXiv 2305.13245).
            bias_h: a trained number per head, added to the shift of the weighting.
            exponent_h: a trained factor per head on the shift ``-log n``.
            head_norm: of each head's queries and keys, before position enters (QK-norm).
            output_norm: of what is added to the residual ("hybrid norm", Ramapuram et al. 2024).
            linformer: mixes keys and values into a fixed number of them, which have no position.
            mask_kinds: what masks may limit, the names joined by "+": each backend is asked for these.
        """
        super().__init__(weighting, position.kind, mask_kinds, backend)
        num_kv_heads = num_kv_heads or num_heads
        if dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(
                f"dim = {dim} must be a multiple of num_heads = {num_heads}, "
                f"and that of num_kv_heads = {num_kv_heads}"
            )
        head_dim = dim // num_heads
        self.heads = (num_heads, num_kv_heads, num_kv_heads)
        self.position = position
        self.bias_h = bias_h
        self.exponent_h = exponent_h
        self.norm_q, self.norm_k = head_norm(head_dim), head_norm(head_dim)
        self.project_qkv = nn.Linear(dim, sum(self.heads) * head_dim)
        self.project_out = nn.Linear(dim, dim)
        self.norm_out = output_norm(dim)
        self.linformer = linformer

    def forward(
        self,
        x_btd: Tensor,
        mask: Mask,
        memory: Memory | None = None,
        beginnings: Beginnings | None = None,
    ) -> Tensor:
        """Attend; in a stream, the keys are those in ``memory``, of past frames, then those of x.

        With ``beginnings`` x is of their nodes, and transcripts attend.
        """
        q_bhtd, k_bhsd, v_bhsd = self._heads(x_btd, beginnings)
        if memory is not None:
            most, num_new = frames_in_reach(mask), k_bhsd.shape[2]
            k_bhsd = memory.join(self, "keys", k_bhsd, 2, most)
            v_bhsd = memory.join(self, "values", v_bhsd, 2, most)
            mask = with_keys_before(mask, k_bhsd.shape[2] - num_new)
        if self.linformer is not None:
            k_bhsd, v_bhsd, mask = self.linformer(k_bhsd, v_bhsd, mask)
        q_bhtd, k_bhsd, bias = self.position(q_bhtd, k_bhsd, mask.q_start, mask.k_start)
        attend = self.resolve(q_bhtd.device, q_bhtd.dtype)
        o_bhtd = attend(
            q_bhtd,
            k_bhsd,
            v_bhsd,
            position=bias,
            mask=mask,
            bias_h=self.bias_h,
            exponent_h=self.exponent_h,
        )
        o_btd = o_bhtd.transpose(1, 2).flatten(2)
        if beginnings is not None:
            o_btd = beginnings.gather(o_btd)
        return self.norm_out(self.project_out(o_btd))

    def trained_weighting(self) -> Weighting:
        return replace(self.weighting, bias_h=self.bias_h, exponent_h=self.exponent_h)

    def _heads(
        self, x_btd: Tensor, beginnings: Beginnings | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv_bte = self.project_qkv(x_btd)
        if beginnings is not None:
            qkv_bte = beginnings.spread(qkv_bte)
        qkv_bthd = qkv_bte.unflatten(-1, (sum(self.heads), -1))
        q_bthd, k_bshd, v_bshd = qkv_bthd.split(self.heads, dim=2)
        q_bthd, k_bshd = self.norm_q(q_bthd), self.norm_k(k_bshd)
        return q_bthd.transpose(1, 2), k_bshd.transpose(1, 2), v_bshd.transpose(1, 2)


def build_weighting(config: AttentionConfig) -> Weighting:
    """The weighting that a configuration chooses: its options, as far as the map reads them."""
    one = MAPS[config.weighting]
    shifts = {"none": None, "constant": config.shift_constant, "-log n": "-log n"}
    scales = {"auto": one.row_scale, "none": None, "1/n": "1/n", "1/sqrt n": "1/sqrt n"}
    # exp(bias) says nothing of how maps fall off that are divided by n
    by_bias = one.shift or config.count != "effective"
    return Weighting(
        config.weighting,
        shift=shifts[config.shift] if one.shift else None,
        row_scale=scales[config.row_scale] if one.scaled else None,
        power=config.power if one.power else 1,
        n=config.count if by_bias else "visible",
    )


# which keys there are; None: every frame
KEYS: dict[str, Callable[[AttentionConfig], Linformer | None]] = {
    "full": lambda config: None,
    "linformer": lambda config: Linformer(config.linformer_length, config.linformer_frames),
}

# what position is inside attention: (width, heads) -> module
POSITIONS: dict[str, Callable[[int, int], Position]] = {
    "none": lambda dim, num_heads: Position(),
    "sinusoidal": lambda dim, num_heads: Position(),
    "learned": lambda dim, num_heads: Position(),
    "cape": lambda dim, num_heads: Position(),
    "rope": lambda dim, num_heads: Rope(dim // num_heads),
    "alibi": lambda dim, num_heads: Alibi(num_heads),
    "relative": Relative,
    "table": lambda dim, num_heads: Table(num_heads),
}

# what position is before the first layer, the others leave the frames alone: (places, width) -> module
ABSOLUTE_POSITIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "sinusoidal": lambda num_positions, dim: Sinusoidal(),
    "learned": Learned,
    "cape": lambda num_positions, dim: Cape(),
}


def build_attention(config: AttentionConfig, dim: int) -> MultiHeadAttention:
    """The attention that two words choose, with its remedies."""
    num_heads = config.num_heads
    return MultiHeadAttention(
        dim,
        num_heads,
        POSITIONS[config.position](dim, num_heads),
        build_weighting(config),
        config.backend,
        num_kv_heads=config.num_kv_heads or num_heads,
        bias_h=nn.Parameter(torch.zeros(num_heads)) if config.shift_per_head else None,
        exponent_h=nn.Parameter(torch.ones(num_heads)) if config.shift_exponent else None,
        head_norm=nn.RMSNorm if config.qk_norm else nn.Identity,
        output_norm=nn.LayerNorm if config.output_norm else nn.Identity,
        linformer=KEYS[config.keys](config),
        mask_kinds=mask_kinds(config),
    )


def mask_kinds(config: AttentionConfig) -> str:
    """Name what the masks of an encoder with this attention limit, joined by "+"."""
    limits = {"window": config.window > 0, "causal": config.causal}
    return "+".join([MASK_KINDS, *(name for name, used in limits.items() if used)])


def attentions(net: nn.Module) -> list[MultiHeadAttention]:
    """Return the attention modules of a model, from the first layer to the last."""
    return [module for module in net.modules() if isinstance(module, MultiHeadAttention)]


def frames_in_reach(mask: Mask) -> int | None:
    """Return how many frames before its own chunk, or itself, a query may see; None: all of them."""
    size, left_chunks = mask.chunk_size_left
    in_chunks = None if size is None or left_chunks is None else size * left_chunks
    reaches = [reach for reach in (in_chunks, mask.window_sides[0]) if reach is not None]
    return min(reaches, default=None)


def with_keys_before(mask: Mask, num_keys: int) -> Mask:
    """Return the mask for this many more keys, which stand before the others and all exist."""
    key_lens = None if mask.key_lens is None else mask.key_lens + num_keys
    return replace(mask, key_lens=key_lens, k_start=mask.k_start - num_keys)
