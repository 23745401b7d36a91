"""Calls under torch.func of a call: gradients as the reference's, or a sentence that says why not."""

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend

FUSED = ("auto", "blockwise")
LENS = torch.tensor([5, 3])


def loss(backend, weighting="sigmoid", dtype=torch.float32):
    """A function of q, k, v, a bias per head, and slopes."""

    def of(q, k, v, bias_h, slopes_h):
        how = {"bias_h": bias_h} if weighting == "sigmoid" else {}
        return (
            attend(
                q,
                k,
                v,
                weighting=getattr(Weighting, weighting)(**how),
                position=PositionBias.alibi(slopes_h),
                mask=Mask(key_lens=LENS),
                backend=backend,
            )
            .square()
            .sum()
        )

    g = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 5, 4)] * 3 + [(2,)] * 2
    return of, [torch.rand(shape, generator=g, dtype=dtype) for shape in shapes]


def assert_same(got, right):
    torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighting", ["sigmoid", "softmax", "relu", "polynomial"])
@pytest.mark.parametrize("backend", FUSED)
def test_grad_vjp_and_jacobian(backend, weighting, dtype):
    (f, args), (right, _) = loss(backend, weighting, dtype), loss("reference", weighting, dtype)
    by = (0, 1, 2, 3, 4) if weighting == "sigmoid" else (0, 1, 2, 4)
    assert_same(torch.func.grad(f, by)(*args), torch.func.grad(right, by)(*args))
    one = torch.tensor(1.0, dtype=dtype)
    assert_same(torch.func.vjp(f, *args)[1](one)[:3], torch.func.vjp(right, *args)[1](one)[:3])
    assert_same(torch.func.jacrev(f)(*args), torch.func.jacrev(right)(*args))


@pytest.mark.parametrize("backend", FUSED)
def test_a_gradient_of_each_of_many(backend):
    (f, args), (right, _) = loss(backend), loss("reference")
    many = torch.stack([args[0], args[0] + 1, -args[0]])

    def each(of):
        return torch.vmap(torch.func.grad(of), (0, None, None, None, None))(many, *args[1:])

    assert_same(each(f), each(right))


@pytest.mark.parametrize("backend", FUSED)
def test_a_gradient_within_autograd(backend):
    """Parameters outside of the function receive theirs as before."""
    grads = []
    for name in (backend, "reference"):
        f, args = loss(name)
        outer = args[1].clone().requires_grad_()
        value, pull = torch.func.vjp(lambda x, f=f, o=outer, a=args: f(x, o, *a[2:]), args[0])
        value.backward()
        grads.append([*pull(torch.tensor(1.0)), outer.grad])
    assert_same(*grads)


@pytest.mark.parametrize("backend", FUSED)
def test_second_and_forward_derivatives_are_refused(backend):
    f, args = loss(backend)

    def twice(x):
        return torch.func.grad(f)(x, *args[1:]).square().sum()

    with pytest.raises(NotImplementedError, match=r"second derivatives .*backend='reference'"):
        torch.func.grad(twice)(args[0])
    with pytest.raises(NotImplementedError, match=r"forward-mode .*backend='reference'"):
        torch.func.jacfwd(f)(*args)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.func.hessian(f)(*args)


@pytest.mark.parametrize("backend", FUSED)
def test_the_derivative_by_a_count_where_weights_are_divided_by_it_is_refused(backend):
    q, k, v = torch.randn(3, 2, 2, 5, 4).unbind(0)

    def of(n):
        return attend(q, k, v, weighting=Weighting.relu(n=n), backend=backend).sum()

    with pytest.raises(NotImplementedError, match=r"Weighting\.n .*backend='reference'"):
        torch.func.grad(of)(torch.tensor([5.0, 3.0]))


@pytest.mark.parametrize("backend", FUSED)
def test_the_derivative_by_a_count_of_the_shift(backend):
    q, k, v = torch.randn(3, 2, 2, 5, 4).unbind(0)

    def of(n, backend):
        return attend(q, k, v, weighting=Weighting.sigmoid(n=n), backend=backend).sum()

    n = torch.tensor([5.0, 3.0])
    torch.testing.assert_close(torch.func.grad(of)(n, backend), torch.func.grad(of)(n, "reference"))
