"""CTC loss on a GPU without a word to the host, so that a whole training step fits a CUDA graph.

One Triton program walks an utterance forwards, another one backwards, one frame a turn; what they
leave is put together by PyTorch. Gradients are sums by matrix products: the same bits on every run.
"""

# Kernel code: its names are read by Triton's compiler, not by a type checker.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# "impossible": far below any log-probability of an utterance, and its sums stay finite
NEVER = -1e30


@triton.jit
def _walk(
    emission,  # (b, t, S) log-probability of each state's label
    skips,  # (2, b, S) 1 where a state can be entered from the one before the one before
    starts,  # (2, b, S) 0 where a walk may begin, NEVER elsewhere
    lens,  # (b)
    out,  # (2, b, t, S)
    batch,
    frames,
    S: tl.constexpr,
    NONE: tl.constexpr,
):
    b, way = tl.program_id(0), tl.program_id(1)
    state = tl.arange(0, S)
    row = (way * batch + b) * S + state
    can_skip = tl.load(skips + row) != 0
    alpha = tl.load(starts + row)
    length = tl.load(lens + b)
    # the way back is the way forth over states and frames in reverse
    column = tl.where(way == 0, state, S - 1 - state)
    first = tl.where(way == 0, 0, length - 1)
    step = tl.where(way == 0, 1, -1)
    read = emission + b.to(tl.int64) * frames * S + column
    write = out + (way * batch + b).to(tl.int64) * frames * S + column
    one, two = tl.maximum(state - 1, 0), tl.maximum(state - 2, 0)
    at = first
    # one frame ahead, so that no turn waits for memory
    heard = tl.load(read + at * S, mask=length > 0, other=0.0)
    for t in range(length):
        following = at + step
        there = t + 1 < length
        next_heard = tl.load(read + following * S, mask=(state >= 0) & there, other=0.0)
        if t > 0:
            before = tl.where(state >= 1, tl.gather(alpha, one, 0), NONE)
            earlier = tl.where((state >= 2) & can_skip, tl.gather(alpha, two, 0), NONE)
            most = tl.maximum(tl.maximum(alpha, before), earlier)
            total = tl.exp(alpha - most) + tl.exp(before - most) + tl.exp(earlier - most)
            alpha = most + tl.log(total)
        alpha = tl.maximum(alpha + heard, NONE)
        tl.store(write + at * S, alpha)
        heard = next_heard
        at = following


def _lattice(tokens_bu: Tensor, token_lens_b: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(b, S) label of each state, (2, b, S) skips and starts of both ways; states past an
    utterance's last are never entered. The way back counts states from the far end."""
    batch, most = tokens_bu.shape
    labels = tokens_bu.new_zeros(batch, size)
    labels[:, 1 : 2 * most : 2] = tokens_bu
    state = torch.arange(size, device=tokens_bu.device)
    last_b1 = 2 * token_lens_b[:, None]
    exists = state <= last_b1
    labels = torch.where(exists, labels, 0)
    forth = torch.zeros_like(exists)
    forth[:, 2:] = (labels[:, 2:] != 0) & (labels[:, 2:] != labels[:, :-2]) & exists[:, 2:]
    back = torch.zeros_like(exists)
    back[:, :-2] = forth[:, 2:]
    begins = (state <= 1) & exists
    ends = (state >= last_b1 - 1) & exists
    skips = torch.stack([forth, back.flip(1)]).to(torch.int32)
    starts = torch.where(torch.stack([begins, ends.flip(1)]), 0.0, NEVER)
    return labels, skips, starts


class _Ctc(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, log_probs_btv: Tensor, lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
    ) -> Tensor:
        batch, frames, vocabulary = log_probs_btv.shape
        size = max(triton.next_power_of_2(2 * tokens_bu.shape[1] + 1), 32)
        labels, skips, starts = _lattice(tokens_bu, token_lens_b, size)
        log_probs_btv = log_probs_btv.float()
        emission = log_probs_btv.gather(2, labels[:, None].expand(-1, frames, -1)).contiguous()
        walked = torch.full((2, batch, frames, size), NEVER, device=emission.device)
        warps = max(1, min(size // 64, 8))
        _walk[(batch, 2)](
            emission, skips, starts, lens_b.int(), walked, batch, frames,
            S=size, NONE=NEVER, num_warps=warps,
        )  # fmt: skip
        # both ways count the frame's own emission
        together = walked[0] + walked[1] - emission
        total_b = together[:, 0].logsumexp(1)
        posterior = (together - total_b[:, None, None]).clamp(max=0.0).exp()
        within = torch.arange(frames, device=lens_b.device) < lens_b[:, None]
        posterior = torch.where(within[..., None], posterior, 0.0)
        hot = (labels[..., None] == torch.arange(vocabulary, device=labels.device)).float()
        with torch.autocast(posterior.device.type, enabled=False):
            ctx.save_for_backward(torch.bmm(posterior, hot))
        return -total_b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (summed_btv,) = ctx.saved_tensors
        return -summed_btv * grads[0][:, None, None], None, None, None


def ctc_loss(
    log_probs_btv: Tensor, lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
) -> Tensor:
    """(b) minus the log-probability of each transcript; blank is 0, and every transcript fits."""
    loss_b: Tensor = _Ctc.apply(log_probs_btv, lens_b, tokens_bu, token_lens_b)
    return loss_b
