"""CTC's log-probabilities of transcripts against torch.nn.functional.ctc_loss, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from asr.search.ctc_scores import LEAST, ctc_scores


def expected(log_probs_btv: Tensor, lens_b: Tensor, tokens_nu: Tensor, lens_n: Tensor) -> Tensor:
    width = len(tokens_nu) // len(lens_b)
    return -nn.functional.ctc_loss(
        log_probs_btv.double().repeat_interleave(width, 0).transpose(0, 1),
        tokens_nu,
        lens_b.repeat_interleave(width),
        lens_n,
        reduction="none",
    )


@pytest.mark.parametrize("peak", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("vocabulary", [2, 3, 30])
def test_equals_the_loss(vocabulary: int, peak: float) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    log_probs_btv = (peak * torch.randn(5, 40, vocabulary, generator=generator)).log_softmax(-1)
    lens_b = torch.tensor([40, 1, 17, 0, 33])
    tokens_nu = torch.randint(1, vocabulary, (15, 9), generator=generator)
    lens_n = torch.randint(0, 10, (15,), generator=generator)
    lens_n[:2] = torch.tensor([0, 9])
    found_n = ctc_scores(log_probs_btv, lens_b, tokens_nu, lens_n)
    expected_n = expected(log_probs_btv, lens_b, tokens_nu, lens_n)
    assert found_n.dtype == torch.float64
    torch.testing.assert_close(found_n, expected_n, rtol=1e-9, atol=1e-9)
    assert (found_n == -math.inf).any(), "some do not fit into their frames"


def test_by_hand_and_whatever_lies_beyond_the_lengths() -> None:
    probs_btv = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [math.nan, math.nan, math.nan]]])
    tokens_nu = torch.tensor([[1, 2], [1, 77], [0, 0], [2, 2]])
    found_n = ctc_scores(probs_btv.log(), torch.tensor([2]), tokens_nu, torch.tensor([2, 1, 0, 2]))
    one = 0.5 * 0.6 + 0.3 * 0.1 + 0.3 * 0.6
    assert found_n.exp().tolist() == pytest.approx([0.3 * 0.3, one, 0.5 * 0.1, 0.0], rel=1e-6)


def test_what_is_less_likely_than_a_number_can_be() -> None:
    """An hour of frames whose transcript is hopeless, and beside it one that is not."""
    log_probs_btv = torch.full((1, 2000, 4), 0.25).log()
    log_probs_btv[:, 1000:, 0] = -1e-3
    tokens_nu, lens_n = torch.tensor([[1, 2, 3], [1, 1, 1]]), torch.tensor([3, 0])
    lens_b = torch.tensor([2000])
    found_n = ctc_scores(log_probs_btv, lens_b, tokens_nu, lens_n)
    assert (found_n < LEAST).all()
    torch.testing.assert_close(found_n, expected(log_probs_btv, lens_b, tokens_nu, lens_n))
