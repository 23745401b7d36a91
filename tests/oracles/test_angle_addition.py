"""Transformer-XL's attention against its exact factorisation: with sinusoidal r,

    (q_i + v) . W r[j - i] = a_i . r[j - i],  a_i = W^T (q_i + v),

and the sine and cosine of a difference split into products of sines and cosines of i and of j. So the
scores are plain products of turned queries with absolute sinusoids; no offset is ever formed."""

from __future__ import annotations

import pytest
import torch
from sigmoid_attention import Mask, Weighting
from torch import Tensor

from asr.nn.attention import MultiHeadAttention
from asr.nn.position import Relative

from .shared import randomise

DIM, HEADS, FRAMES, LENS = 24, 3, 40, (40, 17)


def absolute_sinusoids() -> tuple[Tensor, Tensor]:
    """(t, d / 2) sines and cosines of frame / 10000 ** (2 i / d)."""
    frequencies_i = 10000.0 ** -(torch.arange(0, DIM, 2).double() / DIM)
    angles_ti = torch.outer(torch.arange(FRAMES).double(), frequencies_i)
    return angles_ti.sin(), angles_ti.cos()


def factorised_scores(relative: Relative, q_bhtd: Tensor, k_bhsd: Tensor) -> Tensor:
    w_hcd = relative.project.weight.view(HEADS, DIM // HEADS, DIM)
    a_bhtd = torch.einsum("bhtc,hcd->bhtd", q_bhtd + relative.v_hd[:, None], w_hcd)
    a_sin, a_cos = a_bhtd.chunk(2, dim=-1)
    sin_ti, cos_ti = absolute_sinusoids()
    with_sin = a_sin * cos_ti + a_cos * sin_ti  # what multiplies sin j
    with_cos = a_cos * cos_ti - a_sin * sin_ti  # what multiplies cos j
    content = (q_bhtd + relative.u_hd[:, None]) @ k_bhsd.mT
    return (content + with_sin @ sin_ti.T + with_cos @ cos_ti.T) * (DIM // HEADS) ** -0.5


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_relative_attention_is_its_factorisation(weighting: str) -> None:
    """In float64, ragged, with random W, u and v."""
    torch.manual_seed(0)
    how = Weighting.softmax() if weighting == "softmax" else Weighting.sigmoid()
    ours = MultiHeadAttention(DIM, HEADS, Relative(DIM, HEADS), how, "auto").double()
    randomise(ours)
    relative = ours.position
    assert isinstance(relative, Relative)
    x_btd = torch.randn(len(LENS), FRAMES, DIM, dtype=torch.float64)
    lens_b = torch.tensor(LENS)
    got = ours(x_btd, Mask(key_lens=lens_b, query_lens=lens_b))
    q_bhtd, k_bhsd, v_bhsd = (
        part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for part in ours.project_qkv(x_btd).chunk(3, dim=-1)
    )
    scores = factorised_scores(relative, q_bhtd, k_bhsd)
    for row, length in enumerate(LENS):
        seen = scores[row, :, :length, :length]
        weights = (
            seen.softmax(-1) if weighting == "softmax" else (seen - lens_b[row].log()).sigmoid()
        )
        expected = ours.project_out((weights @ v_bhsd[row, :, :length]).transpose(0, 1).flatten(1))
        # softmax agrees within 3e-16; the sigmoid's -log n is a float32 number
        tolerance = 1e-14 if weighting == "softmax" else 1e-7
        torch.testing.assert_close(got[row, :length], expected, atol=tolerance, rtol=0)
