"""What the Triton backward prepares and how its results are stored: in the interpreter or on a GPU."""

import os

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, ops
from sigmoid_attention.flat import flatten, row_term

from .cases import POSITIONS, Sizes, make, served
from .unproven import UNPROVEN

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [] if INTERPRETED else [pytest.mark.gpu]
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip(UNPROVEN, allow_module_level=True)

from sigmoid_attention.triton import configs, launch  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"


def flat_of(mask, queries=70, keys=90, **sizes):
    q, k = (torch.randn(2, 1, n, 16, device=DEVICE) for n in (queries, keys))
    return flatten(q, k, k, Weighting("sigmoid"), None, mask, None)


@pytest.mark.parametrize("weighting", ["visible", *served("triton", "softmax", "sigmoid")])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_come_in_their_type(position, heads, weighting):
    """Of one query head a key head: no float32 copies, no passes after the kernels."""
    sizes = Sizes(1, heads, 1, 40, 40, dtype=torch.bfloat16, device=DEVICE)
    case = make(weighting, position, "lens", sizes)
    grads = case.run("triton")[1:]
    assert all(g.dtype == leaf.dtype for g, leaf in zip(grads, case.leaves, strict=True))


@pytest.mark.parametrize("weighting", ["per_head", *served("triton", "softmax", "sigmoid")])
@pytest.mark.parametrize("position", POSITIONS)
def test_the_same_call_gives_the_same_bits_at_each_position(position, weighting):
    queries, keys = (20, 35) if DEVICE == "cpu" else (150, 190)  # some tiles of each device
    sizes = Sizes(1, 2, 1, queries, keys, dtype=torch.float32, device=DEVICE)
    case = make(weighting, position, "lens", sizes)
    once, twice = case.run("triton"), case.run("triton")
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("span", [1, 5, 31, 200])
@pytest.mark.parametrize("zero", [-40, 0, 3, 15, 60])
def test_offsets_beyond_a_table_go_to_its_ends(span, zero):
    q, k = torch.randn(1, 2, 9, 16), torch.randn(1, 2, 13, 16)
    flat = flatten(q, k, k, Weighting("sigmoid"), None, Mask(), None)
    flat = flat._replace(table_hp=torch.zeros(2, span), zero=zero)
    by_offset = torch.randn(2, 21)
    lowest = -8
    column_o = (torch.arange(lowest, lowest + 21) + zero).clamp(0, span - 1)
    expected = torch.zeros(2, span).index_add_(1, column_o, by_offset)
    torch.testing.assert_close(ops._by_column(flat, by_offset, lowest), expected)


def test_lengths_leave_one_row_term_an_utterance():
    weighting = Weighting("sigmoid", shift="-log n", n="visible")
    q = torch.randn(2, 1, 30, 16)
    lens = Mask(key_lens=torch.tensor([30, 12]))
    assert row_term(flatten(q, q, q, weighting, None, lens, None)).shape == (2, 1, 1)
    assert row_term(flatten(q, q, q, weighting, None, Mask(causal=True), None)).shape[2] == 30


def test_a_tile_that_does_not_fit_gives_way(monkeypatch):
    monkeypatch.setattr(launch, "SMALLER", {})
    x = launch.Launch(flat_of(Mask()))
    monkeypatch.setattr(launch.Launch, "config", lambda s, kernel: launch.SMALLER.get(
        s.place(kernel)) or configs.Config(64, 128, 8, 3))  # fmt: skip
    tried = []

    def run():
        tried.append(x.config("key"))
        if len(tried) < 4:
            raise launch.OutOfResources(300, 100, "shared memory")
        return "done"

    assert launch.fitting(x, "key", run) == "done"
    assert [(c.bm, c.bn, c.stages) for c in tried] == [
        (64, 128, 3), (64, 128, 2), (64, 128, 1), (64, 64, 1)
    ]  # fmt: skip
    assert configs.Config(16, 16, 4, 1).smaller() is None


def test_slopes_gradient_ignores_keys_whose_weight_vanishes():
    """Far keys weigh nothing, but stand at large offsets, by which their ds are multiplied."""
    g = torch.Generator().manual_seed(0)
    q, k, v, do = (torch.randn(1, 1, n, 16, generator=g).half().to(DEVICE) for n in (4, 64, 64, 4))
    slopes = torch.tensor([0.7], device=DEVICE).requires_grad_()
    how = {"weighting": Weighting.sigmoid(), "position": PositionBias.alibi(slopes)}
    o = attend(q, k, v, **how, mask=Mask(q_start=30_000), backend="triton")
    (grad,) = torch.autograd.grad(o, slopes, do)
    # exp(-0.7 * 30,000) is 0, and 2^-62 times 64 * 4 distances nearly so
    assert grad.abs() < 1e-9
