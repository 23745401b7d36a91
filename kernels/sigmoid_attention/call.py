"""The one way into the operators: which of them serves a flat call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .flat import Flat
from .ops import attend_sums, no_forward_grad
from .softmax_op import attend_softmax
from .weightings import MAPS


def call(flat: Flat, engine: str) -> Tensor:
    """o_bhtd of a flat call through the operator; `engine` is "torch", "c++" or "triton"."""
    if not torch.compiler.is_compiling():
        _refuse_forward_derivatives(flat)
    o: Tensor
    if engine == "triton" and MAPS[flat.map].weight is None:
        o, _ = attend_softmax(*flat, engine)
        return o
    o = attend_sums(*flat, engine)
    return o


def _refuse_forward_derivatives(flat: Flat) -> None:
    """Raise where an input carries a tangent, which the operator would drop without a word.

    Code compiled around torch.func.jvp is not detected: its tangents are no part of the tensors.
    """
    for x in flat:
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            no_forward_grad(None)
