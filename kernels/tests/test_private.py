"""Private names of PyTorch: used where they do what is expected, and replaced where they are gone."""

import pytest
import torch
from sigmoid_attention import Weighting, attend, dispatch, ops, private, tiles

SHAPE = (2, 3, 5, 7)


def backward_by_autograd(map_, s, dp):
    s = s.clone().requires_grad_()
    return torch.autograd.grad(map_(s), s, dp)[0]


@pytest.fixture(params=["private", "public"])
def softmax_backward_(request):
    return getattr(private, f"_{request.param}_softmax_backward_")


@pytest.fixture(params=["private", "public"])
def sigmoid_backward_(request):
    return getattr(private, f"_{request.param}_sigmoid_backward_")


def test_each_way_gives_the_derivative_of_softmax(softmax_backward_):
    s, dp = torch.randn(2, *SHAPE, dtype=torch.float64)
    expected = backward_by_autograd(lambda x: x.softmax(-1), s, dp)
    ds = softmax_backward_(s.softmax(-1), dp)
    assert ds is dp
    torch.testing.assert_close(ds, expected)


def test_each_way_gives_the_derivative_of_sigmoid(sigmoid_backward_):
    s, dp = torch.randn(2, *SHAPE, dtype=torch.float64)
    expected = backward_by_autograd(torch.sigmoid, s, dp)
    ds = sigmoid_backward_(s.sigmoid(), dp)
    assert ds is dp
    torch.testing.assert_close(ds, expected)


def test_this_pytorch_has_them():
    """Slower ones would serve; this says which release of PyTorch took a name away."""
    assert private.softmax_backward_ is private._private_softmax_backward_
    assert private.sigmoid_backward_ is private._private_sigmoid_backward_
    assert private.transforms_active is torch._C._are_functorch_transforms_active


def gone(p, dp):
    return torch.ops.aten._softmax_backward_of_another_release.out(dp, p)


def other_arguments(p, dp):
    return torch.ops.aten._softmax_backward_data.out(dp, p, grad_input=dp)


def other_meaning(p, dp):
    return dp.mul_(p)


@pytest.mark.parametrize("private_way", [gone, other_arguments, other_meaning])
def test_what_is_gone_or_does_something_else_is_replaced(private_way):
    public = private._public_softmax_backward_
    assert private.first_that_agrees(private_way, public) is public
    assert private.first_that_agrees(private._private_softmax_backward_, public) is not public


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_attention_without_private_names(weighting, monkeypatch):
    monkeypatch.setattr(dispatch, "_engine", lambda *_: "torch")
    leaves = [torch.randn(2, 3, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    how = {"weighting": getattr(Weighting, weighting)()}

    def run(backend):
        return torch.autograd.grad(attend(*leaves, **how, backend=backend).square().sum(), leaves)

    for name in ("softmax_backward_", "sigmoid_backward_"):
        monkeypatch.setattr(tiles, name, getattr(private, f"_public_{name}"))
    monkeypatch.setattr(ops, "transforms_active", private._always)
    torch.testing.assert_close(run("blockwise"), run("reference"))


def test_results_held_constant_by_the_compiler_are_marked_as_pytorch_marks_them():
    """``dispatch._constant`` sets by hand what costs a second to import."""

    def marked(mark):
        def function():
            return 1

        return vars(mark(function))

    assert marked(dispatch._constant) == marked(torch.compiler.assume_constant_result) != {}
