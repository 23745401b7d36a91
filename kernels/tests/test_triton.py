"""The Triton kernels against the reference: in the interpreter, or on a GPU (marker `gpu`).

The interpreter is chosen by TRITON_INTERPRET=1, which must be set before triton is imported; so
test_triton_interpreted.py runs this file in a process of its own.
"""

import itertools
import math
import os
from dataclasses import replace

import pytest
import torch
from sigmoid_attention import Mask, Weighting, attend
from sigmoid_attention.call import call
from sigmoid_attention.flat import flatten

from .cases import (
    MASKS,
    POSITIONS,
    WEIGHTINGS,
    Sizes,
    assert_same,
    beside_nan,
    cached_step,
    make,
    served,
    slope_roundings,
)
from .test_operator import Layer
from .unproven import UNPROVEN

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(UNPROVEN, allow_module_level=True)

from sigmoid_attention.triton import configs, device, launch  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
LENGTHS = (1, 7, 63, 111, 257)
SHIFTS = (
    "no_shift",
    "constant",
    "visible",
    "per_head",
    "sequence",
    "number",
    "effective",
    "exponent",
)
# Each map that these kernels have: sigmoid by one of its shifts, and the others.
EACH = ("visible", *served("triton", "softmax", "sigmoid"))


def check(weighting, position, mask, rtol=2e-5, **sizes):
    """Output and every gradient against the float64 reference on the same inputs: within rtol of the
    largest value, a slope's gradient, whose large terms cancel, within the roundings of those."""
    small = Sizes(**{"heads": 2, "kv_heads": 1, "d": 20, "dv": 16, "dtype": torch.float32, **sizes})
    case = make(weighting, position, mask, Sizes(**{**small.__dict__, "device": DEVICE}))
    exact = make(weighting, position, mask, Sizes(**{**small.__dict__, "dtype": torch.float64}))
    with torch.no_grad():
        for leaf, other in zip(case.leaves, exact.leaves, strict=True):
            other.copy_(leaf)
    got, expected = [x.cpu().double() for x in case.run("triton")], exact.run("reference")
    lost = [0.0] * len(expected)
    if position == "alibi":
        lost[-1] = torch.finfo(torch.float32).eps * slope_roundings(exact)
    assert_same(got, expected, rtol, 1e-6, lost)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """Memory that nobody wrote is NaN, so an output tile left out cannot pass."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


PAIRS = [*itertools.product(POSITIONS, MASKS)]


# every day each position with half of the masks and each mask with half of the positions; all of them
# in test_product
HALF_OF_THE_PAIRS = [
    pair for pair in PAIRS if (POSITIONS.index(pair[0]) + list(MASKS).index(pair[1])) % 2 == 0
]


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize(("position", "mask"), HALF_OF_THE_PAIRS)
def test_positions_and_masks(position, mask, weighting):
    if weighting == "visible":
        weighting = SHIFTS[PAIRS.index((position, mask)) % len(SHIFTS)]
    check(weighting, position, mask, batch=2, heads=1, queries=37, keys=45)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize(("bm", "bn"), [(16, 16), (32, 16), (16, 64)])
def test_tiles_of_other_shapes(bm, bn, weighting, monkeypatch):
    for kernel in configs.KERNELS:
        monkeypatch.setitem(configs.INTERPRETED, kernel, configs.Config(bm, bn, 4, 1))
    check(weighting, "relative", "window", batch=1, heads=1, queries=37, keys=45)


STEPPED = [("none", "lens"), ("alibi", "causal"), ("table", "none"), ("relative", "lens")]


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize(("position", "mask"), STEPPED)
def test_addresses_that_are_stepped(position, mask, weighting, monkeypatch):
    """As for half precision on Hopper, here in float32, so that no rounding hides an error."""
    check_stepped(position, mask, weighting, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mask", ["none", "lens", "causal"])
def test_addresses_that_are_stepped_full(position, mask, weighting, monkeypatch):
    check_stepped(position, mask, weighting, monkeypatch)


def check_stepped(position, mask, weighting, monkeypatch):
    monkeypatch.setattr(launch, "stepped", lambda *_: True)
    check(weighting, position, mask, batch=1, heads=1, queries=70, keys=100)


@pytest.mark.parametrize("weighting", SHIFTS)
@pytest.mark.parametrize("mask", ["none", "lens"])
def test_shifts(weighting, mask):
    check(weighting, "none", mask, batch=3, heads=1, queries=20, keys=40)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize(("queries", "keys"), zip(LENGTHS, reversed(LENGTHS), strict=True))
@pytest.mark.parametrize("position", ["none", "relative"])
def test_lengths(queries, keys, position, weighting):
    check(weighting, position, "none", batch=1, heads=1, queries=queries, keys=keys)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "keys"), itertools.product(LENGTHS, LENGTHS))
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mask", ["none", "lens", "causal", "window", "chunk"])
@pytest.mark.parametrize("weighting", ["per_head", *EACH[1:]])
def test_lengths_full(queries, keys, position, mask, weighting):
    check(weighting, position, mask, batch=2, queries=queries, keys=keys)


@pytest.mark.slow
@pytest.mark.parametrize("weighting", [*SHIFTS, *EACH[1:]])
@pytest.mark.parametrize(("position", "mask"), PAIRS)
def test_product(weighting, position, mask):
    check(weighting, position, mask, batch=3, queries=70, keys=75)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize("position", POSITIONS)
def test_half_precision(position, weighting):
    check(weighting, position, "lens", batch=2, dtype=torch.float16, rtol=4e-3, queries=33, keys=40)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize(("d", "dv"), [(32, 128), (128, 32), (36, 36), (80, 64)])
def test_channels(d, dv, weighting):
    check(weighting, "alibi", "lens", d=d, dv=dv, queries=20, keys=40, batch=2)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads(groups, weighting):
    check(weighting, "table", "causal", heads=4, kv_heads=4 // groups, queries=20, keys=20, batch=1)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize("position", ["none", "relative"])
def test_disjoint_shards_of_the_keys_add_up(position, weighting):
    sizes = Sizes(batch=2, heads=2, kv_heads=1, dtype=torch.float32, device=DEVICE)
    case = make(weighting, position, "none", sizes)
    whole = case.run("triton")[0]
    count = torch.full((case.q.shape[0],), case.k.shape[2], device=DEVICE)
    parts = [
        attend(
            case.q,
            case.k[:, :, a:b],
            case.v[:, :, a:b],
            weighting=replace(case.weighting, n=count),
            position=case.position,
            mask=Mask(k_start=a),
            backend="triton",
        )
        for a, b in ((0, 5), (5, 6), (6, 17))
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("weighting", EACH)
def test_tiles_outside_a_mask_are_not_computed(weighting):
    got, expected = beside_nan("triton", 32 if INTERPRETED else 256, DEVICE, weighting)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize("position", POSITIONS)
def test_a_step_from_a_cache_gives_the_rows_of_the_whole(position, weighting):
    sizes = Sizes(dtype=torch.float32, device=DEVICE)
    got, whole = cached_step("triton", position, sizes, weighting)
    torch.testing.assert_close(got, whole)


@pytest.mark.parametrize("weighting", ["per_head", *EACH[1:]])
def test_the_same_call_gives_the_same_bits(weighting):
    sizes = Sizes(
        queries=40, keys=40, dtype=torch.float32, device=DEVICE, batch=1, heads=1, kv_heads=1
    )
    case = make(weighting, "relative", "lens", sizes)
    once, twice = case.run("triton"), case.run("triton")
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("weighting", EACH)
@pytest.mark.parametrize("position", ["none", "relative"])
def test_compile_has_no_graph_break(position, weighting):
    torch._dynamo.reset()
    layer = Layer(WEIGHTINGS[weighting](), position, "triton", device=DEVICE).to(DEVICE)
    x, lens_b = torch.randn(2, 20, 16, device=DEVICE), torch.tensor([20, 13], device=DEVICE)
    expected = layer(x, lens_b)
    got = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, lens_b)
    got.sum().backward()
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("weighting", ["per_head", *EACH[1:]])
@pytest.mark.parametrize("position", POSITIONS)
def test_opcheck(position, weighting):
    sizes = Sizes(2, 2, 1, 5, 7, dtype=torch.float32, device=DEVICE)
    flat = make(weighting, position, "causal", sizes)
    flat = flatten(flat.q, flat.k, flat.v, flat.weighting, flat.position, flat.mask or Mask(), None)
    operator = torch.ops.sigmoid_attention.attend.default
    torch.library.opcheck(operator, (*flat, "triton"))


def weights(x, mode, n):
    """p of one row of scores x, read off the kernel by an identity as values."""
    count = x.shape[0]
    q = torch.ones(1, 1, 1, 1, dtype=torch.float32, device=DEVICE)
    k, v = x.float().view(1, 1, count, 1).to(DEVICE), torch.eye(count, device=DEVICE)[None, None]
    how = Weighting.sigmoid(n=n, precision=mode)
    flat = flatten(q, k, v, how, None, Mask(), 1.0)
    return call(flat, "triton").flatten().cpu().double()


# Largest relative error and smallest weight of each mode; those for half precision are far below
# its rounding, 2^-9 or 2^-12.
PRECISE, HALF = (2.0**-17, 0.0), (2.0**-17, 2.0**-31)
MODES = {
    "SEPARATE": PRECISE,
    "SHARED": PRECISE,
    "QUAD": HALF,
}


def use(mode, monkeypatch):
    """Compute weights in a mode, whatever the type of the inputs."""
    monkeypatch.setattr(launch, "mode_for", lambda *_: getattr(device, mode).value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2048, 65536])
def test_left_tail_is_relatively_accurate(n, mode, monkeypatch):
    use(mode, monkeypatch)
    most, floor = MODES[mode]
    x = torch.linspace(-25, 25, 101)
    expected = torch.sigmoid(x.double() - torch.tensor(float(n)).double().log()).clamp(min=floor)
    error = (weights(x, "exact", n) / expected - 1).abs().max().item()
    # Rounding of x - log n itself, |x| 2^-23 or so, is in it; bfloat16 rounds by 2^-9.
    assert error < most


@pytest.mark.parametrize("n", [2048, 65536])
@pytest.mark.parametrize("mode", MODES)
def test_rounding_to_half_precision_is_nearly_all_that_a_weight_loses(mode, n, monkeypatch):
    """Root mean square of the relative error, over scores as a layer has them at first."""
    use(mode, monkeypatch)
    x = torch.randn(512, generator=torch.Generator().manual_seed(1)) * 2
    exact = torch.sigmoid(x.double() - torch.tensor(float(n)).double().log())
    got = weights(x, "exact", n)
    for dtype in (torch.bfloat16, torch.float16):
        # The kernel scales so that float16 is not subnormal.
        error, ideal = ((2**14 * w).to(dtype) / (2**14 * exact) - 1 for w in (got, exact))
        assert error.square().mean().sqrt() < 1.1 * ideal.square().mean().sqrt()


# The interpreter has no bfloat16.
@pytest.mark.parametrize("dtype", [torch.float16] + [torch.bfloat16] * (not INTERPRETED))
def test_half_precision_keeps_the_weights_of_many_keys(dtype):
    """n = 65536: weights below what float16 has as normal numbers."""
    x = torch.linspace(-6, 6, 64, dtype=torch.float64).to(dtype)
    how = Weighting.sigmoid(n=65536)
    q = torch.ones(1, 1, 1, 1, dtype=dtype, device=DEVICE)
    v = torch.full((1, 1, 64, 1), 64.0, dtype=dtype, device=DEVICE)
    o = attend(q, x.view(1, 1, 64, 1).to(DEVICE), v, weighting=how, scale=1.0, backend="triton")
    expected = 64 * torch.sigmoid(x.double() - math.log(65536)).sum()
    assert abs(o.item() / expected.item() - 1) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("mode", MODES)
def test_nan_stays_in_its_row_and_is_not_swallowed(mode, monkeypatch):
    use(mode, monkeypatch)
    q = torch.ones(1, 1, 40, 1, device=DEVICE)
    q[:, :, 17] = math.nan
    k = torch.linspace(-9, 9, 70, device=DEVICE).view(1, 1, 70, 1)
    v = torch.ones(1, 1, 70, 1, device=DEVICE)
    o = attend(q, k, v, weighting=Weighting.sigmoid(), scale=1.0, backend="triton").flatten()
    assert o.isnan().nonzero().tolist() == [[17]]


@pytest.mark.parametrize("weighting", EACH[1:])
def test_half_precision_has_room_for_large_weights(weighting):
    """Weights of hundreds, and rows that see one key, beside those that see many."""
    sizes = Sizes(2, 2, 1, 33, 33, 16, 16, torch.float16, DEVICE)
    case = make(weighting, "none", "causal", sizes)
    with torch.no_grad():
        case.q *= 64
    got, expected = case.run("triton"), case.run("reference")
    assert all(x.isfinite().all() for x in expected)
    assert_same(got, expected, 4e-3, 0.0)


@pytest.mark.parametrize("weighting", EACH[1:])
def test_nan_of_other_maps_stays_too(weighting):
    q = torch.ones(1, 1, 40, 1, device=DEVICE)
    q[:, :, 17] = math.nan
    k = torch.linspace(-9, 9, 70, device=DEVICE).view(1, 1, 70, 1)
    how = {"weighting": WEIGHTINGS[weighting](), "scale": 1.0, "backend": "triton"}
    o = attend(q, k, torch.ones_like(k), **how).flatten()
    assert o.isnan().nonzero().tolist() == [[17]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extreme", [-math.inf, -1e4, -300.0, 300.0, math.inf])
def test_an_extreme_score_leaves_its_neighbour_alone(extreme, mode, monkeypatch):
    use(mode, monkeypatch)
    most, floor = MODES[mode]
    x = torch.tensor([0.25, extreme, extreme, -0.5] * 8)
    p = weights(x, "exact", 1)
    expected = torch.sigmoid(x.double())
    near = x.abs() < 1
    rtol = 1e-6 if most == 2.0**-17 else most
    torch.testing.assert_close(p[near], expected[near], rtol=rtol, atol=0)
    far = {"rtol": 2.0**-22, "atol": max(1e-18, 1.01 * floor)}
    torch.testing.assert_close(p[~near], expected[~near], **far)


def test_masked_minus_infinity_beside_finite_scores():
    """Row 0 sees key 0, whose reciprocal it shares with key 1, which row 1 sees."""
    q = torch.ones(1, 1, 4, 1, device=DEVICE)
    k = torch.tensor([1.0, -math.inf, 2.0, -math.inf], device=DEVICE).view(1, 1, 4, 1)
    how = {"weighting": Weighting.sigmoid(shift=None), "mask": Mask(causal=True), "scale": 1.0}
    o = attend(q, k, torch.ones(1, 1, 4, 1, device=DEVICE), **how, backend="triton")
    first, second = torch.tensor([1.0, 2.0]).sigmoid()
    expected = torch.stack([first, first, first + second, first + second])
    torch.testing.assert_close(o.cpu().flatten(), expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 2, 129), "q_bhtd: got 129 channels, allowed: at most 128"),
        ((65536, 1, 2, 8), "q_bhtd: got 65536 utterances of 1 heads, allowed: at most 65535"),
    ],
)
def test_sizes_beyond_the_kernels_are_refused(shape, message):
    x = torch.zeros(shape, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        attend(x, x, x, weighting=Weighting.sigmoid(), backend="triton")


def test_fast_mode_is_close_where_weights_are_large():
    x = torch.linspace(-5, 5, 41)
    torch.testing.assert_close(weights(x, "fast", 1), torch.sigmoid(x.double()), rtol=0, atol=2e-4)
