"""Positions against hand-computed values and against what their definitions promise."""

from __future__ import annotations

import math

import pytest
import torch
from sigmoid_attention import Mask, Weighting, attend

from asr.nn.position import Alibi, Position, Relative, Rope, alibi_slopes, sinusoids


def test_rope_turns_a_pair_by_the_hand_computed_angle() -> None:
    rope = Rope(head_dim=4, base=100.0)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    turned, same, bias = rope(x, x, 3, 0)
    # frequencies 1 and 100^-(2/4) = 0.1; channel 0 is paired with 2, channel 1 with 3
    expected = [
        1 * math.cos(3) - 3 * math.sin(3),
        2 * math.cos(0.3) - 4 * math.sin(0.3),
        3 * math.cos(3) + 1 * math.sin(3),
        4 * math.cos(0.3) + 2 * math.sin(0.3),
    ]
    torch.testing.assert_close(turned.flatten(), torch.tensor(expected))
    torch.testing.assert_close(same, x)
    assert bias is None


def test_rope_scores_depend_on_the_offset_alone() -> None:
    torch.manual_seed(0)
    rope = Rope(head_dim=16)
    q, k = torch.randn(1, 2, 5, 16), torch.randn(1, 2, 7, 16)
    here_q, here_k, _ = rope(q, k, 0, 0)
    far_q, far_k, _ = rope(q, k, 90_000, 90_000)
    torch.testing.assert_close(far_q @ far_k.mT, here_q @ here_k.mT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("num_heads", "expected"),
    [
        (1, [2**-8]),
        (4, [2**-2, 2**-4, 2**-6, 2**-8]),
        (8, [2**-i for i in range(1, 9)]),
        # the four of 4 heads, then every second of 8
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
    ],
)
def test_alibi_slopes(num_heads: int, expected: list[float]) -> None:
    assert alibi_slopes(num_heads) == pytest.approx(expected)


def test_alibi_is_subtracted_on_both_sides() -> None:
    alibi = Alibi(1)
    q = k = torch.zeros(1, 1, 3, 4)
    v = torch.eye(3).view(1, 1, 3, 3)
    _, _, bias = alibi(q, k, 0, 0)
    weights = attend(q, k, v, weighting=Weighting.softmax(), position=bias)[0, 0]
    slope = 2.0**-8
    row = torch.tensor([math.exp(-slope), 1.0, math.exp(-slope)])
    torch.testing.assert_close(weights[1], row / row.sum())
    row = torch.tensor([1.0, math.exp(-slope), math.exp(-2 * slope)])
    torch.testing.assert_close(weights[0], row / row.sum())


def test_sinusoids_by_hand() -> None:
    table = sinusoids(torch.tensor([-2, 0, 1]), 4)
    expected = [
        [math.sin(-2), math.sin(-0.02), math.cos(2), math.cos(0.02)],
        [0, 0, 1, 1],
        [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)],
    ]
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64))


def test_relative_scores_equal_the_four_terms_of_the_paper() -> None:
    """Every pair computed on its own: (q+u).k + (q+v).W r[key - query], times the scale."""
    torch.manual_seed(1)
    dim, num_heads, num_q, num_k, q_start, k_start = 8, 2, 3, 5, 4, 2
    relative = Relative(dim, num_heads).double()
    torch.nn.init.normal_(relative.u_hd)
    torch.nn.init.normal_(relative.v_hd)
    q = torch.randn(1, num_heads, num_q, 4, dtype=torch.float64)
    k = torch.randn(1, num_heads, num_k, 4, dtype=torch.float64)
    _, _, bias = relative(q, k, q_start, k_start)
    mask = Mask(q_start=q_start, k_start=k_start)
    values = torch.eye(num_k, dtype=torch.float64).expand(1, num_heads, -1, -1)
    weights = attend(
        q, k, values, weighting=Weighting.sigmoid(shift=None), position=bias, mask=mask
    )
    for head in range(num_heads):
        w_head = relative.project.weight[4 * head : 4 * head + 4]
        for i in range(num_q):
            for j in range(num_k):
                offset = torch.tensor([(k_start + j) - (q_start + i)])
                r = w_head @ sinusoids(offset, dim)[0]
                content = (q[0, head, i] + relative.u_hd[head]) @ k[0, head, j]
                score = (content + (q[0, head, i] + relative.v_hd[head]) @ r) / 2.0
                torch.testing.assert_close(weights[0, head, i, j], score.sigmoid())


def test_relative_position_term_factorises_by_angle_addition() -> None:
    """sin(a - b) and cos(a - b) split, so with W = 1 the position term is a plain product of turned
    queries and absolute sinusoids: an oracle that never forms an offset."""
    torch.manual_seed(2)
    dim, frames = 8, 11
    relative = Relative(dim, 1).double()
    torch.nn.init.eye_(relative.project.weight)
    q = torch.randn(1, 1, frames, dim, dtype=torch.float64)
    zero_k = torch.zeros(1, 1, frames, dim, dtype=torch.float64)
    _, _, bias = relative(q, zero_k, 0, 0)
    values = torch.eye(frames, dtype=torch.float64)[None, None]
    weights = attend(
        q, zero_k, values, weighting=Weighting.sigmoid(shift=None), position=bias, scale=1.0
    )
    table = sinusoids(torch.arange(frames), dim)
    sin, cos = table[:, : dim // 2], table[:, dim // 2 :]
    q_sin, q_cos = q[0, 0, :, : dim // 2], q[0, 0, :, dim // 2 :]
    # q_s sin(j-i) + q_c cos(j-i) = sin j (q_s cos i + q_c sin i) + cos j (q_c cos i - q_s sin i)
    turned = torch.cat([q_sin * cos + q_cos * sin, q_cos * cos - q_sin * sin], dim=-1)
    scores = turned @ torch.cat([sin, cos], dim=-1).T
    torch.testing.assert_close(weights[0, 0], scores.sigmoid())


def test_no_position_changes_nothing() -> None:
    q, k = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4)
    assert Position()(q, k, 5, 9) == (q, k, None)
