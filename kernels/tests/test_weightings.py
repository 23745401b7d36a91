"""The table of weightings says what is so: slopes, bounds, which engines serve."""

import pytest
import torch
from sigmoid_attention import Mask, Weighting, attend, cpp_engine, dispatch, resolve
from sigmoid_attention.weightings import MAPS, listed, served_by

ALONE = [name for name, one in MAPS.items() if one.weight is not None]
BY_P = [name for name in ALONE if MAPS[name].slope is not None]
POWER = 3


def scores():
    return torch.linspace(-9, 9, 1000, dtype=torch.float64)  # none of them 0


@pytest.mark.parametrize("name", ALONE)
def test_the_slope_is_the_derivative(name):
    one = MAPS[name]
    s = scores().requires_grad_()
    p = one.weight(s * 1.0, POWER)
    (expected,) = torch.autograd.grad(p.sum(), s)
    slopes = [] if one.slope is None else [one.slope(p.detach())]
    slopes += [] if one.slope_of_score is None else [one.slope_of_score(scores(), POWER)]
    assert slopes
    for slope in slopes:
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("name", BY_P)
def test_no_weight_sends_nothing_back(name):
    assert MAPS[name].slope(torch.zeros(3)).eq(0).all()


@pytest.mark.parametrize("name", [name for name in ALONE if MAPS[name].vanishes])
def test_a_hidden_score_vanishes_where_the_table_says_so(name):
    for dtype in (torch.float32, torch.float64):
        assert MAPS[name].weight(torch.tensor([-1e30, -2e30], dtype=dtype), POWER).eq(0).all()


@pytest.mark.parametrize("name", ALONE)
def test_weights_are_bounded_where_the_table_says_so(name):
    p = MAPS[name].weight(scores(), POWER)
    assert bool((p.abs() <= 1).all()) == MAPS[name].bounded


@pytest.mark.parametrize("name", MAPS)
def test_backends_serve_what_the_table_says(name):
    weighting = Weighting(name)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for backend, device in (("sdpa", cpu), ("triton", cuda)):
        serves = dispatch.refusal(backend, weighting, device, torch.float32) is None
        assert serves == (backend in MAPS[name].engines)
    served = cpp_engine.refusal(name, cpu, torch.float32) is None
    assert served == ("c++" in MAPS[name].engines)
    if cpp_engine.available():
        chosen = resolve(weighting, "alibi", "key_lens", backend="blockwise")
        assert chosen.engine == ("c++" if served else "torch")


@pytest.mark.parametrize("name", MAPS)
def test_fused_engines_have_a_slope_of_p(name):
    """They recompute p and have no place for the scores."""
    one = MAPS[name]
    if one.weight is not None and one.engines:
        assert one.slope is not None


def test_lists_of_names_read_as_a_sentence():
    assert [listed(tuple(x)) for x in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert served_by("sdpa") == ("softmax",)


@pytest.mark.skipif(not cpp_engine.available(), reason="no C++ compiler here")
def test_the_compiled_engine_knows_the_names_of_the_table_and_no_other():
    number = cpp_engine._library().sigmoid_attention_weighting
    known = [name for name in (*MAPS, "tanh") if number(name.encode()) >= 0]
    assert known == list(served_by("c++"))
    assert sorted(number(name.encode()) for name in known) == list(range(len(known)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the C++ engine and torch's
@pytest.mark.parametrize("name", ALONE)
def test_nan_stays_in_its_row_and_is_not_swallowed(name, dtype):
    q = torch.ones(1, 1, 40, 1, dtype=dtype)
    q[:, :, 17] = torch.nan
    k = torch.linspace(-9, 9, 70, dtype=dtype).view(1, 1, 70, 1)
    v = torch.ones(1, 1, 70, 1, dtype=dtype)
    o = attend(q, k, v, weighting=Weighting(name), scale=1.0, backend="blockwise").flatten()
    assert o.isnan().nonzero().tolist() == [[17]]


@pytest.mark.parametrize("row_scale", [None, "1/n", "1/sqrt n"])
@pytest.mark.parametrize("name", ALONE)
def test_weights_by_hand(name, row_scale):
    """Two keys with scores of 1 and 2, of which the first row sees one."""
    k = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1)
    how = {"weighting": Weighting(name, row_scale=row_scale, power=3), "mask": Mask(causal=True)}
    by_hand = {
        "sigmoid": [0.7310586, 0.8807971],
        "relu": [1.0, 2.0],
        "polynomial": [1.0, 8.0],
    }
    if name not in by_hand:
        pytest.skip("its values are not written here")
    first, second = by_hand[name]
    divided = {None: 1.0, "1/n": 2.0, "1/sqrt n": 2**0.5}[row_scale]
    expected = torch.tensor([first, (first + second) / divided])
    for backend in ("reference", "blockwise"):
        o = attend(torch.ones_like(k), k, torch.ones_like(k), scale=1.0, backend=backend, **how)
        torch.testing.assert_close(o.flatten(), expected)
