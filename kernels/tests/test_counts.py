"""The effective count: the sum of exp(position bias) over the keys that a row sees, by head."""

import math

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend
from sigmoid_attention.counts import log_counts
from sigmoid_attention.flat import visible_runs
from sigmoid_attention.reference import attention_weights, offsets, position_bias, visible
from torch._dynamo.testing import CompileCounter

HEADS = 6
SLOPES = torch.tensor([2.0**-2, 2.0**-4, 2.0**-8, 3.0, 0.0, -0.125], dtype=torch.float64)
MASKS = {
    "none": Mask(),
    "lens": Mask(key_lens=torch.tensor([23, 9]), query_lens=torch.tensor([20, 9])),
    "causal": Mask(causal=True),
    "window": Mask(window=(3, 2)),
    "chunk": Mask(chunk=(4, 1), key_lens=torch.tensor([23, 10])),
    "cache": Mask(causal=True, q_start=30, k_start=10),
    "behind": Mask(k_start=40),  # no row sees its own position
    "ahead": Mask(q_start=50),
    "packed": Mask(cu_seqlens=torch.tensor([0, 7, 7, 20])),
}


def biases():
    g = torch.Generator().manual_seed(7)
    table = torch.randn(HEADS, 11, generator=g, dtype=torch.float64)
    table[1, 4:] = -math.inf  # keys that a head is never to see
    table[2, 3] = 60.0  # beside which a difference of sums has lost all else
    return {"alibi": PositionBias.alibi(SLOPES), "table": PositionBias.table(table, 5)}


def make(mask, queries=20, keys=23):
    batch, keys = (1, queries) if mask.cu_seqlens is not None else (2, keys)
    return torch.zeros(batch, HEADS, queries, 4), torch.zeros(batch, HEADS, keys, 4)


def summed(position, mask, q, k):
    """log N by the matrix of biases in float64, 0 where a row sees nothing."""
    seen_bts = visible(mask, q, k)
    offset_ts = offsets(q.shape[2], k.shape[2], mask.k_start - mask.q_start, q.device)
    bias_bhts = position_bias(position, offset_ts, torch.float64).expand(q.shape[0], -1, -1, -1)
    log_n_bht = bias_bhts.masked_fill(~seen_bts[:, None], -math.inf).logsumexp(3)
    return log_n_bht.masked_fill(~seen_bts.any(2)[:, None], 0.0), seen_bts


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["alibi", "table"])
@pytest.mark.parametrize("queries", [1, 20, 150])
def test_equals_the_sum_over_the_matrix(kind, mask, queries):
    mask = MASKS[mask]
    if queries != 20 and (mask.cu_seqlens is not None or mask.key_lens is not None):
        pytest.skip("lengths are of 20 queries")
    q, k = make(mask, queries, queries + 3)
    position = biases()[kind]
    runs = visible_runs(mask, q.shape[2], k.shape[2], q.device)
    how = Weighting.sigmoid(n="effective")
    got = log_counts(how, position, mask, runs, q.double(), k.shape[2])
    expected, _ = summed(position, mask, q, k)
    # a run in which a head may see nothing has no sum; any number does
    some = expected > -math.inf
    got = got.expand(expected.shape)
    torch.testing.assert_close(got[some], expected[some], rtol=1e-12, atol=1e-12)
    assert got.isfinite().all()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["alibi", "table"])
@pytest.mark.parametrize("backend", ["reference", "blockwise"])
def test_rows_sum_to_one_where_content_says_nothing(kind, mask, backend):
    """exp(score - log N) sums to 1 in each row, and so the sigmoids to N / (N + 1) up to 1 where no
    key has more than N's largest part, as n / (n + 1) is the sum without a position."""
    mask = MASKS[mask]
    q, k = make(mask)
    position, how = biases()[kind], Weighting.sigmoid(n="effective")
    expected, seen_bts = summed(position, mask, q, k)
    ones = torch.ones(*k.shape[:3], 1, dtype=torch.float64)
    sums_bht = attend(
        q.double(), k.double(), ones, weighting=how, position=position, mask=mask, backend=backend
    )[..., 0]
    offset_ts = offsets(q.shape[2], k.shape[2], mask.k_start - mask.q_start, q.device)
    bias_hts = position_bias(position, offset_ts, torch.float64)
    bias_bhts = bias_hts.masked_fill(~seen_bts[:, None], -math.inf)
    some_bht = seen_bts.any(2)[:, None] & bias_bhts.amax(3).isfinite()
    parts_bhts = (bias_bhts - expected[..., None]).exp()[some_bht]
    torch.testing.assert_close(parts_bhts.sum(1), torch.ones(len(parts_bhts)).double())
    least = 1 / (1 + parts_bhts.amax(1))  # each key's share p / (1 + p), of shares p that sum to 1
    assert (sums_bht[some_bht] >= least - 1e-12).all()
    assert (sums_bht[some_bht] < 1).all()
    assert (sums_bht[~seen_bts.any(2)[:, None].expand_as(sums_bht)] == 0).all()


