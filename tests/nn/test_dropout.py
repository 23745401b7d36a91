"""Dropout: the share it drops, and that nothing can be told from its numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr.nn.dropout import Dropout, hashed, mixed


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(3)
    dropout = Dropout(0.1)
    x = torch.ones(1001, 999, requires_grad=True)
    y = dropout(x)
    dropped = float((y == 0).float().mean())
    # 26/256 with a binomial deviation of 0.0003
    assert dropped == pytest.approx(26 / 256, abs=0.0015)
    assert float(y.detach().mean()) == pytest.approx(1.0, abs=0.0015)
    assert y.detach().unique().tolist() == pytest.approx([0.0, 256 / 230])
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    # the eight bytes of one draw are independent of each other
    kept = (y.detach().flatten()[:999_992].view(-1, 8) > 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.015


def test_dropout_off_is_the_identity() -> None:
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match="rate"):
        Dropout(1.0)


def by_python(place: int, first: int, second: int) -> int:
    """The hash in Python's integers."""
    every = 2**32 - 1
    x = (place ^ first) & every
    x = (x ^ (x >> 16)) * 0x7FEB352D & every
    x ^= second & every
    x = (x ^ (x >> 15)) * 0x846CA68B & every
    return x ^ (x >> 16)


def test_the_hash_is_that_of_unsigned_integers() -> None:
    places = torch.arange(-3000, 3000, dtype=torch.int32) * 715827
    first, second = -123456789, 2**31 - 5
    words = torch.tensor([first, second], dtype=torch.int32)
    found = mixed(places, words[0], words[1]).tolist()
    expected = [by_python(place, first, second) for place in places.tolist()]
    assert [x % 2**32 for x in found] == expected


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_hashed_dropout_drops_its_share(rate: float) -> None:
    torch.manual_seed(1)
    shares = torch.stack([hashed(torch.empty(64, 1024), rate).float().mean() for _ in range(64)])
    deviation = (rate * (1 - rate) / 65536) ** 0.5
    # each share as far from the rate as a binomial's, neither more nor less
    assert float(shares.mean()) == pytest.approx(1 - rate, abs=5 * deviation / 8)
    assert 0.6 < float(shares.std()) / deviation < 1.5


def kept(count: int, size: int) -> Tensor:
    """(count, size) of as many calls, centred and of variance 1."""
    calls = torch.stack([hashed(torch.empty(size), 0.5) for _ in range(count)])
    return calls.float() * 2 - 1


def test_hashed_numbers_are_independent() -> None:
    """Of places at every distance that a layer has, and of one place in several calls."""
    torch.manual_seed(2)
    size = 2**20
    calls = kept(6, size)
    for lag in (1, 2, 3, 4, 8, 16, 31, 64, 256, 512, 1000, 2048, 4096, 65536, size // 2):
        products = (calls[:, lag:] * calls[:, :-lag]).mean(1)
        assert float(products.abs().max()) < 5.5 / (size - lag) ** 0.5, lag
    among = calls @ calls.T / size - torch.eye(6)
    assert float(among.abs().max()) < 5.5 / size**0.5
    # no call is another one in another order of its blocks, as with a single word it would be
    sums = calls.view(6, -1, 4096).sum(2).sort(dim=1).values
    assert all(not torch.equal(sums[0], other) for other in sums[1:])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_compiled_dropout(rate: float) -> None:
    torch._dynamo.reset()
    dropout = torch.compile(Dropout(rate), backend="aot_eager", fullgraph=True, dynamic=True)
    for size in ((300, 512), (7, 20, 64)):
        x = torch.ones(size, requires_grad=True)
        torch.manual_seed(5)
        y = dropout(x)
        y.sum().backward()
        torch.testing.assert_close(x.grad, y.detach())  # the gradient's mask is the same
        assert y.detach().unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert not torch.equal(dropout(x), y)
        torch.manual_seed(5)
        assert torch.equal(dropout(x), y)
    # whatever was there, what is dropped is 0
    assert not dropout(torch.full((1000,), float("inf"))).isnan().any()
