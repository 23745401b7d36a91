"""What gpu_check.py runs: one seeded call on the hardware against float64, and special cases.

The float64 reference runs on the same device from the same rounded inputs. Errors are norms,
||got - exact|| / ||exact||, and the largest difference over the largest value. `plain` is the error
of the full matrix with everything in the inputs' own type: where a gradient is a sum of terms that
cancel, no bound holds for anybody, and a kernel must only not be worse than that.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend, reference
from torch import Tensor

BOUNDS = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 1e-4}  # of norms
PLAIN_FACTOR = 1.5  # beyond a bound, at most this many times `plain`
SHIFTS = ("visible", "no_shift", "constant", "per_head", "sequence", "number", "effective")
LENGTHS = (129, 257, 500, 1000, 2047)
REHEARSED = (7, 17, 20)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
FRAMES = 300 if DEVICE == "cuda" else 40  # of the special cases


@dataclass
class Inputs:
    """One call's tensors; leaves are differentiated, `names` says which they are."""

    leaves: dict[str, Tensor]
    position_kind: str
    shift: str
    mask: Mask | None
    zero: int
    map: str = "sigmoid"

    def call(self, leaves: dict[str, Tensor], backend: str) -> Tensor:
        return attend(
            leaves["q"],
            leaves["k"],
            leaves["v"],
            weighting=self.weighting(leaves),
            position=self.position(leaves),
            mask=self.mask,
            backend=backend,
        )

    def weighting(self, leaves: dict[str, Tensor]) -> Weighting:
        if self.map == "softmax":
            return Weighting.softmax()
        made = {
            "visible": Weighting.sigmoid,
            "no_shift": lambda: Weighting.sigmoid(shift=None),
            "constant": lambda: Weighting.sigmoid(shift=-1.5),
            "per_head": lambda: Weighting.sigmoid(bias_h=leaves["bias_h"]),
            "sequence": lambda: Weighting.sigmoid(n="sequence"),
            "number": lambda: Weighting.sigmoid(n=50),
            "effective": lambda: Weighting.sigmoid(n="effective"),
        }
        return made[self.shift]()

    def position(self, leaves: dict[str, Tensor]) -> PositionBias | None:
        if self.position_kind == "alibi":
            return PositionBias.alibi(leaves["slopes"])
        if self.position_kind == "table":
            return PositionBias.table(leaves["table"], self.zero)
        if self.position_kind == "relative":
            return PositionBias.relative(leaves["u"], leaves["v_bias"], leaves["r"], self.zero)
        return None

    def run(self, leaves: dict[str, Tensor], backend: str, do: Tensor) -> dict[str, Tensor]:
        """o and the gradient of every leaf."""
        new = {name: x.detach().requires_grad_() for name, x in leaves.items()}
        o = self.call(new, backend)
        grads = torch.autograd.grad(o, list(new.values()), do.to(o.dtype))
        return {"o": o.detach(), **{f"d{n}": g for n, g in zip(new, grads, strict=True)}}


