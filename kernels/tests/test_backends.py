"""Every CPU backend and engine against the reference in float64: outputs and all gradients."""

import os
import subprocess
import sys

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, blockwise, cpp_engine, dispatch
from sigmoid_attention.flat import flatten
from torch import nn

from .cases import (
    MASKS,
    POSITIONS,
    WEIGHTINGS,
    Sizes,
    assert_same,
    beside_nan,
    cached_step,
    make,
    served,
)

LENGTHS = (1, 7, 63, 111, 257)
needs_cpp = pytest.mark.skipif(not cpp_engine.available(), reason="no C++ compiler here")


@pytest.fixture
def pure_torch(monkeypatch):
    monkeypatch.setattr(dispatch, "_engine", lambda *_: "torch")


@pytest.fixture(params=["one", "many"])
def blocks(request, monkeypatch):
    if request.param == "many":
        monkeypatch.setattr(blockwise, "ONE_BLOCK", 0)
        monkeypatch.setattr(blockwise, "MIN_ROWS", 4)
        monkeypatch.setattr(blockwise, "BLOCK", 64)
        monkeypatch.setattr(blockwise, "KEY_BLOCK", 5)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_blockwise_torch(weighting, position, mask, blocks, pure_torch):
    case = make(weighting, position, mask)
    assert_same(case.run("blockwise"), case.run("reference"), 1e-11, 1e-12)


@needs_cpp
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", served("c++"))
def test_blockwise_cpp(weighting, position, mask):
    case = make(weighting, position, mask, Sizes(dtype=torch.float32, queries=61, keys=150, d=20))
    chosen = dispatch.resolve(case.weighting, case.position, case.mask, backend="blockwise")
    assert chosen.engine == "c++"
    expected = make(weighting, position, mask, Sizes(queries=61, keys=150, d=20)).run("reference")
    got = [x.double() for x in case.run("blockwise")]
    assert_same(got, expected, 2e-5, 1e-6)


@pytest.mark.parametrize("keys", LENGTHS)
@pytest.mark.parametrize("queries", LENGTHS)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-11), pytest.param(torch.float32, 2e-5, marks=needs_cpp)]
)
def test_blockwise_lengths(dtype, rtol, queries, keys):
    """Both engines: the C++ one has float32 alone."""
    sizes = {"queries": queries, "keys": keys, "d": 36, "dv": 64, "batch": 1}
    for position in POSITIONS:
        expected = make("visible", position, "none", Sizes(**sizes)).run("reference")
        got = make("visible", position, "none", Sizes(**sizes, dtype=dtype)).run("blockwise")
        assert_same([x.double() for x in got], expected, rtol, rtol / 20)


@needs_cpp
@pytest.mark.parametrize("position", POSITIONS)
def test_blockwise_cpp_splits_heads_between_threads(position):
    sizes = {"queries": 800, "keys": 700, "d": 16, "dv": 16, "batch": 1, "heads": 1, "kv_heads": 1}
    torch.set_num_threads(2)
    got = make("per_head", position, "causal", Sizes(**sizes, dtype=torch.float32)).run("blockwise")
    torch.set_num_threads(1)
    expected = make("per_head", position, "causal", Sizes(**sizes)).run("reference")
    assert_same([x.double() for x in got], expected, 3e-5, 1e-6)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("position", POSITIONS)
