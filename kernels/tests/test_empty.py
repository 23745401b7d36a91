"""No key, no query, no utterance, no channel: every CPU backend as the reference."""

import pytest
import torch
from sigmoid_attention import PositionBias, Weighting, attend, dispatch

from .cases import POSITIONS, WEIGHTINGS, Sizes, assert_same, make

EMPTY = {
    "no utterance": {"batch": 0},
    "no query": {"queries": 0},
    "no key": {"keys": 0},
    "no frame": {"queries": 0, "keys": 0},
    "no value channel": {"dv": 0},
    "neither channel": {"d": 0, "dv": 0},
}
BACKENDS = ("blockwise", "sdpa")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_empty(weighting, position, dtype):
    """Outputs and gradients are zeros of the same shapes; float32 is the C++ engine's."""
    for size in EMPTY.values():
        for mask in ("none", "lens", "chunk"):
            sizes = Sizes(**size, dtype=dtype)
            expected = make(weighting, position, mask, sizes).run("reference")
            assert not any(x.any() for x in expected)
            for backend in BACKENDS:
                case = make(weighting, position, mask, sizes)
                if backend == "sdpa" and case.weighting.map != "softmax":
                    continue
                dispatch.resolve(case.weighting, case.position, case.mask, backend=backend)
                got = case.run(backend)
                assert [x.shape for x in got] == [x.shape for x in expected]
                assert_same(got, expected, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_no_channel(weighting, position, dtype):
    """Without channels q . k is 0, and weights are what shift and position make of it."""
    bound = 1e-5 if dtype == torch.float32 else 1e-12
    for mask in ("none", "lens", "chunk"):
        sizes = Sizes(d=0, dtype=dtype)
        expected = make(weighting, position, mask, sizes).run("reference")
        for backend in BACKENDS:
            case = make(weighting, position, mask, sizes)
            if backend == "sdpa" and case.weighting.map != "softmax":
                continue
            got = case.run(backend)
            assert [x.shape for x in got] == [x.shape for x in expected]
            assert_same(got, expected, bound, bound)


def test_no_channel_by_hand():
    """Sigmoid of 0 - log 3 is 1/4, and softmax's weights sum to 1; either sums three values of 1."""
    q, k, v = torch.zeros(1, 1, 2, 0), torch.zeros(1, 1, 3, 0), torch.ones(1, 1, 3, 1)
    for backend in ("auto", "reference", "blockwise"):
        o = attend(q, k, v, weighting=Weighting.sigmoid(), backend=backend)
        torch.testing.assert_close(o, torch.full((1, 1, 2, 1), 0.75))
        alibi = PositionBias.alibi(torch.ones(1))
        o = attend(q, k, v, weighting=Weighting.softmax(), position=alibi, backend=backend)
        torch.testing.assert_close(o, torch.ones(1, 1, 2, 1))