def make_mask(name: str, batch: int, queries: int, keys: int, rng: random.Random) -> Mask | None:
    """Lengths reach from nothing to all."""

    def lens(most: int) -> Tensor:
        some = [most, rng.randint(1, most), 0, rng.randint(1, most)]
        return torch.tensor([some[b % 4] for b in range(batch)], device=DEVICE)

    if name == "lens":
        return Mask(key_lens=lens(keys), query_lens=lens(queries))
    if name == "causal":
        return Mask(causal=True, q_start=max(0, keys - queries))
    if name == "causal lens":
        start = max(0, keys - queries)
        return Mask(causal=True, q_start=start, key_lens=lens(keys), query_lens=lens(queries))
    if name == "window":
        return Mask(window=(rng.randint(0, keys // 2), rng.randint(0, 40)), key_lens=lens(keys))
    if name == "chunk":
        return Mask(chunk=(rng.randint(3, 1 + keys // 4), rng.choice([None, 0, 1])))
    if name == "chunk lens":
        size = rng.randint(3, 1 + keys // 4)
        return Mask(chunk=(size, 1), key_lens=lens(keys), query_lens=lens(queries))
    if name == "packed":
        cuts = sorted(rng.randint(0, keys) for _ in range(3))
        ends = torch.tensor([0, *cuts, keys], dtype=torch.int32, device=DEVICE)
        return Mask(cu_seqlens=ends)
    return None


def make(case: dict[str, Any]) -> Inputs:
    """The tensors of a case; frames that lengths exclude are NaN, memory (B, T, H, D) if strided."""
    rng = random.Random(case["name"])
    g = torch.Generator().manual_seed(rng.randint(0, 10**9))
    dtype = getattr(torch, case["dtype"])
    queries, keys, d, heads = case["queries"], case["keys"], case["d"], 2
    batch = 1 if case["mask"] == "packed" else 3
    mask = make_mask(case["mask"], batch, queries, keys, rng)

    def new(*size: int) -> Tensor:
        return torch.randn(size, generator=g).to(DEVICE, dtype)

    def frames(count: int) -> Tensor:
        if case["strided"]:
            return new(batch, count, heads, d).transpose(1, 2)
        return new(batch, heads, count, d)

    leaves = {"q": frames(queries), "k": frames(keys), "v": frames(keys)}
    if case["shift"] == "per_head":
        leaves["bias_h"] = new(heads).float()
    zero = queries + keys + 3
    if case["position"] == "alibi":
        leaves["slopes"] = new(heads).float().abs() * 0.1
    elif case["position"] == "table":
        leaves["table"], zero = new(heads, 129).float(), 64
    elif case["position"] == "relative":
        leaves |= {"u": new(heads, d), "v_bias": new(heads, d), "r": new(heads, 2 * zero, d)}
    for name, lens_b in (
        ("q", mask.query_lens if mask else None),
        ("k", mask.key_lens if mask else None),
        ("v", mask.key_lens if mask else None),
    ):
        if lens_b is not None:
            for b, length in enumerate(lens_b.tolist()):
                leaves[name][b, :, length:] = float("nan")
    return Inputs(leaves, case["position"], case["shift"], mask, zero, case.get("map", "sigmoid"))


def errors(got: Tensor, exact: Tensor) -> tuple[float, float]:
    """(of norms, of the largest); NaN where got is not finite."""
    off = got.double() - exact
    size, most = exact.norm().item(), exact.abs().max().item()
    tiny = 1e-30
    return off.norm().item() / max(size, tiny), off.abs().max().item() / max(most, tiny)


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """The record of one case."""
    inputs = make(case)
    batch, heads, queries, d = inputs.leaves["q"].shape
    do = torch.randn(batch, queries, heads, d, device=DEVICE).transpose(1, 2)
    do = do.to(inputs.leaves["q"].dtype)
    do = do if case["strided"] else do.contiguous()
    with filled_memory():
        got = inputs.run(inputs.leaves, "triton", do)
    once, twice = (inputs.run(inputs.leaves, "triton", do) for _ in range(2))
    exact = inputs.run({n: x.double() for n, x in inputs.leaves.items()}, "reference", do.double())
    plain: dict[str, Tensor] = {}
    if case["dtype"] != "float32":
        with mock.patch.object(reference, "compute_dtype", lambda dtype: dtype):
            plain = inputs.run(plain_leaves(inputs, do.dtype), "reference", do)
    return judge(case, got, (once, twice), exact, plain)


def plain_leaves(inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: x.to(dtype) for name, x in inputs.leaves.items()}


def judge(
    case: dict[str, Any],
    got: dict[str, Tensor],
    again: tuple[dict[str, Tensor], dict[str, Tensor]],
    exact: dict[str, Tensor],
    plain: dict[str, Tensor],
) -> dict[str, Any]:
    """Errors of each tensor, and what is wrong with them."""
    bound = BOUNDS[case["dtype"]]
    tensors: dict[str, Any] = {}
    faults = []
    for name, x in got.items():
        of_norms, of_largest = errors(x, exact[name])
        tensors[name] = {"norm": of_norms, "max": of_largest}
        allowed = bound
        if name in plain:
            tensors[name]["plain"] = errors(plain[name], exact[name])[0]
            if tensors[name]["plain"] == tensors[name]["plain"]:
                allowed = max(allowed, PLAIN_FACTOR * tensors[name]["plain"])
        if not of_norms <= allowed:
            faults.append(f"{name} off by {of_norms:.2g} (allowed {allowed:.2g})")
        if not torch.equal(*(y[name] for y in again)):
            faults.append(f"{name} differs between two runs")
        if not torch.isfinite(x).all():
            faults.append(f"{name} is not finite")
    return {**case, "tensors": tensors, "failed": "; ".join(faults)}


@contextlib.contextmanager
def filled_memory() -> Iterator[None]:
    """Memory that nobody wrote is NaN, so an output tile left out cannot pass."""
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


# --- special cases ----------------------------------------------------------------------------


def weights(x: Tensor, dtype: torch.dtype, n: int) -> tuple[Tensor, Tensor]:
    """(p of one row of scores read off by an identity as values, exact p) for rounded scores.

    The identity is times 2^15, or float16 could not hold the small ones as outputs."""
    count = x.shape[0]
    k = x.to(DEVICE, dtype).view(1, 1, count, 1)
    q, v = (
        torch.ones_like(k[:, :, :1]),
        (2.0**15 * torch.eye(count, device=DEVICE)).to(dtype)[None, None],
    )
    p = attend(q, k, v, weighting=Weighting.sigmoid(n=n), scale=1.0, backend="triton")
    exact = torch.sigmoid(k.double().flatten() - torch.tensor(float(n)).double().log().to(DEVICE))
    return p.double().flatten() / 2.0**15, exact


def tail(dtype: str) -> dict[str, Any]:
    """Weights of n = 64k keys: relative error of p alone, and of a whole output."""
    kind = getattr(torch, dtype)
    lowest = -8 if dtype == "float16" else -12  # its weights reach down to 2^-28 at best
    p, exact = weights(torch.linspace(lowest, 12, 97), kind, 65536)
    # kernels may cut weights off at 2^-31, far below 1 / n
    of_each = ((p - exact).abs() - 2.0**-31).clamp(min=0) / exact
    likely = exact > 65536**-1 * 0.0183  # scores above -4
    keys = 65536 if DEVICE == "cuda" else 96
    q, k, v = (torch.randn(1, 1, t, 64, device=DEVICE).to(kind) for t in (64, keys, keys))
    o = attend(q, k, v, weighting=Weighting.sigmoid(), backend="triton")
    o_exact = reference.attend(q.double(), k.double(), v.double(), weighting=Weighting.sigmoid())
    worst, worst_likely = of_each.max().item(), of_each[likely].max().item()
    o_error = errors(o, o_exact)[0]
    allowed = {"bfloat16": 2.0**-7, "float16": 2.0**-9, "float32": 2.0**-16}[dtype]
    faults = []
    if not worst <= allowed:
        faults.append(f"p of scores of {lowest} to 12 off by {worst:.2g} (allowed {allowed:.2g})")
    if not o_error <= BOUNDS[dtype]:
        faults.append(f"o off by {o_error:.2g}")
    return {"p": worst, "p_above_-4": worst_likely, "o": o_error, "failed": "; ".join(faults)}


def nan_score(dtype: str) -> dict[str, Any]:
    """A NaN in a key that is seen makes every row NaN."""
    kind = getattr(torch, dtype)
    q, k, v = (torch.randn(1, 2, FRAMES, 64, device=DEVICE).to(kind) for _ in range(3))
    k[0, 0, 20, 3] = float("nan")
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = attend(*leaves, weighting=Weighting.sigmoid(), backend="triton")
    o.sum().backward()
    faults = []
    if not o[0, 0].isnan().all():
        faults.append("o hides the NaN")
    if not o[0, 1].isfinite().all():
        faults.append("o of the other head is not finite")
    if not leaves[0].grad[0, 0].isnan().any():  # type: ignore[index]
        faults.append("dq hides the NaN")
    return {"failed": "; ".join(faults)}


def extremes(dtype: str) -> dict[str, Any]:
    """An infinite or huge score leaves its neighbours alone."""
    kind, faults = getattr(torch, dtype), []
    for extreme in (-float("inf"), -1e4, -300.0, 300.0, float("inf")):
        p, exact = weights(torch.tensor([0.25, extreme, extreme, -0.5] * 8), kind, 1)
        worst = (p - exact).abs().max().item()
        if not worst <= 2.0**-8:
            faults.append(f"{extreme}: off by {worst:.2g}")
    return {"failed": "; ".join(faults)}


def shards(dtype: str) -> dict[str, Any]:
    """Outputs of disjoint keys add up."""
    kind = getattr(torch, dtype)
    q, k, v = (torch.randn(2, 2, FRAMES, 64, device=DEVICE).to(kind) for _ in range(3))
    count = torch.full((2,), FRAMES, device=DEVICE)
    how: dict[str, Any] = {"weighting": Weighting.sigmoid(n=count), "backend": "triton"}
    whole = attend(q, k, v, **how)
    parts = [
        attend(q, k[:, :, a:b], v[:, :, a:b], mask=Mask(k_start=a), **how)
        for a, b in ((0, 10), (10, 11), (11, FRAMES))
    ]
    off = errors(sum(x.double() for x in parts), whole.double())[0]  # type: ignore[arg-type]
    return {"o": off, "failed": "" if off <= BOUNDS[dtype] else f"off by {off:.2g}"}


def graph(dtype: str) -> dict[str, Any]:
    """Forward and backward captured once, replayed on other numbers: the bits of an eager call."""
    kind = getattr(torch, dtype)
    leaves = [
        torch.randn(2, 2, FRAMES, 64, device=DEVICE).to(kind).requires_grad_() for _ in range(3)
    ]
    do = torch.randn(2, 2, FRAMES, 64, device=DEVICE).to(kind)
    lens = torch.tensor([FRAMES, FRAMES // 2], device=DEVICE)
    slopes = torch.tensor([0.1, 0.02], device=DEVICE, requires_grad=True)

    def step() -> list[Tensor]:
        position, mask = PositionBias.alibi(slopes), Mask(key_lens=lens, query_lens=lens)
        how: dict[str, Any] = {"position": position, "mask": mask, "backend": "triton"}
        o = attend(*leaves, weighting=Weighting.sigmoid(), **how)
        return [o, *torch.autograd.grad(o, [*leaves, slopes], do)]

    if DEVICE != "cuda":
        return {"failed": "", "skipped": "no CUDA"}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, stream=stream):
        held = step()
    with torch.no_grad():
        for x in leaves:
            x.copy_(torch.randn_like(x))
    captured.replay()
    torch.cuda.synchronize()
    names = ("o", "dq", "dk", "dv", "dslopes")
    found = zip(names, held, step(), strict=True)
    different = [name for name, a, b in found if not torch.equal(a, b)]
    return {"failed": f"differ: {' '.join(different)}" if different else ""}


SPECIAL = {f.__name__: f for f in (tail, nan_score, extremes, shards, graph)}
