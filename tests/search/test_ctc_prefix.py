"""CTC's prefix scores against the sum over every alignment."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from asr.search.ctc_prefix import CtcPrefixes

FRAMES, VOCAB = 5, 3


def read(labels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(labels) if label)


def totals_of(log_probs_tv: torch.Tensor) -> dict[tuple[int, ...], float]:
    """The log-probability of every transcript, over all of its alignments."""
    totals: dict[tuple[int, ...], float] = {}
    for labels in itertools.product(range(VOCAB), repeat=len(log_probs_tv)):
        one = math.exp(sum(float(log_probs_tv[t, v]) for t, v in enumerate(labels)))
        totals[read(labels)] = totals.get(read(labels), 0.0) + one
    return totals


@pytest.mark.parametrize(
    "prefix", [p for n in range(4) for p in itertools.product((1, 2), repeat=n)]
)
def test_a_prefix_sums_what_begins_with_it(prefix: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    log_probs_btv = (3 * torch.randn(2, FRAMES, VOCAB, dtype=torch.float64)).log_softmax(-1)
    lens_b = torch.tensor([FRAMES, 3])
    poisoned_btv = log_probs_btv.clone()
    poisoned_btv[1, 3:] = torch.nan
    prefixes = CtcPrefixes.of(poisoned_btv, lens_b)
    state = prefixes.start()
    for token in prefix:
        state = prefixes.extend(state, torch.full((2, 1), token))
    found_bv = prefixes.scores(state)[:, 0].exp()
    for row, length in enumerate(lens_b.tolist()):
        totals = totals_of(log_probs_btv[row, :length])
        expected = [totals.get(prefix, 0.0)]
        for token in range(1, VOCAB):
            begun = (*prefix, token)
            expected.append(sum(p for text, p in totals.items() if text[: len(begun)] == begun))
        assert found_bv[row].tolist() == pytest.approx(expected, rel=1e-9, abs=0)


def test_hypotheses_side_by_side_are_those_alone() -> None:
    torch.manual_seed(0)
    log_probs_btv = torch.randn(1, 40, 9).log_softmax(-1)
    prefixes = CtcPrefixes.of(log_probs_btv, torch.tensor([40]))
    one, other = prefixes.start(), prefixes.start()
    both = type(one)(*(torch.cat([x, x], 1) for x in one))
    for step in ((1, 1), (1, 2), (4, 2)):
        one = prefixes.extend(one, torch.tensor([[step[0]]]))
        other = prefixes.extend(other, torch.tensor([[step[1]]]))
        both = prefixes.extend(both, torch.tensor([step]))
    alone = torch.cat([prefixes.scores(one), prefixes.scores(other)], 1)
    torch.testing.assert_close(prefixes.scores(both), alone)
