"""What gpu_bench.py times: our kernels in each part of the table, and what a user has otherwise."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

PARTS = ("plain", "causal", "alibi", "relative", "ragged")
ERROR_ROWS = 64
MATRIX_LIMIT = 6e9  # bytes of a materialised bias
Call = Callable[..., Tensor]


@dataclass
class Shape:
    b: int
    h: int
    t: int
    d: int

    def __str__(self) -> str:
        return f"({self.b}, {self.h}, {self.t}, {self.d})"


@dataclass
class Contender:
    """call(q, k, v, *more) with `more` differentiated too; exact(rows) is what float64 says.

    make: done once before everything; it may refuse by raising. weighting: what the error is
    measured against, None where something else stands for it.
    """

    name: str
    make: Callable[[Scene], Call]
    weighting: str = "sigmoid"
    layout: str = "bhtd"
    extra: Callable[[Scene], list[Tensor]] = field(default=lambda scene: [])
    position: bool = True


@dataclass
class Scene:
    """One part of the table at one shape: the inputs all contenders share."""

    part: str
    shape: Shape
    device: str
    dtype: torch.dtype

    def __post_init__(self) -> None:
        b, h, t, d = self.shape.b, self.shape.h, self.shape.t, self.shape.d
        g = torch.Generator(self.device).manual_seed(t + d)

        def new(*size: int) -> Tensor:
            return torch.randn(size, generator=g, device=self.device).to(self.dtype)

        self.q, self.k, self.v, self.do = (new(b, h, t, d) for _ in range(4))
        self.slopes = torch.tensor([2.0 ** (-8 * (i + 1) / h) for i in range(h)], device=self.device)
        self.u, self.vb = new(h, d), new(h, d)
        self.r = new(h, 2 * t - 1, d) if self.part == "relative" else None
        rng = random.Random(t)
        self.lens = [t] * b
        if self.part == "ragged":
            self.lens = [max(1, round(t * rng.uniform(0.3, 1.0))) for _ in range(b)]
        self.lens_b = torch.tensor(self.lens, device=self.device)

    @property
    def forward_flops(self) -> float:
        pairs = sum(n * n for n in self.lens) / (2 if self.part == "causal" else 1)
        products = 3 if self.part == "relative" else 2
        return 2.0 * products * self.shape.h * self.shape.d * pairs

    @property
    def position(self) -> PositionBias | None:
        if self.part == "alibi":
            return PositionBias.alibi(self.slopes)
        if self.part == "relative":
            assert self.r is not None
            return PositionBias.relative(self.u, self.vb, self.r, self.shape.t - 1)
        return None

    @property
    def mask(self) -> Mask | None:
        if self.part == "causal":
            return Mask(causal=True)
        if self.part == "ragged":
            return Mask(key_lens=self.lens_b, query_lens=self.lens_b)
        return None


def ours(scene: Scene, map_name: str = "sigmoid", precision: str = "exact") -> Call:
    """The public call, masks and positions made anew in each as a layer does."""
    t = scene.shape.t
    weighting = Weighting.softmax() if map_name == "softmax" else Weighting.sigmoid(precision=precision)
    mask = scene.mask

    def call(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> Tensor:
        position = None
        if scene.part == "alibi":
            position = PositionBias.alibi(more[0])
        elif scene.part == "relative":
            position = PositionBias.relative(more[0], more[1], more[2], t - 1)
        how: dict[str, Any] = {"weighting": weighting, "position": position, "mask": mask}
        return attend(q, k, v, **how, backend="triton")

    return call


def our_leaves(scene: Scene) -> list[Tensor]:
    if scene.part == "alibi":
        return [scene.slopes]
    if scene.part == "relative":
        assert scene.r is not None
        return [scene.u, scene.vb, scene.r]
    return []


def sdpa(backend: SDPBackend, scene: Scene) -> Call:
    """PyTorch's softmax without any position, every frame counted as if it were speech."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=scene.part == "causal")

    return call


def biased_sdpa(backend: SDPBackend, scene: Scene) -> Call:
    """Softmax with ALiBi as a matrix made once, or with lengths as a matrix of booleans."""
    t, h = scene.shape.t, scene.shape.h
    if 2.0 * h * t * t > MATRIX_LIMIT:
        raise ValueError("its bias would not fit")
    if scene.part == "alibi":
        place = torch.arange(t, device=scene.device)
        distance = (place[None] - place[:, None]).abs()
        bias = (-scene.slopes[:, None, None] * distance).to(scene.dtype)[None]
    else:
        seen = torch.arange(t, device=scene.device) < scene.lens_b[:, None]
        bias = seen[:, None, None, :].expand(-1, -1, t, -1)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    return call


