"""What runs as a loop in Python on a GPU says so, once; asked on a machine that need not have one."""

import warnings
from dataclasses import replace

import pytest
import torch
from sigmoid_attention import Weighting, attend, dispatch, resolve
from sigmoid_attention.weightings import MAPS, LoopWarning, listed, served_by

from .cases import POSITIONS, WEIGHTINGS, Sizes, assert_same, make


@pytest.fixture(autouse=True)
def nothing_said_yet():
    dispatch._warn_once.cache_clear()
    yield
    dispatch._warn_once.cache_clear()


def said(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in caught if issubclass(one.category, LoopWarning)]


def choose(name, position, **how):
    kind = None if position == "none" else position
    return lambda: resolve(Weighting(name), kind, "key_lens", "cuda", **how)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", MAPS)
def test_each_weighting_and_position_that_no_fused_engine_has_warns_once(name, position):
    pytest.importorskip("triton")
    first, second = said(choose(name, position)), said(choose(name, position))
    assert second == []
    assert len(first) == ("triton" not in MAPS[name].engines)
    for text in first:
        assert text.startswith(f"attention: {name} with {position.replace('none', 'no position')}")
        assert f"triton: it has {listed(served_by('triton'))} only, not {name!r}" in text


def test_another_position_or_reason_warns_again():
    assert len(said(choose("polynomial", "alibi"))) == 1
    assert len(said(choose("polynomial", "table"))) == 1
    assert len(said(choose("polynomial", "table", dtype=torch.float64))) == 1
    assert said(choose("polynomial", "table")) == []


def test_every_reason_for_the_loop_is_said():
    asked = said(choose("sigmoid", "alibi", backend="blockwise"))
    assert "backend='blockwise' is asked for" in asked[0]
    double = said(choose("sigmoid", "alibi", dtype=torch.float64))
    assert "not torch.float64" in double[0]


def test_without_triton_everything_but_sdpa_warns(monkeypatch):
    monkeypatch.setattr(dispatch, "_triton_cannot_run", lambda device: "triton is not installed")
    assert "triton is not installed" in said(choose("sigmoid", "none"))[0]
    assert said(lambda: resolve(Weighting.softmax(), None, None, "cuda")) == []


def test_nothing_is_said_on_a_cpu():
    x = torch.zeros(1, 1, 3, 2)

    def run():
        for name in MAPS:
            attend(x, x, x, weighting=Weighting(name))

    assert said(run) == []


@pytest.mark.parametrize("weighting", ["softmax", "per_head", "root", "relu"])
def test_sizes_beyond_the_kernels_are_served_by_the_loop_which_says_so(weighting):
    """As "auto" chose on CUDA; tensors stay here."""
    case = make(weighting, "alibi", "lens", Sizes(dtype=torch.float32, d=130))
    chosen = resolve(WEIGHTINGS[weighting](), "alibi", case.mask)
    on_cuda = replace(chosen, name="triton", engine="triton", weighting=case.weighting)
    results = []

    def run():
        o = on_cuda(case.q, case.k, case.v, position=case.position, mask=case.mask)
        results.append(o.detach())

    assert "got 130 channels, allowed: at most 128" in said(run)[0]
    assert said(run) == []
    assert_same(results[:1], case.run("reference")[:1], 2e-5, 1e-6)
    by_name = replace(on_cuda, backend="triton")
    with pytest.raises(
        ValueError, match="130 channels, allowed: at most 128 with backend 'triton'"
    ):
        by_name(case.q, case.k, case.v, position=case.position, mask=case.mask)
