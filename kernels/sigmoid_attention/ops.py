"""The two private operators that torch.library sees: a flat call, and its gradients.

Tensors, numbers and names only, so torch.compile and torch.export take the whole as one node.
Nothing is saved for the backward but the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import blockwise
from . import cpp_engine as cpp
from .flat import Flat
from .tiles import Sums

# What a call can be differentiated by: positions of its arguments, in the order of gradients.
TENSORS = ("q", "k", "v", "bias_h", "slopes_h", "table_hp", "u_hd", "vb_hd", "r_hpd")
_AT = tuple(Flat._fields.index(name) for name in TENSORS)


def _triton_forward(flat: Flat) -> Tensor:
    from .triton import launch  # triton is imported by those who ask for it, and then only here

    return launch.forward(flat)


def _triton_backward(flat: Flat, do: Tensor, row: bool, by_offset: bool) -> Sums:
    from .triton import launch

    return launch.backward(flat, do, row, by_offset)


_FORWARD: dict[str, Callable[[Flat], Tensor]] = {
    "torch": blockwise.forward,
    "c++": cpp.forward,
    "triton": _triton_forward,
}
_BACKWARD: dict[str, Callable[[Flat, Tensor, bool, bool], Sums]] = {
    "torch": blockwise.backward,
    "c++": cpp.backward,
    "triton": _triton_backward,
}

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? lo_bt, Tensor? hi_bt, Tensor? row_shift_bt, "
    "Tensor? row_factor_bt, Tensor? bias_h, Tensor? slopes_h, Tensor? table_hp, Tensor? u_hd, "
    "Tensor? vb_hd, Tensor? r_hpd, str map, int power, str precision, float scale, float shift, "
    "SymInt delta, SymInt zero, bool prefix, str engine"
)
FORWARD_OP = "sigmoid_attention::attend"
BACKWARD_OP = "sigmoid_attention::attend_backward"
torch.library.define(FORWARD_OP, f"({_ARGUMENTS}) -> Tensor")
torch.library.define(BACKWARD_OP, f"(Tensor do, bool[] needs, {_ARGUMENTS}) -> Tensor[]")


def call(flat: Flat, engine: str) -> Tensor:
    """o_bhtd of a flat call through the operator; `engine` is "torch", "c++" or "triton"."""
    o: Tensor
    if engine == "triton" and flat.map == "softmax":  # softmax_op.py
        o, _ = torch.ops.sigmoid_attention.attend_softmax(*flat, engine)
        return o
    o = torch.ops.sigmoid_attention.attend(*flat, engine)
    return o


@torch.library.impl(FORWARD_OP, "default")
def _forward(*args: Any) -> Tensor:
    *fields, engine = args
    return _FORWARD[engine](Flat(*fields))


@torch.library.register_fake(FORWARD_OP)
def _fake_forward(*args: Any) -> Tensor:
    flat = Flat(*args[:-1])
    return flat.q.new_empty(*flat.q.shape[:3], flat.v.shape[3])


@torch.library.impl(BACKWARD_OP, "default")
def _backward(do: Tensor, needs: list[bool], *args: Any) -> list[Tensor]:
    *fields, engine = args
    flat = Flat(*fields)
    wanted = dict(zip(TENSORS, needs, strict=True))
    by_offset = wanted["slopes_h"] or wanted["table_hp"]
    sums = _BACKWARD[engine](flat, do, wanted["bias_h"], by_offset)
    grads = finish(flat, sums)
    return [grads[name].to(getattr(flat, name).dtype) for name in TENSORS if wanted[name]]


@torch.library.register_fake(BACKWARD_OP)
def _fake_backward(do: Tensor, needs: list[bool], *args: Any) -> list[Tensor]:
    flat = Flat(*args[:-1])
    return [
        torch.empty_like(getattr(flat, name), memory_format=torch.contiguous_format)
        for name, needed in zip(TENSORS, needs, strict=True)
        if needed
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.rest = [None if isinstance(x, Tensor) else (x,) for x in inputs]


def _grad(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
    saved = iter(ctx.saved_tensors)
    args = [next(saved) if x is None else x[0] for x in ctx.rest]
    needs = [ctx.needs_input_grad[i] for i in _AT]
    grads = iter(torch.ops.sigmoid_attention.attend_backward(do, needs, *args))
    out: list[Tensor | None] = [None] * len(args)
    for i, needed in zip(_AT, needs, strict=True):
        if needed:
            out[i] = next(grads)
    return tuple(out)


torch.library.register_autograd(FORWARD_OP, _grad, setup_context=_setup)


def finish(flat: Flat, sums: Sums) -> dict[str, Tensor]:
    """From sums to the gradients of a call's tensors, contiguous."""
    dq = sums.q * flat.scale
    grads = {"k": sums.k, "v": sums.v}
    if sums.qv is not None:
        dqv = sums.qv.transpose(0, 1) * flat.scale
        sums.u, sums.vb = dq.sum((0, 2)), dqv.sum((0, 2))
        dq += dqv
    grads["q"] = dq
    if sums.r is not None and sums.u is not None and sums.vb is not None:
        grads |= {"u_hd": sums.u, "vb_hd": sums.vb, "r_hpd": sums.r}
    if sums.row is not None:
        grads["bias_h"] = sums.row.sum((0, 2))
    if sums.by_offset is not None and flat.r_hpd is None:
        lowest = flat.delta - (flat.q.shape[2] - 1)
        offset_o = torch.arange(lowest, lowest + sums.by_offset.shape[1], device=dq.device)
        grads["slopes_h"] = -(sums.by_offset * offset_o.abs()).sum(1)
        if flat.table_hp is not None:
            column_o = (offset_o + flat.zero).clamp_(0, flat.table_hp.shape[1] - 1)
            table = sums.by_offset.new_zeros(flat.table_hp.shape)
            grads["table_hp"] = table.index_add_(1, column_o, sums.by_offset)
    return grads
