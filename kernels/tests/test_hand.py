"""Sign conventions and the edge contract, pinned by numbers computed by hand."""

import math

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, attention_weights

BACKENDS = ("reference", "blockwise")


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1)


def sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigmoid_minus_log_n(backend):
    o = attend(
        column(2.0),
        column(1.0, -3.0),
        column(10.0, 100.0),
        weighting=Weighting.sigmoid(),
        scale=0.5,
        backend=backend,
    )
    expected = 10 * sigma(1 - math.log(2)) + 100 * sigma(-3 - math.log(2))
    assert o.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", [*BACKENDS, "sdpa"])
def test_alibi_is_subtracted(backend):
    o = attend(
        column(0.0, 0.0),
        column(1.0, 1.0),
        column(1.0, 0.0),
        weighting=Weighting.softmax(),
        position=PositionBias.alibi(torch.tensor([3.0], dtype=torch.float64)),
        backend=backend,
    )
    near, far = math.exp(0.0), math.exp(-3.0)
    assert o.flatten().tolist() == pytest.approx([near / (near + far), far / (near + far)])


def test_causal_alibi_counts_the_distance_back():
    slopes = torch.tensor([3.0], dtype=torch.float64)
    p = attention_weights(
        column(0.0, 0.0),
        column(1.0, 1.0),
        weighting=Weighting.sigmoid(shift=None),
        position=PositionBias.alibi(slopes, symmetric=False),
        mask=Mask(causal=True),
    )
    assert p.flatten().tolist() == pytest.approx([sigma(0.0), 0.0, sigma(-3.0), sigma(0.0)])


def test_table_offset_is_key_minus_query():
    table = PositionBias.table(torch.tensor([[-7.0, 0.0, 5.0]], dtype=torch.float64), zero=1)
    p = attention_weights(
        column(0.0, 0.0, 0.0),
        column(1.0, 1.0, 1.0),
        weighting=Weighting.sigmoid(shift=None),
        position=table,
    )
    behind, same, ahead = sigma(-7.0), sigma(0.0), sigma(5.0)
    expected = [same, ahead, ahead, behind, same, ahead, behind, behind, same]
    assert p.flatten().tolist() == pytest.approx(expected)


def test_relative_scales_both_terms():
    u, v = torch.tensor([[0.5]]).double(), torch.tensor([[0.25]]).double()
    r = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64).view(1, 3, 1)
    p = attention_weights(
        column(1.0, 2.0),
        column(1.0, -1.0),
        weighting=Weighting.sigmoid(shift=None),
        position=PositionBias.relative(u, v, r, zero=1),
        scale=0.1,
    )
    rows = [
        (1.5 * 1 + 1.25 * 3, 1.5 * -1 + 1.25 * 4),
        (2.5 * 1 + 2.25 * 2, 2.5 * -1 + 2.25 * 3),
    ]
    expected = [sigma(0.1 * s) for row in rows for s in row]
    assert p.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "expected"), [("visible", [1, 2, 3]), ("sequence", [3, 3, 3]), (7, [7, 7, 7])]
)
def test_what_n_counts(n, expected):
    q = torch.zeros(1, 1, 3, 1, dtype=torch.float64)
    p = attention_weights(q, q, weighting=Weighting.sigmoid(n=n), mask=Mask(causal=True))
    for row, count in enumerate(expected):
        weight = sigma(-math.log(count))
        assert p[0, 0, row].tolist() == pytest.approx([weight] * (row + 1) + [0.0] * (2 - row))
