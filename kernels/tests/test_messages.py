"""Wrong calls say which argument, what it was and what is allowed."""

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, resolve
from sigmoid_attention.weightings import listed, served_by

X = torch.zeros(2, 4, 5, 8)
SIGMOID = Weighting.sigmoid()


def call(q=X, k=X, v=X, **how):
    return attend(q, k, v, **{"weighting": SIGMOID, **how})


def with_mask(**fields):
    return lambda: call(mask=Mask(**fields))


WRONG = {
    "q_bhtd: got shape (4, 5, 8)": lambda: call(q=X[0]),
    "q_bhtd: got dtype torch.int64": lambda: call(q=X.long()),
    "k_bhsd: got dtype torch.float64": lambda: call(k=X.double()),
    "v_bhsd: got device meta": lambda: call(v=X.to("meta")),
    "v_bhsd: got batch size 1": lambda: call(v=X[:1]),
    "k_bhsd: got 7 channels": lambda: call(k=X[..., :7]),
    "v_bhsd: got (heads, frames) (4, 4)": lambda: call(v=X[:, :, :4]),
    "k_bhsd: got 3 heads": lambda: call(k=X[:, :3], v=X[:, :3]),
    "Weighting.map: got 'tanh'": lambda: Weighting("tanh"),
    "Weighting.shift: got 'log n'": lambda: Weighting.sigmoid(shift="log n"),
    "Weighting.shift: got inf": lambda: Weighting.sigmoid(shift=float("inf")),
    "Weighting.shift: got a tensor": lambda: Weighting.sigmoid(shift=torch.tensor(-1.0)),
    "Weighting.shift: got a shift": lambda: Weighting("softmax", shift=1.0),
    "Weighting.n: got 'batch'": lambda: Weighting.sigmoid(n="batch"),
    "Weighting.n: got 0": lambda: Weighting.sigmoid(n=0),
    "Weighting.n: got shape (3,)": lambda: call(weighting=Weighting.sigmoid(n=torch.ones(3))),
    "Weighting.bias_h: got 3 heads": lambda: call(
        weighting=Weighting.sigmoid(bias_h=torch.zeros(3))
    ),
    "Weighting.bias_h: got shape (1, 4)": lambda: Weighting.sigmoid(bias_h=torch.zeros(1, 4)),
    "Weighting.power: got 0": lambda: Weighting.polynomial(0),
    "Weighting.precision: got 'half'": lambda: Weighting.sigmoid(precision="half"),
    "PositionBias.slopes_h: got 2 heads": lambda: call(position=PositionBias.alibi(torch.ones(2))),
    "PositionBias.slopes_h: got shape (1, 4)": lambda: PositionBias.alibi(torch.ones(1, 4)),
    "PositionBias.symmetric: got False": lambda: call(
        position=PositionBias.alibi(torch.ones(4), symmetric=False)
    ),
    "PositionBias.zero: got 9": lambda: PositionBias.table(torch.zeros(4, 9), 9),
    "PositionBias.table_hp: got shape (9,)": lambda: PositionBias.table(torch.zeros(9), 4),
    "PositionBias.r_hpd: got rows for offsets -4 to 3": lambda: call(
        position=PositionBias.relative(X[0, :, 0], X[0, :, 0], torch.zeros(4, 8, 8), 4)
    ),
    "PositionBias.r_hpd: got shape (4, 9, 7)": lambda: PositionBias.relative(
        X[0, :, 0], X[0, :, 0], torch.zeros(4, 9, 7), 4
    ),
    "PositionBias.u_hd, v_hd: got shapes": lambda: PositionBias.relative(
        X[0, :, 0], X[0, :2, 0], torch.zeros(4, 9, 8), 4
    ),
    "Weighting.n: got 2.5": lambda: Weighting.sigmoid(n=2.5),
    "Weighting.n: got a count with map='softmax'": lambda: Weighting("softmax", n=torch.ones(2)),
    "Weighting.bias_h: got float": lambda: Weighting.sigmoid(bias_h=0.5),
    "Weighting.power: got 2.5": lambda: Weighting.polynomial(2.5),
    "PositionBias.slopes_h: got list": lambda: PositionBias.alibi([0.5, 0.25]),
    "PositionBias.table_hp: got list": lambda: PositionBias.table([[0.5]], 0),
    "weighting: got str, allowed: a Weighting": lambda: call(weighting="sigmoid"),
    "q_bhtd: got list": lambda: call(q=X.tolist()),
    "position: got Tensor": lambda: call(position=torch.ones(4)),
    "position: got str, allowed: a PositionBias": lambda: call(position="alibi"),
    "mask: got Tensor, allowed: a Mask": lambda: call(mask=torch.ones(5, 5, dtype=torch.bool)),
    "mask: got str, allowed: a Mask": lambda: call(mask="causal"),
    "scale: got nan": lambda: call(scale=float("nan")),
    "scale: got tensor(0.5000)": lambda: call(scale=torch.tensor(0.5)),
    "Mask.key_lens: got list": with_mask(key_lens=[5, 2]),
    "Mask.window: got [3, 2]": with_mask(window=[3, 2]),
    "Mask.chunk: got [4, 1]": with_mask(chunk=[4, 1]),
    "Mask.chunk: got 2.5": with_mask(chunk=2.5),
    "Mask.q_start: got tensor(3)": with_mask(q_start=torch.tensor(3)),
    "Mask.key_lens: got [6, 2], allowed: 0 to 5": with_mask(key_lens=torch.tensor([6, 2])),
    "Mask.query_lens: got [-1, 2]": with_mask(query_lens=torch.tensor([-1, 2])),
    "Mask.key_lens: got shape (3,)": with_mask(key_lens=torch.tensor([1, 2, 3])),
    "Mask.key_lens: got dtype torch.float32": with_mask(key_lens=torch.ones(2)),
    "Mask.key_lens: got device meta": with_mask(key_lens=torch.ones(2, device="meta").long()),
    "Mask.window: got (-1, 2)": with_mask(window=(-1, 2)),
    "Mask.chunk: got 0": with_mask(chunk=0),
    "Mask.chunk: got (4, -1)": with_mask(chunk=(4, -1)),
    "Mask.q_start: got -1": with_mask(q_start=-1),
    "Mask.cu_seqlens: got q (2, 4, 5, 8)": with_mask(cu_seqlens=torch.tensor([0, 5])),
    "Mask.cu_seqlens: got [0, 4], allowed: rising from 0 to 5": lambda: call(
        X[:1], X[:1], X[:1], mask=Mask(cu_seqlens=torch.tensor([0, 4]))
    ),
    "Mask.cu_seqlens: got it beside": lambda: Mask(cu_seqlens=torch.zeros(2), q_start=1),
    "Mask.window: got (3,), allowed: None, an int": with_mask(window=(3,)),
    "Mask.window: got (), allowed: None, an int": with_mask(window=()),
    "Mask.window: got (1, 2, 3), allowed: None, an int": with_mask(window=(1, 2, 3)),
    "Mask.window: got 'all'": with_mask(window="all"),
    "Mask.window: got True": with_mask(window=True),
    "Mask.window: got (2.0, 1)": with_mask(window=(2.0, 1)),
    "Mask.chunk: got (4,), allowed: None, an int": with_mask(chunk=(4,)),
    "Mask.chunk: got (), allowed: None, an int": with_mask(chunk=()),
    "Mask.chunk: got (4, 1, 1), allowed: None, an int": with_mask(chunk=(4, 1, 1)),
    "Mask.chunk: got (None, 1), allowed: None, an int": with_mask(chunk=(None, 1)),
    "Mask.chunk: got True": with_mask(chunk=True),
    "Mask.causal: got 'no', allowed: True, False": with_mask(causal="no"),
    "Mask.causal: got None, allowed: True, False": with_mask(causal=None),
    "Mask.causal: got 1, allowed: True, False": with_mask(causal=1),
    "Mask.query_lens: got list": lambda: Mask(query_lens=[5, 2]),
    "Mask.key_lens: got int": lambda: Mask(key_lens=5),
    "Mask.cu_seqlens: got list": lambda: Mask(cu_seqlens=[0, 5]),
    "Mask.q_start: got True": with_mask(q_start=True),
    "Mask.k_start: got None": with_mask(k_start=None),
    f"Mask.q_start: got {2**60 + 1}, allowed: an int of 0 to {2**60}": with_mask(q_start=2**60 + 1),
    f"Weighting.n: got {2**70}": lambda: Weighting.sigmoid(n=2**70),
    f"Weighting.power: got {2**70}": lambda: Weighting.polynomial(2**70),
    "q_bhtd: got layout torch.sparse_coo, allowed: torch.strided": lambda: call(q=X.to_sparse()),
    "k_bhsd: got layout torch.sparse_coo, allowed: torch.strided": lambda: call(
        k=X.to_sparse(), backend="reference"
    ),
    "v_bhsd: got layout torch.sparse_csr, allowed: torch.strided": lambda: call(
        v=X.to_sparse_csr()
    ),
    "q_bhtd: got a nested tensor, allowed: torch.strided": lambda: call(
        q=torch.nested.nested_tensor([X[0], X[1, :, :3]])
    ),
    "Mask.key_lens: got layout torch.sparse_coo": with_mask(key_lens=torch.ones(2).to_sparse()),
    "Weighting.n: got layout torch.sparse_coo": lambda: call(
        weighting=Weighting.sigmoid(n=torch.ones(2).to_sparse())
    ),
    "Weighting.bias_h: got layout torch.sparse_coo": lambda: call(
        weighting=Weighting.sigmoid(bias_h=torch.ones(4).to_sparse())
    ),
    "PositionBias.slopes_h: got layout torch.sparse_coo": lambda: call(
        position=PositionBias.alibi(torch.ones(4).to_sparse())
    ),
    "backend: got 'cuda'": lambda: call(backend="cuda"),
    "backend: got 'sdpa', which cannot serve": lambda: call(backend="sdpa"),
    f"backend: got 'triton', which cannot serve: it has {listed(served_by('triton'))} only": (
        lambda: resolve(Weighting.polynomial(), device="cuda", backend="triton")
    ),
    "backend: got 'triton', which cannot serve: it has float16": lambda: resolve(
        SIGMOID, device="cuda", dtype=torch.float64, backend="triton"
    ),
    "backend: got 'triton', which cannot serve: it runs on cuda": lambda: resolve(
        SIGMOID, backend="triton"
    ),
    "position: got 'rope'": lambda: resolve(SIGMOID, "rope"),
    "mask_kind: got 'lens'": lambda: resolve(SIGMOID, None, "lens"),
    "dtype: got torch.int8": lambda: resolve(SIGMOID, dtype=torch.int8),
    "position: got kind None, allowed: 'alibi'": lambda: resolve(SIGMOID, "alibi")(X, X, X),
    "q_bhtd: got torch.float64 on cpu, allowed: torch.float32 on cpu, as resolved": lambda: resolve(
        SIGMOID
    )(X.double(), X.double(), X.double()),
    "mask: got causal, allowed: none": lambda: resolve(SIGMOID)(X, X, X, mask=Mask(causal=True)),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_call(message):
    with pytest.raises(ValueError) as error:
        WRONG[message]()
    assert str(error.value).startswith(message)
    assert "allowed: " in str(error.value) or "cannot serve: " in str(error.value)
