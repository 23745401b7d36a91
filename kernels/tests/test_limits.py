"""Limits that no position reaches mean no limit, on every backend, whatever their size."""

import sys

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend

HUGE = (2**31, 2**40, 2**61, 2**62, sys.maxsize, 2**63, 2**70)
NO_LIMIT = {
    "window": lambda most: {"window": most},
    "left": lambda most: {"window": (most, None)},
    "right": lambda most: {"window": (None, most)},
    "size": lambda most: {"chunk": most},
    "size and left chunks": lambda most: {"chunk": (most, most)},
}
LEFT = (("window", lambda left: (left, 1)), ("chunk", lambda left: (3, left)))
STARTS = ((0, 0), (5, 2), (2**60, 2**60 - 7), (7, 2**60), (2**60, 0))
PACKED = torch.tensor([0, 3, 3, 8])
MAPS = ("sigmoid", "softmax", "relu")
BACKENDS = ("auto", "blockwise", "sdpa", "reference")


def outputs(weighting, mask, dtype=torch.float32, position=None):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 8, 4, dtype=dtype).unbind(0)
    how = {"weighting": getattr(Weighting, weighting)(), "mask": mask, "position": position}
    backends = [b for b in BACKENDS if b != "sdpa" or weighting == "softmax"]
    return [attend(q, k, v, **how, backend=backend) for backend in backends]


def assert_all(got, right):
    for o in got:
        torch.testing.assert_close(o, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighting", MAPS)
@pytest.mark.parametrize("name", NO_LIMIT)
@pytest.mark.parametrize("most", HUGE)
def test_a_huge_limit_is_none(most, name, weighting):
    limits = NO_LIMIT[name](most)
    for packed in ({}, {"cu_seqlens": PACKED}):
        right = outputs(weighting, Mask(**packed))[-1]
        assert_all(outputs(weighting, Mask(**limits, **packed)), right)


@pytest.mark.parametrize("field", LEFT, ids=lambda field: field[0])
@pytest.mark.parametrize("start", STARTS, ids=str)
@pytest.mark.parametrize("most", HUGE[2:])
def test_a_huge_limit_beside_a_small_one_and_late_positions(most, start, field):
    name, limits = field
    starts = {"q_start": start[0], "k_start": start[1]}
    right = outputs("sigmoid", Mask(**{name: limits(None)}, **starts))[-1]
    assert_all(outputs("sigmoid", Mask(**{name: limits(most)}, **starts)), right)


@pytest.mark.parametrize("name", ["window", "chunk"])
def test_late_positions_alone_change_nothing(name):
    """2**60 is a multiple of the chunk's size."""
    limits = {name: (4, 1)}
    for dtype in (torch.float32, torch.float64):
        position = PositionBias.alibi(torch.ones(2))
        right = outputs("sigmoid", Mask(**limits), dtype, position)[-1]
        late = Mask(**limits, q_start=2**60, k_start=2**60)
        assert_all(outputs("sigmoid", late, dtype, position), right)


@pytest.mark.parametrize("most", HUGE[-2:])
def test_a_huge_limit_where_a_compiler_traces(most):
    torch._dynamo.reset()
    q, k, v = torch.randn(3, 1, 1, 8, 4).unbind(0)

    def of(mask):
        return lambda x: attend(x, k, v, weighting=Weighting.sigmoid(), mask=mask)

    compiled = torch.compile(of(Mask(window=most)), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q), of(None)(q))


def test_limits_are_kept_as_given():
    mask = Mask(window=2**70, chunk=(2**70, None))
    assert mask.window == 2**70
    assert mask.chunk == (2**70, None)
