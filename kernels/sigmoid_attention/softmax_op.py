"""Softmax by the Triton kernels as operators of their own, for these save what a sigmoid need not.

The output and each row's log sum are kept beside the inputs, so the backward takes no pass more
than a sigmoid's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .flat import Flat
from .ops import (
    _ARGUMENTS,
    _AT,
    TENSORS,
    _no_second_grad,
    as_given,
    is_empty,
    no_gradients,
    transformable,
)

FORWARD_OP = "sigmoid_attention::attend_softmax"
BACKWARD_OP = "sigmoid_attention::attend_softmax_backward"
torch.library.define(FORWARD_OP, f"({_ARGUMENTS}) -> (Tensor, Tensor)")
torch.library.define(
    BACKWARD_OP, f"(Tensor do, Tensor o, Tensor lse, bool[] needs, {_ARGUMENTS}) -> Tensor[]"
)


@torch.library.impl(FORWARD_OP, "default")
def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    from .triton import softmax_launch  # as in ops.py, only for those who ask

    flat = Flat(*args[:-1])
    if is_empty(flat):
        rows = flat.q.shape[:3]
        lse = flat.q.new_zeros(rows, dtype=torch.float32)
        return flat.q.new_zeros(*rows, flat.v.shape[3]), lse
    # Triton launches on the current device
    with torch.cuda.device_of(flat.q), as_given(flat):
        return softmax_launch.forward(flat)


@torch.library.register_fake(FORWARD_OP)
def _fake_forward(*args: Any) -> tuple[Tensor, Tensor]:
    flat = Flat(*args[:-1])
    rows = flat.q.shape[:3]
    return flat.q.new_empty(*rows, flat.v.shape[3]), flat.q.new_empty(rows, dtype=torch.float32)


@torch.library.impl(BACKWARD_OP, "default")
def _backward(do: Tensor, o: Tensor, lse: Tensor, needs: list[bool], *args: Any) -> list[Tensor]:
    from .triton import softmax_launch

    flat = Flat(*args[:-1])
    if is_empty(flat):
        return no_gradients(flat, needs)
    wanted = dict(zip(TENSORS, needs, strict=True))
    by_offset = wanted["slopes_h"] or wanted["table_hp"]
    with torch.cuda.device_of(flat.q), as_given(flat):
        grads = softmax_launch.backward(flat, do, o, lse, by_offset)
    return [
        grads[name].to(getattr(flat, name).dtype).contiguous() for name in TENSORS if wanted[name]
    ]


@torch.library.register_fake(BACKWARD_OP)
def _fake_backward(
    do: Tensor, o: Tensor, lse: Tensor, needs: list[bool], *args: Any
) -> list[Tensor]:
    flat = Flat(*args[:-1])
    return [
        torch.empty_like(getattr(flat, name), memory_format=torch.contiguous_format)
        for name, needed in zip(TENSORS, needs, strict=True)
        if needed
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *tensors)
    ctx.rest = [None if isinstance(x, Tensor) else (x,) for x in inputs]


def _grad(ctx: Any, do: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    o, lse, *tensors = ctx.saved_tensors
    saved = iter(tensors)
    args = [next(saved) if x is None else x[0] for x in ctx.rest]
    out: list[Tensor | None] = [None] * len(args)
    if do is None:
        return tuple(out)
    needs = [ctx.needs_input_grad[i] for i in _AT]
    grads = iter(_attend_softmax_backward(do, o, lse, needs, *args))
    for i, needed in zip(_AT, needs, strict=True):
        if needed:
            out[i] = next(grads)
    return tuple(out)


torch.library.register_autograd(FORWARD_OP, _grad, setup_context=_setup)
torch.library.register_autograd(BACKWARD_OP, _no_second_grad)

attend_softmax = transformable(torch.ops.sigmoid_attention.attend_softmax, _grad, _setup)
_attend_softmax_backward = transformable(
    torch.ops.sigmoid_attention.attend_softmax_backward, _no_second_grad
)
