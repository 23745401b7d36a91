"""Names that PyTorch keeps private and this package uses, each beside a public twin.

Any release may take such a name away or change what it does. So each is tried once, on import; where it
fails or disagrees with its twin, the twin serves: the same results, with a temporary tensor more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# (p, dp) -> ds, in place of dp
Backward = Callable[[Tensor, Tensor], Tensor]


def _private_softmax_backward_(p: Tensor, dp: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten._softmax_backward_data.out(dp, p, -1, p.dtype, grad_input=dp)
    return out


def _public_softmax_backward_(p: Tensor, dp: Tensor) -> Tensor:
    return dp.sub_((dp * p).sum(-1, keepdim=True)).mul_(p)


def _private_sigmoid_backward_(p: Tensor, dp: Tensor) -> Tensor:
    out: Tensor = torch.ops.aten.sigmoid_backward.grad_input(dp, p, grad_input=dp)
    return out


def _public_sigmoid_backward_(p: Tensor, dp: Tensor) -> Tensor:
    return dp.mul_(p).mul_(1 - p)


def first_that_agrees(private: Backward, public: Backward) -> Backward:
    """Return the private function where it gives what its public twin gives, else the twin."""
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], device="cpu", dtype=torch.float64)
    dp = torch.tensor([[1.0, -2.0], [3.0, 0.5]], device="cpu", dtype=torch.float64)
    try:
        with torch.no_grad():
            agree = torch.allclose(private(p, dp.clone()), public(p, dp.clone()))
    except (AttributeError, RuntimeError, TypeError):  # no such name, or other arguments
        return public
    return private if agree else public


def _always() -> bool:
    """Say that torch.func transforms every call: right for all of them, and slower for most."""
    return True


softmax_backward_ = first_that_agrees(_private_softmax_backward_, _public_softmax_backward_)
sigmoid_backward_ = first_that_agrees(_private_sigmoid_backward_, _public_sigmoid_backward_)
transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", _always
)
