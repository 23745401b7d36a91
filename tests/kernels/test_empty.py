"""Nothing to attend to, nobody who attends, no utterance: every CPU backend as the reference."""

import pytest
import torch
from sigmoid_attention import dispatch

from .cases import POSITIONS, WEIGHTINGS, Sizes, assert_same, make

EMPTY = {
    "no utterance": {"batch": 0},
    "no query": {"queries": 0},
    "no key": {"keys": 0},
    "no frame": {"queries": 0, "keys": 0},
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
