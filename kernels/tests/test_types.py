"""Inputs whose dtype, layout or derivative order differs from what the fused engines compute in."""

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend
from torch.autograd import forward_ad

from .cases import POSITIONS, Sizes, make


def inputs(dtype=torch.float32, batch=2, heads=2, frames=5, channels=8):
    g = torch.Generator().manual_seed(0)
    size = (batch, heads, frames, channels)
    return [torch.randn(size, generator=g, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.fixture
def default_dtype():
    """Set torch's default dtype for one test."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [None, -2.0, "-log n"])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_default_dtype_changes_nothing(dtype, shift, position, default_dtype):
    sizes = Sizes(batch=2, heads=2, kv_heads=1, dtype=torch.float32)
    case = make("visible", position, "lens", sizes)
    case.weighting = Weighting.sigmoid(shift=shift)
    expected = case.run("auto")
    default_dtype(dtype)
    got = case.run("auto")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("map_", ["sigmoid", "softmax"])
def test_relative_position_in_another_dtype(dtype, map_):
    q, k, v = inputs()
    g = torch.Generator().manual_seed(1)
    sizes = ((2, 8), (2, 8), (2, 9, 8))
    leaves = [torch.randn(s, generator=g).to(dtype).requires_grad_() for s in sizes]
    how = {"weighting": getattr(Weighting, map_)(), "position": PositionBias.relative(*leaves, 4)}
    results = []
    for backend in ("reference", "blockwise"):
        o = attend(q, k, v, **how, backend=backend)
        results.append([o, *torch.autograd.grad(o.square().sum(), leaves)])
    for got, expected in zip(results[1], results[0], strict=True):
        assert got.dtype == expected.dtype
        # a gradient in half precision is rounded once
        rtol = max(1e-5, 2 * torch.finfo(got.dtype).eps)
        atol = rtol * expected.abs().max().item()
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("backend", ["auto", "blockwise"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float64])
def test_counts_in_any_layout(backend, dtype):
    q, k, v = inputs()
    count = torch.arange(1, 11, dtype=dtype)
    layouts = {
        "transposed": count.reshape(5, 2).T,
        "strided": torch.stack([count, count], 1)[:, 0].reshape(2, 5),
        "every second": torch.arange(1, 21, dtype=dtype)[::2].reshape(2, 5),
        "expanded": torch.arange(1, 6, dtype=dtype).expand(2, 5),
        "expanded over frames": torch.arange(1, 3, dtype=dtype)[:, None].expand(2, 5),
        "per utterance, strided": torch.arange(1, 5, dtype=dtype)[::2],
    }
    for name, n in layouts.items():
        how = {"weighting": Weighting.sigmoid(n=n)}
        right = attend(q, k, v, **how, backend="reference")
        got = attend(q, k, v, **how, backend=backend)
        torch.testing.assert_close(got, right, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_per_head_terms_in_another_dtype_and_layout(dtype):
    q, k, v = inputs(heads=3)
    wide = torch.linspace(-1, 1, 6).to(dtype)
    table = torch.linspace(-1, 1, 27).to(dtype).reshape(9, 3).T
    for position in (PositionBias.alibi(wide[1::2].abs()), PositionBias.table(table, 4)):
        how = {"weighting": Weighting.sigmoid(bias_h=wide[::2]), "position": position}
        right = attend(q, k, v, **how, backend="reference")
        torch.testing.assert_close(attend(q, k, v, **how), right)


@pytest.mark.parametrize("backend", ["auto", "blockwise"])
def test_a_forward_derivative_is_refused(backend):
    q, k, v = inputs()
    with forward_ad.dual_level():
        for at in range(3):
            args = [q, k, v]
            args[at] = forward_ad.make_dual(args[at], torch.ones_like(args[at]))
            with pytest.raises(NotImplementedError, match="backend='reference'"):
                attend(*args, weighting=Weighting.sigmoid(), backend=backend)


def test_jvp_is_refused_by_the_fused_engines_and_right_in_the_reference():
    q, k, v = inputs()

    def of(backend):
        return lambda x: attend(x, k, v, weighting=Weighting.sigmoid(), backend=backend)

    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.func.jvp(of("auto"), (q,), (torch.ones_like(q),))
    _, tangent = torch.func.jvp(of("reference"), (q,), (torch.ones_like(q),))
    step = 1e-3
    difference = (of("reference")(q + step) - of("reference")(q - step)) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-3, atol=1e-4)


def test_a_second_derivative_is_refused():
    q, k, v = (x.requires_grad_() for x in inputs())
    o = attend(q, k, v, weighting=Weighting.sigmoid())
    (gradient,) = torch.autograd.grad(o.square().sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(gradient.square().sum(), q)


@pytest.mark.parametrize("backend", ["auto", "blockwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [Weighting.relu, Weighting.polynomial])
def test_the_derivative_by_a_count_is_refused_and_right_in_the_reference(make, dtype, backend):
    q, k, v = inputs(dtype)
    n = torch.full((q.shape[0],), 5.0, dtype=dtype, requires_grad=True)
    o = attend(q, k, v, weighting=make(n=n), backend=backend)
    with pytest.raises(NotImplementedError, match=r"Weighting\.n .*backend='reference'"):
        o.sum().backward()
    attend(q, k, v, weighting=make(n=n), backend="reference").sum().backward()
    assert n.grad.all()


@pytest.mark.parametrize("how", [{"shift": "-log n"}, {"row_scale": "1/n"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_derivative_by_the_count_of_a_sigmoid(how, dtype):
    """Of the shift by the kernels' sums over rows; the factor of rows is applied outside of them."""
    q, k, v = inputs(dtype)
    grads = []
    for backend in ("auto", "reference"):
        n = torch.full((q.shape[0],), 5.0, dtype=q.dtype, requires_grad=True)
        weighting = Weighting("sigmoid", n=n, **how)
        attend(q, k, v, weighting=weighting, backend=backend).sum().backward()
        grads.append(n.grad)
    torch.testing.assert_close(*grads)


def test_a_second_derivative_of_the_reference():
    q, k, v = inputs(torch.float64, batch=1, heads=1, frames=2, channels=2)

    def reference(x):
        return attend(x, k, v, weighting=Weighting.sigmoid(), backend="reference")

    assert torch.autograd.gradgradcheck(reference, q.requires_grad_())


@pytest.mark.parametrize("map_", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("batch", "queries", "keys"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (2, 0, 0)])
@pytest.mark.parametrize("kind", POSITIONS)
def test_nothing_to_attend_to_gives_zeros(map_, batch, queries, keys, kind):
    leaves = [torch.randn(batch, 2, n, 8, requires_grad=True) for n in (queries, keys, keys)]
    more = {
        "none": [],
        "alibi": [torch.rand(2)],
        "table": [torch.rand(2, 5)],
        "relative": [torch.rand(2, 8), torch.rand(2, 8), torch.rand(2, queries + keys + 3, 8)],
    }[kind]
    more = [x.requires_grad_() for x in more]
    position = {
        "none": lambda: None,
        "alibi": lambda: PositionBias.alibi(*more),
        "table": lambda: PositionBias.table(*more, 2),
        "relative": lambda: PositionBias.relative(*more, queries + 1),
    }[kind]()
    mask = Mask(
        key_lens=torch.full((batch,), keys, dtype=torch.int64),
        query_lens=torch.full((batch,), queries, dtype=torch.int64),
    )
    for backend in ("auto", "blockwise"):
        how = {"weighting": getattr(Weighting, map_)(), "position": position, "backend": backend}
        for given in (None, mask):
            o = attend(*leaves, **how, mask=given)
            grads = torch.autograd.grad(o.sum(), [*leaves, *more], allow_unused=True)
            assert o.shape == (batch, 2, queries, 8)
            assert not o.any()
            assert not any(g is not None and g.any() for g in grads)


def test_autocast_does_not_round_float32_gradients():
    g = torch.Generator().manual_seed(0)
    q, k, v = inputs()
    leaves = [
        torch.randn(size, generator=g).requires_grad_() for size in ((2, 8), (2, 8), (2, 9, 8))
    ]
    results = []
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            for weighting in (Weighting.sigmoid(), Weighting.relu()):
                how = {"weighting": weighting, "position": PositionBias.relative(*leaves, 4)}
                o = attend(q, k, v, **how, backend="blockwise")
                results.append([o, *torch.autograd.grad(o.square().sum(), leaves)])
    for plain, cast in zip(results[:2], results[2:], strict=True):
        for a, b in zip(plain, cast, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
