"""The softmax kernels against the reference: in the interpreter, or on a GPU (marker `gpu`).

As test_triton.py, and as that file run by test_triton_interpreted.py in a process of its own.
"""

import itertools
import math
import os

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, resolve
from sigmoid_attention.flat import flatten

from .cases import MASKS, POSITIONS, Sizes, assert_same, make
from .test_operator import Layer
from .unproven import UNPROVEN

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(UNPROVEN, allow_module_level=True)

from sigmoid_attention.triton import configs, softmax_launch  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = (1, 7, 63, 111, 257)
PAIRS = [*itertools.product(POSITIONS, MASKS)]
# In half precision the other half's turn is on a GPU, where bfloat16 runs.
HALF = {torch.float16: 4e-3} if INTERPRETED else {torch.float16: 4e-3, torch.bfloat16: 3e-2}


def check(position, mask, rtol=2e-5, **sizes):
    """Output and every gradient within rtol of the largest value of the float64 reference's."""
    small = {"heads": 2, "kv_heads": 1, "d": 20, "dv": 16, "dtype": torch.float32, **sizes}
    case = make("softmax", position, mask, Sizes(**{**small, "device": DEVICE}))
    exact = make("softmax", position, mask, Sizes(**{**small, "dtype": torch.float64}))
    with torch.no_grad():
        for leaf, other in zip(case.leaves, exact.leaves, strict=True):
            other.copy_(leaf)
    assert_same([x.cpu().double() for x in case.run("triton")], exact.run("reference"), rtol, 1e-5)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """Memory that nobody wrote is NaN, so an output tile left out cannot pass."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


# every day each position with half of the masks and each mask with half of the positions
HALF_OF_THE_PAIRS = [
    pair for pair in PAIRS if (POSITIONS.index(pair[0]) + list(MASKS).index(pair[1])) % 2 == 0
]


@pytest.mark.parametrize(("position", "mask"), HALF_OF_THE_PAIRS)
def test_positions_and_masks(position, mask):
    check(position, mask, batch=2, heads=1, queries=33, keys=35)


@pytest.mark.slow
@pytest.mark.parametrize(("position", "mask"), PAIRS)
def test_positions_and_masks_full(position, mask):
    check(position, mask, batch=2, heads=1, queries=33, keys=35)


@pytest.mark.parametrize(("bm", "bn"), [(16, 16), (16, 64)])
def test_tiles_of_other_shapes(bm, bn, monkeypatch):
    for kernel in configs.KERNELS:
        monkeypatch.setitem(configs.INTERPRETED, kernel, configs.Config(bm, bn, 4, 1))
    check("relative", "window", batch=1, heads=1, queries=37, keys=45)


@pytest.mark.parametrize(("queries", "keys"), zip(LENGTHS, reversed(LENGTHS), strict=True))
@pytest.mark.parametrize("position", ["none", "table"])
def test_lengths(queries, keys, position):
    check(position, "none", batch=1, heads=1, queries=queries, keys=keys)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "keys"), itertools.product(LENGTHS, LENGTHS))
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mask", ["none", "lens", "causal", "window", "chunk"])
def test_lengths_full(queries, keys, position, mask):
    check(position, mask, batch=2, queries=queries, keys=keys)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("position", POSITIONS)
def test_half_precision(position, dtype):
    check(position, "lens", dtype=dtype, rtol=HALF[dtype], queries=33, keys=40, batch=2)


@pytest.mark.parametrize(("d", "dv"), [(32, 128), (128, 32), (80, 64)])
def test_channels(d, dv):
    check("alibi", "lens", d=d, dv=dv, queries=20, keys=40, batch=2)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads(groups):
    check("table", "causal", heads=4, kv_heads=4 // groups, queries=20, keys=20, batch=1)


@pytest.mark.parametrize("zero", [0, 2, 60])
def test_offsets_beyond_either_end_of_a_table_take_its_end(zero):
    case = make("softmax", "table", "none", Sizes(dtype=torch.float32, device=DEVICE))
    table = case.leaves[-1]
    if zero == 60:  # every offset lies within
        table = torch.randn(4, 121, device=DEVICE)
        case.leaves[-1] = table.requires_grad_()
    case.position = PositionBias.table(table, zero)
    got, expected = case.run("triton"), case.run("reference")
    assert_same(got, expected, 2e-5, 1e-5)


def test_the_same_call_gives_the_same_bits():
    sizes = Sizes(
        queries=40, keys=40, dtype=torch.float32, device=DEVICE, batch=1, heads=1, kv_heads=1
    )
    for position in ("table", "relative"):
        case = make("softmax", position, "lens", sizes)
        once, twice = case.run("triton"), case.run("triton")
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def run_scores(scores_ts, mask=None):
    """(o, gradients of scores) where q is an identity, k the scores and v counts the keys."""
    queries, keys = scores_ts.shape
    q = torch.eye(queries, device=DEVICE)[None, None].requires_grad_()
    k = scores_ts.T[None, None].to(DEVICE).clone().requires_grad_()
    v = torch.arange(1.0, keys + 1, device=DEVICE).view(1, 1, keys, 1)
    o = attend(q, k, v, weighting=Weighting.softmax(), mask=mask, scale=1.0, backend="triton")
    o.sum().backward()
    return o.detach().flatten().cpu(), k.grad[0, 0].T.cpu()


def test_extreme_scores_neither_overflow_nor_vanish():
    s = torch.tensor([[3e4, -3e4, 2e4], [-1e3, -1e3, -1e3], [-80.0, 80.0, 79.0]])
    o, ds = run_scores(s)
    values = torch.arange(1.0, 4.0)
    exact = s.double().requires_grad_()
    expected = exact.softmax(1) @ values.double()
    expected.sum().backward()
    torch.testing.assert_close(o.double(), expected.detach(), rtol=1e-5, atol=1e-6)
    # The backward's weights hold the rounding of a score of a thousand.
    torch.testing.assert_close(ds.double(), exact.grad, rtol=5e-4, atol=1e-5)


def test_a_score_of_minus_infinity_has_no_weight_and_a_row_of_them_is_zero():
    """One channel, so that no other product of an infinity is NaN."""
    k = torch.tensor([-math.inf, 1.0, 2.0, -math.inf], device=DEVICE).view(1, 1, 4, 1)
    v = torch.tensor([5.0, 1.0, 2.0, 7.0], device=DEVICE).view(1, 1, 4, 1)
    how = {"weighting": Weighting.softmax(), "mask": Mask(causal=True), "scale": 1.0}
    o = attend(torch.ones_like(k), k, v, **how, backend="triton").flatten().cpu()
    both = 2.0 - torch.tensor(-1.0).sigmoid().item()
    torch.testing.assert_close(o, torch.tensor([0.0, 1.0, both, both]))


def test_a_visible_nan_is_not_hidden():
    k = torch.tensor([0.0, math.nan, 1.0], device=DEVICE).view(1, 1, 3, 1)
    how = {"weighting": Weighting.softmax(), "mask": Mask(causal=True), "scale": 1.0}
    o = attend(torch.ones_like(k), k, torch.ones_like(k), **how, backend="triton").flatten()
    assert o.isnan().tolist() == [False, True, True]


def test_a_negative_scale():
    case = make("softmax", "none", "causal", Sizes(dtype=torch.float32, device=DEVICE))
    how = {"weighting": case.weighting, "mask": case.mask, "scale": -0.7}
    got = attend(case.q, case.k, case.v, **how, backend="triton")
    torch.testing.assert_close(got, attend(case.q, case.k, case.v, **how, backend="reference"))


def test_strided_views_and_gradients_of_any_stride():
    def leaves():
        g = torch.Generator().manual_seed(3)
        return torch.randn(3, 2, 20, 2, 16, generator=g).to(DEVICE).requires_grad_()

    results = []
    for backend in ("triton", "reference"):
        x = leaves()
        q, k, v = x.transpose(2, 3).unbind(0)
        o = attend(q, k, v, weighting=Weighting.softmax(), mask=Mask(causal=True), backend=backend)
        o.sum().backward()  # its gradient has strides of 0
        results.append([o.detach(), x.grad])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "scale"), [(1e12, None), (1e7, None), (1.0, 1e-50)])
def test_gradients_of_extreme_scores_stay_finite(size, scale):
    """A weight is at most 1, though a large score less its row's log sum may round to more."""
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 16, generator=g).to(DEVICE) for _ in range(3))
    leaves = [x.requires_grad_() for x in (q * size, k, v)]
    mask = Mask(key_lens=torch.tensor([35], device=DEVICE))
    o = attend(*leaves, weighting=Weighting.softmax(), mask=mask, scale=scale, backend="triton")
    do = torch.ones_like(o)
    grads = torch.autograd.grad(o, leaves, do)
    assert all(x.isfinite().all() for x in (o, *grads))
    # each row's weights sum to one, at most: 40 rows in all
    assert grads[2].sum((0, 2)).max() <= 40 * (1 + 1e-4)