def test_long_audio_leaves_local_heads_their_sum():
    """What counting every visible key takes from a head that sees ten of them."""
    sums = {}
    for n in ("visible", "effective"):
        for frames in (64, 1024):
            x = torch.zeros(1, 4, frames, 4)
            position = PositionBias.alibi(torch.tensor([2.0 ** -(2 * i + 2) for i in range(4)]))
            weights = attention_weights(x, x, weighting=Weighting.sigmoid(n=n), position=position)
            sums[n, frames] = weights.sum(3)[0, :, frames // 2]
    assert sums["visible", 1024][0] < 0.01 < 0.1 < sums["visible", 64][0] < 0.13
    for frames in (64, 1024):
        assert (sums["effective", frames] > 0.93).all()
        assert (sums["effective", frames] < 1).all()


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_biases_that_hide_all_keys_give_padding_no_gradient(backend, dtype):
    """The shift of such a row had undone what hides padded keys."""
    table = torch.full((1, 9), -math.inf, dtype=dtype)
    table[0, 3:6] = 0.0
    q, k, v = (torch.ones(1, 1, 8, 2, dtype=dtype, requires_grad=True) for _ in range(3))
    o = attend(
        q,
        k,
        v,
        weighting=Weighting.sigmoid(n="effective"),
        position=PositionBias.table(table, 4),
        mask=Mask(key_lens=torch.tensor([2])),
        backend=backend,
    )
    o.sum().backward()
    assert (v.grad[:, :, 2:] == 0).all()
    assert (v.grad[:, :, :2] > 0).all()
    assert (o[:, :, 3:] < 1e-30).all()


@pytest.mark.parametrize("kind", ["alibi", "table"])
def test_compiled_once_for_all_lengths(kind):
    """Not for every power of two, as a loop over the keys had it."""
    position = biases()[kind]
    how = Weighting.sigmoid(n="effective")
    counter = CompileCounter()
    torch._dynamo.reset()

    @torch.compile(backend=counter, dynamic=True, fullgraph=True)
    def count(q):
        return log_counts(how, position, Mask(causal=True), None, q, q.shape[2])

    for frames in (9, 17, 40, 70, 130, 300, 1000):
        q = torch.zeros(1, HEADS, frames, 2, dtype=torch.float64)
        expected = log_counts(how, position, Mask(causal=True), None, q, frames)
        torch.testing.assert_close(count(q), expected)
    assert counter.frame_count <= 2


def test_by_hand():
    """Slope log 2: weights 1/2, 1, 1/2, 1/4 around the second of four keys."""
    position = PositionBias.alibi(torch.tensor([math.log(2.0)]))
    q = torch.zeros(1, 1, 4, 2)
    how = Weighting.sigmoid(n="effective")
    n_t = log_counts(how, position, Mask(), None, q, 4).exp()[0, 0]
    torch.testing.assert_close(n_t, torch.tensor([1.875, 2.25, 2.25, 1.875]))
    seen = Mask(causal=True)
    n_t = log_counts(how, position, seen, visible_runs(seen, 4, 4, q.device), q, 4).exp()[0, 0]
    torch.testing.assert_close(n_t, torch.tensor([1.0, 1.5, 1.75, 1.875]))


@pytest.mark.parametrize("position", ["none", "relative"])
def test_without_a_bias_known_beforehand_it_counts_the_visible_keys(position):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 9, 4, generator=g) for _ in range(3))
    u, w, r = (torch.randn(*shape, generator=g) for shape in ((2, 4), (2, 4), (2, 17, 4)))
    bias = PositionBias.relative(u, w, r, 8) if position == "relative" else None
    got, expected = (
        attend(q, k, v, weighting=Weighting.sigmoid(n=n), position=bias, mask=Mask(window=3))
        for n in ("effective", "visible")
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_gradient_at_a_slope_of_nothing():
    """d log N / d slope is minus the mean distance, there too."""
    slopes = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    q = torch.zeros(1, 1, 5, 2, dtype=torch.float64)
    how = Weighting.sigmoid(n="effective")
    log_counts(how, PositionBias.alibi(slopes), Mask(), None, q, 5)[0, 0, 0].backward()
    torch.testing.assert_close(slopes.grad, torch.tensor([-2.0], dtype=torch.float64))


def test_shards_with_the_global_count_add_up():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 12, 4, generator=g, dtype=torch.float64) for _ in range(3))
    position, how = PositionBias.alibi(SLOPES[:2]), Weighting.sigmoid(n="effective")
    whole = attend(q, k, v, weighting=how, position=position)
    n_bht = log_counts(how, position, Mask(), None, q, 12).exp()
    parts = [
        attend(
            q,
            k[:, :, s : s + 6],
            v[:, :, s : s + 6],
            weighting=Weighting.sigmoid(n=n_bht.expand(1, 2, 12)),
            position=position,
            mask=Mask(k_start=s),
        )
        for s in (0, 6)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_an_exponent_needs_what_it_multiplies():
    ones = torch.ones(2)
    with pytest.raises(
        ValueError, match=r"exponent_h: got it with shift=-1\.0, allowed: only with"
    ):
        Weighting.sigmoid(-1.0, exponent_h=ones)
    with pytest.raises(ValueError, match="exponent_h: got shape"):
        Weighting.sigmoid(exponent_h=ones[None])
    x = torch.zeros(1, 4, 3, 2)
    with pytest.raises(ValueError, match="exponent_h: got 2 heads, allowed: 4"):
        attend(x, x, x, weighting=Weighting.sigmoid(exponent_h=ones))
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=f"Weighting.n: got dtype {dtype}, allowed: a real"):
            attend(x, x, x, weighting=Weighting.sigmoid(n=torch.ones(1, dtype=dtype)))
    with pytest.raises(ValueError, match=r"Weighting.n: got shape \(1, 3, 4\), allowed: \(1,\), "):
        attend(x, x, x, weighting=Weighting.sigmoid(n=torch.ones(1, 3, 4)))


def test_an_exponent_of_one_changes_nothing_and_of_none_is_no_shift():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 4, generator=g, dtype=torch.float64) for _ in range(3))
    plain, none = Weighting.sigmoid(), Weighting.sigmoid(shift=None)
    given = Weighting.sigmoid(exponent_h=torch.tensor([1.0, 0.0], dtype=torch.float64))
    one, other, both = (attend(q, k, v, weighting=how) for how in (plain, none, given))
    torch.testing.assert_close(both, torch.cat([one[:, :1], other[:, 1:]], 1))
