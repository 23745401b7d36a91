"""Every CPU backend against the reference in float64: outputs and all gradients."""

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, blockwise

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, D, DV = 3, 4, 2, 13, 17, 8, 6
WEIGHTINGS = ("softmax", "sigmoid", "sequence", "number", "relu", "polynomial")
POSITIONS = ("none", "alibi", "table", "relative")
KEY_LENS, QUERY_LENS = torch.tensor([17, 0, 5]), torch.tensor([13, 4, 6])
MASKS = {
    "none": None,
    "lens": Mask(key_lens=KEY_LENS, query_lens=QUERY_LENS),
    "causal": Mask(causal=True, q_start=4),
    "window": Mask(window=(3, 2), key_lens=KEY_LENS),
    "future_window": Mask(window=(None, 1), query_lens=QUERY_LENS),
    "chunk": Mask(chunk=(4, 1), k_start=2),
    "chunk_causal": Mask(chunk=4, causal=True, key_lens=KEY_LENS),
}


def run(backend, weighting, position, mask):
    """The output and the gradients of every leaf; unseen frames are NaN."""
    g = torch.Generator().manual_seed(1)

    def leaf(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    q, k, v = (
        leaf(BATCH, HEADS, QUERIES, D),
        leaf(BATCH, KV_HEADS, KEYS, D),
        leaf(BATCH, KV_HEADS, KEYS, DV),
    )
    leaves = [q, k, v]
    bias = None
    if position == "alibi":
        leaves += [leaf(HEADS)]
        bias = PositionBias.alibi(leaves[-1])
    elif position == "table":
        leaves += [leaf(HEADS, 9)]
        bias = PositionBias.table(leaves[-1], zero=4)
    elif position == "relative":
        leaves += [leaf(HEADS, D), leaf(HEADS, D), leaf(HEADS, 60, D)]
        bias = PositionBias.relative(*leaves[-3:], zero=30)
    how = {
        "softmax": Weighting.softmax,
        "sequence": lambda: Weighting.sigmoid(n="sequence"),
        "number": lambda: Weighting.sigmoid(n=5),
        "relu": Weighting.relu,
        "polynomial": lambda: Weighting.polynomial(2),
    }
    if weighting == "sigmoid":
        leaves += [leaf(HEADS)]
        chosen = Weighting.sigmoid(bias_h=leaves[-1])
    else:
        chosen = how[weighting]()
    if mask is not None:
        poison(q, mask.query_lens)
        poison(k, mask.key_lens)
        poison(v, mask.key_lens)
    o = attend(q, k, v, weighting=chosen, position=bias, mask=mask, backend=backend)
    o.backward(torch.randn(o.shape, generator=g, dtype=torch.float64))
    return [o.detach(), *(x.grad for x in leaves)]


def poison(x, lens_b):
    """NaN in every frame beyond its utterance."""
    if lens_b is not None:
        with torch.no_grad():
            for b, length in enumerate(lens_b.tolist()):
                x[b, :, length:] = float("nan")


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("blocks", ["one", "many"])
def test_blockwise(weighting, position, mask, blocks, monkeypatch):
    if blocks == "many":
        monkeypatch.setattr(blockwise, "ONE_BLOCK", 0)
        monkeypatch.setattr(blockwise, "MIN_ROWS", 4)
        monkeypatch.setattr(blockwise, "BLOCK", 64)
        monkeypatch.setattr(blockwise, "KEY_BLOCK", 5)
    expected = run("reference", weighting, position, MASKS[mask])
    assert_same(run("blockwise", weighting, position, MASKS[mask]), expected)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("position", POSITIONS)
def test_sdpa(position, mask):
    expected = run("reference", "softmax", position, MASKS[mask])
    assert_same(run("sdpa", "softmax", position, MASKS[mask]), expected)


def test_reference_rows_without_keys_are_zero():
    o, *grads = run("reference", "sigmoid", "alibi", MASKS["lens"])
    assert o[1].eq(0).all()
    assert o[2, :, 6:].eq(0).all()
    assert o[0].ne(0).all()
    assert all(g.isfinite().all() for g in grads)
    dq, dk, dv = grads[:3]
    assert dq[1].eq(0).all()
    assert dq[2, :, 6:].eq(0).all()
    assert dk[2, :, 5:].eq(0).all()
    assert dv[2, :, 5:].eq(0).all()
