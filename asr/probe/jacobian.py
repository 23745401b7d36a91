"""How strongly a module answers to small changes of its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NUM_ITERATIONS = 20


def jacobian_norms(
    f: Callable[[Tensor], Tensor], x_btd: Tensor, num_iterations: int = NUM_ITERATIONS
) -> Tensor:
    """(b) the spectral norm of each utterance's Jacobian d f(x)[b] / d x[b] at x, a matrix of (t d)
    rows and columns: the local Lipschitz constant of f there in the Euclidean norm over all frames and
    channels, which "Theory, Analysis, and Best Practices for Sigmoid Self-Attention" (Ramapuram et al.
    2024, arXiv 2409.04431, section on regularity) bounds for sigmoid.

    Power iteration on J^T J by products with J (forward mode) and J^T (reverse mode) from a fixed
    random start: what is returned is ``|J v|`` of a unit v, so it is never above the norm and grows
    towards it. f must keep utterances apart.
    """
    pull = torch.func.vjp(f, x_btd)[1]
    start = torch.Generator().manual_seed(0)
    v_btd = torch.randn(x_btd.shape, generator=start, dtype=torch.float64).to(x_btd)
    smallest = torch.finfo(x_btd.dtype).tiny
    norm_b = x_btd.new_zeros(len(x_btd))
    for _ in range(num_iterations):
        length_b = torch.linalg.vector_norm(v_btd, dim=(1, 2)).clamp(min=smallest)
        u_btd = torch.func.jvp(f, (x_btd,), (v_btd / length_b[:, None, None],))[1]
        norm_b = torch.linalg.vector_norm(u_btd, dim=(1, 2))
        (v_btd,) = pull(u_btd)
    return norm_b
