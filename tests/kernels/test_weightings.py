"""The table of weightings says what is so: slopes, bounds, which engines serve."""

import pytest
import torch
from sigmoid_attention import Weighting, cpp_engine, dispatch, resolve
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


@pytest.mark.parametrize("name", ALONE)
def test_a_hidden_score_vanishes_where_the_table_says_so(name):
    hidden = torch.tensor([-1e30, -2e30])
    assert MAPS[name].weight(hidden, POWER).eq(0).all().item() == MAPS[name].vanishes


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
