"""Positions against hand-computed values and against what their definitions promise."""

from __future__ import annotations

import math

import pytest
import torch
from sigmoid_attention import Mask, Weighting, attend

from asr.errors import InputError
from asr.nn.position import (
    Alibi,
    Cape,
    Learned,
    Position,
    Relative,
    Rope,
    Sinusoidal,
    Table,
    alibi_slopes,
    offset_buckets,
    sinusoids,
)


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


def test_rope_at_an_hour_of_frames_in_a_module_of_float32() -> None:
    """Angles are exact whatever type the module is put into, as a model is before training."""
    rope = torch.nn.ModuleList([Rope(head_dim=4, base=3.0)]).to(torch.float32)[0]
    frame = 90_001
    turned, _, _ = rope(
        torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4), torch.zeros(1, 1, 1, 4), frame, 0
    )
    angle = frame * 3.0**-0.5
    expected = [0.0, math.cos(angle), 0.0, math.sin(angle)]
    torch.testing.assert_close(turned.flatten(), torch.tensor(expected), rtol=1e-6, atol=1e-6)


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


def test_table_shares_distant_offsets_by_hand() -> None:
    """Eight buckets, four a side: 0 and 1 alone, then [2, 6) and beyond for a distance of 18, since
    2 * sqrt(18 / 2) = 6."""
    offsets = torch.tensor([-30, -6, -5, -2, -1, 0, 1, 2, 5, 6, 30])
    buckets = offset_buckets(offsets, num_buckets=8, max_distance=18)
    assert buckets.tolist() == [3, 3, 2, 2, 1, 0, 5, 6, 6, 7, 7]


def test_table_buckets_are_those_of_t5() -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="transformers is absent")
    offsets = torch.arange(-300, 301)
    for num_buckets, max_distance in ((32, 128), (16, 64), (8, 20)):
        theirs = t5.T5Attention._relative_position_bucket(offsets, True, num_buckets, max_distance)
        torch.testing.assert_close(offset_buckets(offsets, num_buckets, max_distance), theirs)


def test_table_adds_the_offsets_value_to_the_score() -> None:
    torch.manual_seed(3)
    table = Table(num_heads=2, num_buckets=8, max_distance=4).double()
    torch.nn.init.normal_(table.values_hc)
    q = k = torch.zeros(1, 2, 9, 4, dtype=torch.float64)
    v = torch.eye(9, dtype=torch.float64).expand(1, 2, -1, -1)
    mask = Mask(q_start=3, k_start=1)
    _, _, bias = table(q, k, mask.q_start, mask.k_start)
    none = Weighting.sigmoid(shift=None)
    weights = attend(q, k, v, weighting=none, position=bias, mask=mask)
    for i in range(9):
        for j in range(9):
            bucket = offset_buckets(torch.tensor([(1 + j) - (3 + i)]), 8, 4)[0]
            torch.testing.assert_close(weights[0, :, i, j], table.values_hc[:, bucket].sigmoid())


def test_learned_positions_are_added_from_where_a_piece_starts() -> None:
    module = Learned(num_positions=7, dim=3)
    x_btd = torch.randn(2, 4, 3)
    lens_b = torch.tensor([4, 2])
    for start in (0, 3):
        expected_btd = x_btd + module.table_pd[start : start + 4]
        torch.testing.assert_close(module(x_btd, lens_b, start), expected_btd)
    with pytest.raises(InputError, match=r"num_positions = 7: .* 8 are asked for"):
        module(x_btd, lens_b, 4)


def test_sinusoidal_adds_the_frames_number_by_hand() -> None:
    x_btd = torch.ones(1, 2, 4)
    out = Sinusoidal()(x_btd, torch.tensor([2]), 5)
    expected = [
        [2 + math.sin(5), 2 + math.sin(0.05), 2 + math.cos(5), 2 + math.cos(0.05)],
        [2 + math.sin(6), 2 + math.sin(0.06), 2 + math.cos(6), 2 + math.cos(0.06)],
    ]
    torch.testing.assert_close(out[0], torch.tensor(expected))


def test_cape_counts_from_the_middle_of_each_utterance() -> None:
    cape = Cape().eval()
    out = cape(torch.zeros(2, 5, 4), torch.tensor([5, 2]), 0)
    for row, middle in ((0, 2.0), (1, 0.5)):
        expected = sinusoids(torch.arange(5) - middle, 4).float()
        torch.testing.assert_close(out[row], expected)
    with pytest.raises(ValueError, match="whole utterances"):
        cape(torch.zeros(1, 5, 4), torch.tensor([5]), 3)


def test_cape_moves_positions_within_its_bounds_in_training() -> None:
    torch.manual_seed(4)
    cape = Cape(max_shift=100.0, max_local_shift=0.5, max_scale=1.25)
    positions_bt = torch.arange(-20.0, 21.0, dtype=torch.float64).expand(4000, -1)
    moved_bt = cape._augment(positions_bt)
    # least squares per utterance: what stretches, what shifts, what is left over
    scales_b = (moved_bt * positions_bt).sum(1) / (positions_bt**2).sum(1)
    shifts_b = moved_bt.mean(1) / scales_b
    left_bt = moved_bt / scales_b[:, None] - positions_bt - shifts_b[:, None]
    assert 0.79 < float(scales_b.min()) < 0.81
    assert 1.24 < float(scales_b.max()) < 1.27
    assert 98.0 < float(shifts_b.abs().max()) < 101.0
    # uniform on (-100, 100) has a deviation of 57.7, on (-0.5, 0.5) of 0.289
    assert float(shifts_b.std()) == pytest.approx(57.7, rel=0.03)
    assert float(left_bt.std()) == pytest.approx(0.289, rel=0.05)
    assert bool((moved_bt.diff(dim=1) > 0).all())  # frames keep their order


def test_cape_differs_between_passes_in_training_only() -> None:
    cape, x_btd, lens_b = Cape(), torch.zeros(1, 5, 4), torch.tensor([5])
    assert not torch.equal(cape(x_btd, lens_b, 0), cape(x_btd, lens_b, 0))
    cape.eval()
    assert torch.equal(cape(x_btd, lens_b, 0), cape(x_btd, lens_b, 0))