def test_sdpa(position, mask):
    case = make("softmax", position, mask)
    assert_same(case.run("sdpa"), case.run("reference"), 1e-11, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weighting", ["softmax", "visible"])
@pytest.mark.parametrize("position", POSITIONS)
def test_half_precision_is_rounded_once(position, weighting, dtype):
    case = make(weighting, position, "lens", Sizes(dtype=dtype))
    got, expected = case.run("blockwise"), case.run("reference")
    assert_same(got[:1], expected[:1], torch.finfo(dtype).eps, 0.0)
    assert_same(got[1:], expected[1:], 4 * torch.finfo(dtype).eps, 0.0)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", ["softmax", "per_head", "exponent", "relu", "polynomial"])
@pytest.mark.parametrize("backend", ["reference", "blockwise"])
def test_gradcheck(weighting, position, backend):
    sizes = Sizes(batch=2, heads=2, kv_heads=1, queries=3, keys=4, d=3, dv=2)
    case = make(weighting, position, "causal", sizes)

    def run(*leaves):
        q, k, v, *rest = leaves
        how = case.weighting
        if weighting == "per_head":
            how, rest = Weighting.sigmoid(bias_h=rest[0]), rest[1:]
        elif weighting == "exponent":
            how, rest = Weighting.sigmoid(n="effective", exponent_h=rest[0]), rest[1:]
        position_bias = case.position
        if position == "alibi":
            position_bias = PositionBias.alibi(rest[0])
        elif position == "table":
            position_bias = PositionBias.table(rest[0], case.position.zero)
        elif position == "relative":
            position_bias = PositionBias.relative(*rest, case.position.zero)
        return attend(
            q, k, v, weighting=how, position=position_bias, mask=case.mask, backend=backend
        )

    assert torch.autograd.gradcheck(run, case.leaves)


@pytest.mark.parametrize("backend", ["reference", "blockwise", "sdpa"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("weighting", ["softmax", "visible", "sequence", "effective"])
def test_padding_changes_nothing(weighting, position, backend):
    if backend == "sdpa" and weighting != "softmax":
        pytest.skip("sdpa has softmax only")
    sizes = Sizes(queries=40, keys=40, dtype=torch.float32, d=16, kv_heads=4)
    batch = make(weighting, position, "lens", sizes)
    length = int(batch.mask.key_lens[1])
    alone = {
        name: getattr(batch, name).detach()[1:2, :, :length].clone() for name in ("q", "k", "v")
    }
    how = {"weighting": batch.weighting, "position": batch.position, "backend": backend}
    expected = attend(
        **{f"{n}_{'bhtd' if n == 'q' else 'bhsd'}": x for n, x in alone.items()}, **how
    )
    got = attend(batch.q, batch.k, batch.v, mask=batch.mask, **how)[1:2, :, :length]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
def test_rows_without_keys_are_exactly_zero(backend):
    o, dq, dk, dv, _ = make("visible", "alibi", "lens").run(backend)
    assert o[2].eq(0).all()
    assert o[1, :, 5:].eq(0).all()
    assert o[0].ne(0).all()
    assert dq[2].eq(0).all()
    assert dq[1, :, 5:].eq(0).all()
    assert dk[1, :, 6:].eq(0).all()
    assert dv[1, :, 6:].eq(0).all()


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@pytest.mark.parametrize("position", POSITIONS)
def test_disjoint_shards_of_the_keys_add_up(position, backend):
    case = make("visible", position, "none")
    whole = case.run(backend)[0]
    count = torch.full((case.q.shape[0],), case.k.shape[2])
    parts = [
        attend(
            case.q,
            case.k[:, :, a:b],
            case.v[:, :, a:b],
            weighting=Weighting.sigmoid(n=count),
            position=case.position,
            mask=Mask(k_start=a),
            backend=backend,
        )
        for a, b in ((0, 5), (5, 6), (6, 17))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_tiles_outside_a_mask_are_not_computed(monkeypatch):
    for name, value in {"ONE_BLOCK": 0, "MIN_ROWS": 8, "BLOCK": 64, "KEY_BLOCK": 8}.items():
        monkeypatch.setattr(blockwise, name, value)

    def area(mask):
        x = torch.zeros(2, 1, 64, 4)
        flat = flatten(x, x, x, Weighting.sigmoid(), None, mask, None)
        tiles = [tile for tile, _ in blockwise._tiles(flat, one=False)]
        return sum((t.t1 - t.t0) * (t.s1 - t.s0) for t in tiles)

    assert area(Mask()) == 2 * 64 * 64
    assert area(Mask(causal=True)) == 2 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) * 64
    assert area(Mask(key_lens=torch.tensor([64, 16]))) == 64 * (64 + 16)
    assert area(Mask(query_lens=torch.tensor([8, 0]))) == 8 * 64
    assert area(Mask(chunk=(8, 0))) == 2 * 8 * 64


@needs_cpp
def test_tiles_outside_a_mask_are_not_computed_in_cpp():
    got, expected = beside_nan("blockwise", 384)  # whole blocks of queries and of keys
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@pytest.mark.parametrize("position", POSITIONS)
def test_a_step_from_a_cache_gives_the_rows_of_the_whole(position, backend, dtype):
    got, whole = cached_step(backend, position, Sizes(dtype=dtype))
    torch.testing.assert_close(got, whole)


@pytest.mark.parametrize("n", [1, 2048, 65536])
@pytest.mark.parametrize("engine", ["torch", "c++"])
def test_left_tail_is_relatively_accurate(engine, n, monkeypatch):
    if engine == "torch":
        monkeypatch.setattr(dispatch, "_engine", lambda *_: "torch")
    x = torch.linspace(-25, 25, 101)
    k, v = x.view(1, 1, -1, 1), torch.eye(101)[None, None]
    q = torch.ones(1, 1, 1, 1)
    how = {"weighting": Weighting.sigmoid(n=n), "scale": 1.0, "backend": "blockwise"}
    p = attend(q, k, v, **how).flatten().double()
    exact = torch.sigmoid(x.double() - torch.tensor(float(n)).double().log())
    assert (p / exact - 1).abs().max().item() < 2.0**-17


def test_usable_without_asr_and_without_triton():
    program = (
        "import sys; sys.modules['asr'] = None; sys.modules['triton'] = None\n"
        "import torch\n"
        "from sigmoid_attention import Weighting, attend\n"
        "x = torch.randn(1, 1, 5, 4)\n"
        "assert attend(x, x, x, weighting=Weighting.sigmoid()).shape == x.shape\n"
    )
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), *sys.path]))
    env = {**os.environ, "PYTHONPATH": path, "SIGMOID_ATTENTION_CPP": "0"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, timeout=100)


def test_a_choice_is_made_again_only_for_another_device_or_dtype():
    chosen = dispatch.resolve(Weighting.sigmoid(), "alibi", "key_lens")
    assert chosen.to(torch.device("cpu"), torch.float32) is chosen
    half = chosen.to(torch.device("cpu"), torch.bfloat16)
    assert (half.dtype, half.engine, half.mask_kind) == (torch.bfloat16, "torch", "key_lens")
    with pytest.raises(ValueError, match=r"triton.*cannot serve"):
        dispatch.resolve(Weighting.sigmoid(), device="cuda", backend="triton").to(
            torch.device("cuda"), torch.float64
        )


def test_each_different_choice_is_logged_once(caplog):
    dispatch._log_once.cache_clear()
    caplog.set_level("INFO", logger="sigmoid_attention")
    for _ in range(3):
        dispatch.resolve(Weighting.sigmoid(), "alibi", "key_lens", dtype=torch.float64)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("attention:")]
    assert lines == ["attention: sigmoid, alibi, key_lens, cpu torch.float64: by blockwise (torch)"]


def test_parameters_train_through_a_resolved_call():
    bias = nn.Parameter(torch.zeros(2))
    chosen = dispatch.resolve(Weighting.sigmoid(), None, "key_lens")
    x = torch.randn(1, 2, 5, 4)
    chosen(x, x, x, mask=Mask(key_lens=torch.tensor([3])), bias_h=bias).sum().backward()
    assert bias.grad is not None
    assert bias.grad.ne(0).all()