def relative_sdpa(scene: Scene) -> Call:
    """Transformer-XL as toolkits do it: (q + v) r^T materialised, shifted, given as a bias."""
    b, h, t, d = scene.shape.b, scene.shape.h, scene.shape.t, scene.shape.d
    if 2.0 * b * h * t * 2 * t > MATRIX_LIMIT:
        raise ValueError("its matrix of positions would not fit")

    def call(q: Tensor, k: Tensor, v: Tensor, u: Tensor, vb: Tensor, r: Tensor) -> Tensor:
        by_offset = (q + vb[:, None]) @ r.mT  # (b, h, t, 2t - 1); row i wants columns t-1-i onwards
        padded = F.pad(by_offset, (1, 0)).reshape(b, h, 2 * t, t)
        bias = padded[:, :, 1:].reshape(b, h, t, 2 * t - 1)[..., :t] * d**-0.5
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            return F.scaled_dot_product_attention(q + u[:, None], k, v, attn_mask=bias)

    return call


def full_matrix(scene: Scene) -> Call:
    """Sigmoid by two products and the matrix between them."""
    b, h, t = scene.shape.b, scene.shape.h, scene.shape.t
    if 2.0 * b * h * t * t > MATRIX_LIMIT:
        raise ValueError("the matrix would not fit")

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT * scene.shape.d**-0.5 - float(torch.tensor(float(t)).log())
        return s.sigmoid() @ v

    return call


def contenders(part: str) -> list[Contender]:
    """Those of one part, the most important first."""
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    ours_here = Contender("ours", ours, extra=our_leaves)
    plain = [
        Contender(f"sdpa {name}", functools.partial(sdpa, backend), "softmax", position=False)
        for name, backend in backends.items()
    ]
    if part in ("plain", "causal"):
        out = [ours_here, *plain]
        if part == "plain":
            out.append(Contender("full matrix", full_matrix))
        return out
    out = [ours_here, plain[0]]
    if part == "relative":
        out.append(Contender("sdpa efficient", relative_sdpa, "softmax", extra=our_leaves))
    else:
        how = functools.partial(biased_sdpa, SDPBackend.EFFICIENT_ATTENTION)
        out.append(Contender("sdpa efficient", how, "softmax"))
        if part == "alibi":
            how = functools.partial(biased_sdpa, SDPBackend.CUDNN_ATTENTION)
            out.append(Contender("sdpa cudnn", how, "softmax"))
    return out


def error_against_float64(scene: Scene, contender: Contender, o: Tensor) -> float:
    """||got - exact|| / ||exact|| over the first rows of the first utterance."""
    from sigmoid_attention import reference

    rows = min(ERROR_ROWS, scene.lens[0])
    keys = scene.lens[0] if contender.position else scene.shape.t
    q, k, v = (x[:1].double() for x in (scene.q[:, :, :rows], scene.k[:, :, :keys], scene.v[:, :, :keys]))
    with torch.no_grad():
        position = None
        if contender.position and scene.part == "alibi":
            position = PositionBias.alibi(scene.slopes.double())
        elif contender.position and scene.part == "relative":
            assert scene.r is not None
            some = [x.double() for x in (scene.u, scene.vb, scene.r)]
            position = PositionBias.relative(some[0], some[1], some[2], scene.shape.t - 1)
        mask = Mask(causal=True) if scene.part == "causal" else None
        weighting = Weighting.softmax() if contender.weighting == "softmax" else Weighting.sigmoid()
        exact = reference.attend(q, k, v, weighting=weighting, position=position, mask=mask)
    off = (o[:1, :, :rows].double() - exact).norm() / exact.norm()
    return float(off)


def shapes(dims: list[int], lengths: list[int] | None) -> list[Shape]:
    """Of equal size: heads x channels is 1024 and frames x batch 16k, or one long utterance."""
    d64 = [(16, 16, 1024), (4, 16, 4096), (1, 16, 16384), (8, 16, 2048), (32, 16, 512), (1, 4, 65536)]
    d128 = [(b, max(1, h // 2), t) for b, h, t in d64]
    every = {64: d64, 128: d128}
    # length by length, so that what matters of both is there when time runs out
    pairs = itertools.chain.from_iterable(zip(*(((d, s) for s in every[d]) for d in dims), strict=True))
    return [Shape(*s, d) for d, s in pairs if lengths is None or s[2] in lengths]