@pytest.mark.parametrize("position", ["none", "relative"])
def test_compile_has_no_graph_break(position):
    torch._dynamo.reset()
    layer = Layer(Weighting.softmax(), position, "triton", device=DEVICE).to(DEVICE)
    x, lens_b = torch.randn(2, 20, 16, device=DEVICE), torch.tensor([20, 13], device=DEVICE)
    expected = layer(x, lens_b)
    expected.sum().backward()
    grad = layer.qkv.weight.grad.clone()
    layer.zero_grad()
    got = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, lens_b)
    got.sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(layer.qkv.weight.grad, grad)


@pytest.mark.parametrize("position", POSITIONS)
def test_opcheck(position):
    sizes = Sizes(2, 2, 1, 5, 7, dtype=torch.float32, device=DEVICE)
    case = make("softmax", position, "causal", sizes)
    flat = flatten(case.q, case.k, case.v, case.weighting, case.position, case.mask, None)
    torch.library.opcheck(torch.ops.sigmoid_attention.attend_softmax.default, (*flat, "triton"))


def test_every_tile_is_of_a_row_that_is_asked_for():
    rows = {
        configs.row_name(kernel, channels, position, wide)
        for kernel, channels, position, wide in itertools.product(
            configs.KERNELS, (64, 128), POSITIONS, (False, True)
        )
    }
    assert all(set(of_arch) == rows for of_arch in softmax_launch.TILES.values())


@pytest.mark.gpu
def test_what_is_masked_or_biased_is_chosen_on_cuda():
    how = (Weighting.softmax(), "alibi", "key_lens", "cuda", torch.bfloat16)
    assert resolve(*how).engine == "triton"
