"""Softmax attention through torch's scaled_dot_product_attention.

Positions and masks that it does not know enter as one additive bias; Transformer-XL's is a matrix
per utterance, so long inputs are better served blockwise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import call
from .flat import Flat
from .ops import is_empty
from .reference import offsets


def attend(flat: Flat) -> Tensor:
    """o_bhtd of a flat call whose map is softmax, differentiable in q, k, v and every bias."""
    q, k, v = flat.q, flat.k, flat.v
    empty_bt = None
    if flat.lo_bt is not None and flat.hi_bt is not None:
        empty_bt = (flat.hi_bt == 0)[:, None, :, None]
        key_s = torch.arange(k.shape[2], device=k.device)
        # Rows without keys see all of them here, which keeps softmax finite; their output is
        # replaced below, and so receives no gradient.
        hidden = (key_s < flat.lo_bt[..., None]) | (key_s >= flat.hi_bt[..., None])
        hidden_bts = hidden[:, None] & ~empty_bt
        unseen = hidden.all(1)[:, None, :, None]
        k, v, q = k.masked_fill(unseen, 0), v.masked_fill(unseen, 0), q.masked_fill(empty_bt, 0)
        bias = torch.zeros_like(hidden_bts, dtype=q.dtype).masked_fill_(hidden_bts, float("-inf"))
    else:
        bias = None
    extra = position_bias(flat, q)
    if extra is not None and is_empty(flat):
        # PyTorch 2.14 leaves the bias of such a call out of the graph: its gradient would be None
        return call(flat, "torch")
    if extra is not None:
        bias = extra if bias is None else extra + bias
    if flat.u_hd is not None:
        q = q + flat.u_hd[:, None]
    # The CPU's fast kernel wants a mask of the full shape.
    if bias is not None:
        bias = bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    grouped = k.shape[1] != q.shape[1]
    o = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, scale=flat.scale, enable_gqa=grouped
    )
    return o if empty_bt is None else o.masked_fill(empty_bt, 0)


def position_bias(flat: Flat, q: Tensor) -> Tensor | None:
    """Return what position adds to the scores besides u . k, (1 or B, H, T, S); None for nothing."""
    num_queries, num_keys = q.shape[2], flat.k.shape[2]
    if flat.slopes_h is not None:
        offset = offsets(num_queries, num_keys, flat.delta, q.device).abs()
        return (-flat.slopes_h[:, None, None] * offset)[None].to(q.dtype)
    if flat.table_hp is not None:
        column = offsets(num_queries, num_keys, flat.delta, q.device) + flat.zero
        return flat.table_hp[:, column.clamp(0, flat.table_hp.shape[1] - 1)][None].to(q.dtype)
    if flat.vb_hd is None or flat.r_hpd is None:
        return None
    by_offset = (q + flat.vb_hd[:, None]) @ flat.r_hpd.mT * flat.scale
    column = offsets(num_queries, num_keys, flat.delta, q.device) + flat.zero
    return by_offset.gather(3, column.expand(q.shape[0], q.shape[1], -1, -1)).to(q.dtype)
