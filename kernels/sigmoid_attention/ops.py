"""The two private operators that torch.library sees: a flat call, and its gradients.

Tensors, numbers and names only, so torch.compile and torch.export take the whole as one node.
Nothing is saved for the backward but the inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from . import blockwise
from . import cpp_engine as cpp
from .flat import Flat
from .private import transforms_active
from .tiles import Sums

# What a call can be differentiated by: positions of its arguments, in the order of gradients.
TENSORS = (
    "q",
    "k",
    "v",
    "row_shift_bht",
    "bias_h",
    "slopes_h",
    "table_hp",
    "u_hd",
    "vb_hd",
    "r_hpd",
)
_AT = tuple(Flat._fields.index(name) for name in TENSORS)
# What 1 / n becomes: no kernel has its gradient.
_FACTOR = Flat._fields.index("row_factor_bht")


def _triton_forward(flat: Flat) -> Tensor:
    from .triton import launch  # triton is imported by those who ask for it, and then only here

    with torch.cuda.device_of(flat.q):  # Triton launches on the current device
        return launch.forward(flat)


def _triton_backward(flat: Flat, do: Tensor, row: bool, by_offset: bool) -> Sums:
    from .triton import launch

    with torch.cuda.device_of(flat.q):
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
    "Tensor q, Tensor k, Tensor v, Tensor? lo_bt, Tensor? hi_bt, Tensor? row_shift_bht, "
    "Tensor? row_factor_bht, Tensor? bias_h, Tensor? slopes_h, Tensor? table_hp, Tensor? u_hd, "
    "Tensor? vb_hd, Tensor? r_hpd, str map, int power, str precision, float scale, float shift, "
    "SymInt delta, SymInt zero, bool prefix, str engine"
)
_NO_DERIVATIVE = "fused attention are not implemented; use backend='reference'"
FORWARD_OP = "sigmoid_attention::attend"
BACKWARD_OP = "sigmoid_attention::attend_backward"
torch.library.define(FORWARD_OP, f"({_ARGUMENTS}) -> Tensor")
torch.library.define(BACKWARD_OP, f"(Tensor do, bool[] needs, {_ARGUMENTS}) -> Tensor[]")


def _nothing_kept(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def no_forward_grad(ctx: Any, *tangents: Any) -> None:
    raise NotImplementedError(f"forward-mode derivatives of {_NO_DERIVATIVE}")


def transformable(
    op: Callable[..., Any],
    backward: Callable[..., Any],
    setup: Callable[..., None] = _nothing_kept,
) -> Callable[..., Any]:
    """Return `op`, run as an autograd.Function of the same formulas where torch.func transforms it.

    What torch.library makes of registered formulas has no setup_context, which torch.func wants.
    """

    def forward(*args: Any) -> Any:
        out = op(*args)
        return tuple(out) if isinstance(out, list) else out  # a list would have no gradient

    def each(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        """Call the operator once for each of what vmap batches."""
        outs = []
        for i in range(info.batch_size):
            pairs = zip(args, in_dims, strict=True)
            outs.append(run(*(x.select(at, i) if isinstance(at, int) else x for x, at in pairs)))
        if isinstance(outs[0], Tensor):
            return torch.stack(outs), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*outs, strict=True))
        return stacked, (0,) * len(stacked)

    members = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup),
        "backward": staticmethod(backward),
        "jvp": staticmethod(no_forward_grad),
        "vmap": staticmethod(each),
    }
    function = type("Transformable", (torch.autograd.Function,), members)

    def run(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not transforms_active():
            return op(*args)
        return function.apply(*args)  # type: ignore[attr-defined]

    return run


def is_empty(flat: Flat) -> bool:
    """Tell whether the output has no elements or no key: it is 0 then, and so are all gradients."""
    return 0 in flat.q.shape[:3] or flat.v.numel() == 0


def no_gradients(flat: Flat, needs: list[bool]) -> list[Tensor]:
    """Return zeros for each gradient that is needed."""
    named = zip(TENSORS, needs, strict=True)
    return [
        torch.zeros_like(getattr(flat, name), memory_format=torch.contiguous_format)
        for name, needed in named
        if needed
    ]


def as_given(flat: Flat) -> AbstractContextManager[Any]:
    """Compute in the types of the call: autocast around it would round what is summed in float32."""
    return torch.autocast(flat.q.device.type, enabled=False)


@torch.library.impl(FORWARD_OP, "default")
def _forward(*args: Any) -> Tensor:
    *fields, engine = args
    flat = Flat(*fields)
    if is_empty(flat):
        return flat.q.new_zeros(*flat.q.shape[:3], flat.v.shape[3])
    with as_given(flat):
        return _FORWARD[engine](flat)


@torch.library.register_fake(FORWARD_OP)
def _fake_forward(*args: Any) -> Tensor:
    flat = Flat(*args[:-1])
    return flat.q.new_empty(*flat.q.shape[:3], flat.v.shape[3])


@torch.library.impl(BACKWARD_OP, "default")
def _backward(do: Tensor, needs: list[bool], *args: Any) -> list[Tensor]:
    *fields, engine = args
    flat = Flat(*fields)
    if is_empty(flat):
        return no_gradients(flat, needs)
    wanted = dict(zip(TENSORS, needs, strict=True))
    by_offset = wanted["slopes_h"] or wanted["table_hp"]
    with as_given(flat):
        row = wanted["bias_h"] or wanted["row_shift_bht"]
        sums = _BACKWARD[engine](flat, do, row, by_offset)
        grads = finish(flat, sums)
    return [
        grads[name].to(getattr(flat, name).dtype).contiguous() for name in TENSORS if wanted[name]
    ]


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
    if ctx.needs_input_grad[_FACTOR]:
        raise NotImplementedError(f"derivatives by Weighting.n of {_NO_DERIVATIVE}")
    saved = iter(ctx.saved_tensors)
    args = [next(saved) if x is None else x[0] for x in ctx.rest]
    needs = [ctx.needs_input_grad[i] for i in _AT]
    grads = iter(_attend_backward(do, needs, *args))
    out: list[Tensor | None] = [None] * len(args)
    for i, needed in zip(_AT, needs, strict=True):
        if needed:
            out[i] = next(grads)
    return tuple(out)


torch.library.register_autograd(FORWARD_OP, _grad, setup_context=_setup)


def _no_second_grad(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError(f"second derivatives of {_NO_DERIVATIVE}")


# Without a formula PyTorch takes the gradients for constants and gives 0.
torch.library.register_autograd(BACKWARD_OP, _no_second_grad)

attend_sums = transformable(torch.ops.sigmoid_attention.attend, _grad, _setup)
_attend_backward = transformable(torch.ops.sigmoid_attention.attend_backward, _no_second_grad)


def finish(flat: Flat, sums: Sums) -> dict[str, Tensor]:
    """Turn sums into the gradients of a call's tensors, contiguous."""
    dq = sums.q if sums.scaled else sums.q * flat.scale
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
        if flat.row_shift_bht is not None:
            grads["row_shift_bht"] = sums.row.sum_to_size(flat.row_shift_bht.shape)
    if sums.by_offset is not None and flat.r_hpd is None:
        lowest = flat.delta - (flat.q.shape[2] - 1)
        offset_o = torch.arange(lowest, lowest + sums.by_offset.shape[1], device=dq.device)
        grads["slopes_h"] = -(sums.by_offset * offset_o.abs()).sum(1)
        if flat.table_hp is not None:
            grads["table_hp"] = _by_column(flat, sums.by_offset, lowest)
    return grads


def _by_column(flat: Flat, by_offset: Tensor, lowest: int) -> Tensor:
    """(H, P) of a table's columns from (H, T + S - 1) of offsets from `lowest` on.

    Each column has one offset but the outermost two, which serve all beyond; these are sums of
    slices, so no atomics and equal bits each time.
    """
    assert flat.table_hp is not None
    table = by_offset.new_zeros(flat.table_hp.shape)
    last, first = table.shape[1] - 1, lowest + flat.zero  # first: the column of offset `lowest`
    below = min(max(-first, 0), by_offset.shape[1])
    above = min(max(last + 1 - first, below), by_offset.shape[1])
    table[:, first + below : first + above] = by_offset[:, below:above]
    if below:
        table[:, 0] += by_offset[:, :below].sum(1)
    if above < by_offset.shape[1]:
        table[:, last] += by_offset[:, above:].sum(1)
    return table
