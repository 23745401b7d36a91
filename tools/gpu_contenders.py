"""What gpu_bench.py times: our kernels in each part of the table, and what a user has otherwise."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gpu_few_tiles
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

MAIN_PARTS = ("plain", "causal", "alibi", "relative", "ragged")
PARTS = (*MAIN_PARTS, "table", "ragged alibi", "ragged relative")
FEW = (1024, 4096, 16384)
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
    """call(q, k, v, *more) with `more` differentiated too.

    make: done once before everything; it may refuse by raising. weighting and position: what the
    error is measured against. layout "bthd": with time before heads; "packed": utterances one after
    the other. lengths: the only ones it is run at. last: after all others.
    """

    name: str
    make: Callable[[Scene], Call]
    weighting: str = "sigmoid"
    layout: str = "bhtd"
    extra: Callable[[Scene], list[Tensor]] = field(default=lambda scene: [])
    position: bool = True
    lengths: tuple[int, ...] = ()
    last: bool = False


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
        self.slopes = torch.tensor(
            [2.0 ** (-8 * (i + 1) / h) for i in range(h)], device=self.device
        )
        self.u, self.vb = new(h, d), new(h, d)
        self.r = new(h, 2 * t - 1, d) if "relative" in self.part else None
        self.table = torch.randn(h, 257, generator=g, device=self.device)
        rng = random.Random(t)
        self.lens = [t] * b
        if "ragged" in self.part:
            self.lens = [max(1, round(t * rng.uniform(0.3, 1.0))) for _ in range(b)]
        self.lens_b = torch.tensor(self.lens, device=self.device)

    @property
    def forward_flops(self) -> float:
        pairs = sum(n * n for n in self.lens) / (2 if self.part == "causal" else 1)
        return 4.0 * self.shape.h * self.shape.d * pairs

    @property
    def mask(self) -> Mask | None:
        if self.part == "causal":
            return Mask(causal=True)
        if "ragged" in self.part:
            return Mask(key_lens=self.lens_b, query_lens=self.lens_b)
        return None


def ours(scene: Scene, map_name: str = "sigmoid", precision: str = "exact") -> Call:
    """The public call with the part's position and mask."""
    sigmoid = Weighting.sigmoid(precision=precision)
    weighting = Weighting.softmax() if map_name == "softmax" else sigmoid
    mask = scene.mask

    def call(q: Tensor, k: Tensor, v: Tensor, *more: Tensor) -> Tensor:
        position = position_of(scene, list(more) or fixed(scene))
        how: dict[str, Any] = {"weighting": weighting, "position": position, "mask": mask}
        return attend(q, k, v, **how, backend="triton")

    return call


def fixed(scene: Scene) -> list[Tensor]:
    """What ALiBi needs and does not train."""
    return [scene.slopes] if "alibi" in scene.part else []


def position_of(scene: Scene, some: list[Tensor]) -> PositionBias | None:
    """The part's position bias made of its tensors."""
    if "alibi" in scene.part:
        return PositionBias.alibi(some[0])
    if "table" in scene.part:
        return PositionBias.table(some[0], 128)
    if "relative" in scene.part:
        return PositionBias.relative(some[0], some[1], some[2], scene.shape.t - 1)
    return None


def trained(scene: Scene) -> list[Tensor]:
    """What is differentiated beside q, k and v; ALiBi's slopes are fixed."""
    if "table" in scene.part:
        return [scene.table]
    if "relative" in scene.part:
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
    if "alibi" in scene.part:
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
        bias = padded[:, :, 1:].reshape(b, h, t, 2 * t - 1)[..., :t].contiguous() * d**-0.5
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            return F.scaled_dot_product_attention(q + u[:, None], k, v, attn_mask=bias)

    return call


def full_matrix(scene: Scene) -> Call:
    """Sigmoid by two products and the matrix between them."""
    b, h, t = scene.shape.b, scene.shape.h, scene.shape.t
    if 2.0 * b * h * t * t > MATRIX_LIMIT:
        raise ValueError("the matrix would not fit")

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT * scene.shape.d**-0.5 - math.log(t)
        return s.sigmoid() @ v

    return call


def varlen(scene: Scene) -> Call:
    """PyTorch's FlashAttention 2 of utterances one after the other; packed and unpacked outside."""
    from torch.nn.attention.varlen import varlen_attn

    ends = F.pad(scene.lens_b.cumsum(0), (1, 0)).int()
    longest = max(scene.lens)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o = varlen_attn(q, k, v, ends, ends, longest, longest)
        assert isinstance(o, Tensor)
        return o

    return call


def flex_compiled() -> Any:
    """FlexAttention, compiled for each shape and bias; its backward may be run again and again, as
    timing does."""
    import torch._dynamo.config as dynamo
    import torch._functorch.config as functorch
    from torch.nn.attention.flex_attention import flex_attention

    dynamo.recompile_limit = 256
    functorch.donated_buffer = False
    return torch.compile(flex_attention, dynamic=False)


def flex(scene: Scene) -> Call:
    """FlexAttention made to imitate sigmoid: softmax(logsigmoid(x)) times its own normaliser."""
    from torch.nn.attention.flex_attention import AuxRequest

    shift, slopes = math.log(scene.shape.t), scene.slopes

    def plain(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return F.logsigmoid(s - shift)

    def with_alibi(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return F.logsigmoid(s - slopes[h] * (j - i).abs() - shift)

    score = with_alibi if "alibi" in scene.part else plain
    compiled = flex_compiled()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        asked: Any = {"score_mod": score, "return_aux": AuxRequest(lse=True)}
        found: Any = compiled(q, k, v, **asked)
        o, aux = found
        result: Tensor = o * aux.lse.exp()[..., None].to(o.dtype)
        return result

    return call


def flex_softmax(scene: Scene) -> Call:
    """FlexAttention as it is meant to be used: softmax, ALiBi by a score_mod, causal by a block mask
    made once."""
    from torch.nn.attention.flex_attention import create_block_mask

    slopes, t = scene.slopes, scene.shape.t
    asked: dict[str, Any] = {}

    def with_alibi(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s - slopes[h] * (j - i).abs()

    def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    if "alibi" in scene.part:
        asked["score_mod"] = with_alibi
    if scene.part == "causal":
        asked["block_mask"] = create_block_mask(causal, None, None, t, t, device=scene.device)
    compiled = flex_compiled()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o: Tensor = compiled(q, k, v, **asked)
        return o

    return call


def triton_sigmoid(scene: Scene) -> Call:
    """The package of that name, by its operators: its functions copy a number to the GPU in each
    call, which no graph can hold. Its tanh is approximate unless TRITON_SIGMOID_ACCURATE=1."""
    package = importlib.import_module("triton_sigmoid")

    gpu_few_tiles.few_tiles(package)
    b, d = scene.shape.b, scene.shape.d
    bias = -scene.lens_b.float().log()
    scale = torch.tensor(d**-0.5, dtype=torch.float32, device=scene.device)
    lens, causal = scene.lens_b.int(), scene.part == "causal"
    assert bias.shape == (b,)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o: Tensor
        if "ragged" in scene.part:
            op = torch.ops.myops.sigmoid_attn_padded_fwd
            o = op(q, k, v, lens, lens, bias, None, scale, causal)
        else:
            o = torch.ops.myops.sigmoid_attention_fwd(q, k, v, bias, None, scale, causal)
        return o

    return call


def contenders(part: str) -> list[Contender]:
    """Those of one part, the most important first; what is slow at FEW lengths alone."""
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    plain = [
        Contender(f"sdpa {name}", functools.partial(sdpa, backend), "softmax", position=False)
        for name, backend in backends.items()
    ]
    everywhere = () if part in MAIN_PARTS else FEW
    out = [Contender("ours", ours, extra=trained, lengths=everywhere)]
    out.append(dataclasses.replace(plain[0], lengths=everywhere))
    if part in ("plain", "causal", "ragged"):
        where = FEW if part == "plain" else FEW[1:2]
        out.append(Contender("triton-sigmoid", triton_sigmoid, layout="bthd", lengths=where))
    if part in ("plain", "causal"):
        out.append(plain[1])
    if part == "plain":
        out.append(Contender("full matrix", full_matrix, lengths=FEW))
    if part == "ragged":
        out.append(Contender("varlen flash", varlen, "softmax", layout="packed"))
    if part in ("ragged", "alibi"):
        how = functools.partial(biased_sdpa, SDPBackend.EFFICIENT_ATTENTION)
        out.append(Contender("sdpa efficient", how, "softmax", lengths=FEW))
    if part == "alibi":
        how = functools.partial(biased_sdpa, SDPBackend.CUDNN_ATTENTION)
        out.append(Contender("sdpa cudnn", how, "softmax", lengths=FEW))
        out.append(Contender("ours, slopes too", ours, extra=fixed, lengths=FEW))
    if part == "relative":
        out.append(
            Contender("sdpa efficient", relative_sdpa, "softmax", extra=trained, lengths=FEW)
        )
    if part in ("plain", "alibi", "relative", "ragged"):
        how = functools.partial(ours, map_name="softmax")
        out.append(Contender("ours softmax", how, "softmax", extra=trained, lengths=FEW))
    if part in ("plain", "causal", "alibi"):
        out.append(Contender("flex softmax", flex_softmax, "softmax", lengths=FEW, last=True))
    if part in ("plain", "alibi"):
        out.append(Contender("flex", flex, lengths=FEW, last=True))
    return out


def error_against_float64(scene: Scene, contender: Contender, o: Tensor) -> float:
    """||got - exact|| / ||exact|| over the first rows of the first utterance."""
    from sigmoid_attention import reference

    rows = min(ERROR_ROWS, scene.lens[0])
    keys = scene.lens[0] if contender.position else scene.shape.t
    some = (scene.q[:, :, :rows], scene.k[:, :, :keys], scene.v[:, :, :keys])
    q, k, v = (x[:1].double() for x in some)
    with torch.no_grad():
        biases = [x.double() for x in fixed(scene) + trained(scene)]
        position = position_of(scene, biases) if contender.position else None
        mask = Mask(causal=True) if scene.part == "causal" else None
        weighting = Weighting.softmax() if contender.weighting == "softmax" else Weighting.sigmoid()
        exact = reference.attend(q, k, v, weighting=weighting, position=position, mask=mask)
    off = (o[:1, :, :rows].double() - exact).norm() / exact.norm()
    return float(off)


def arranged(scene: Scene, layout: str) -> list[Tensor]:
    """q, k, v and do as a contender wants them; "packed": the valid frames alone, (frames, H, D)."""
    some = [scene.q, scene.k, scene.v, scene.do]
    if layout == "bhtd":
        return some
    some = [x.transpose(1, 2).contiguous() for x in some]
    if layout == "packed":
        some = [torch.cat([x[b, :n] for b, n in enumerate(scene.lens)]) for x in some]
    return some


def back(scene: Scene, o: Tensor, layout: str) -> Tensor:
    """The first utterance's output as (1, H, T, D)."""
    if layout == "packed":
        return o[: scene.lens[0]].transpose(0, 1)[None]
    return o[:1].transpose(1, 2) if layout == "bthd" else o[:1]


def shapes(dims: list[int], lengths: list[int] | None) -> list[Shape]:
    """Of equal size: heads x channels is 1024 and frames x batch 16k, or one long utterance."""
    d64 = [
        (16, 16, 1024),
        (4, 16, 4096),
        (1, 16, 16384),
        (8, 16, 2048),
        (32, 16, 512),
        (1, 4, 65536),
    ]
    every = {64: d64, 128: [(b, max(1, h // 2), t) for b, h, t in d64]}
    # length by length, so that what matters of both is there when time runs out
    found = [Shape(*every[d][number], d) for number in range(len(d64)) for d in dims]
    return [shape for shape in found if lengths is None or shape.t in lengths]


def leaves_of(scene: Scene, contender: Contender) -> tuple[list[Tensor], Tensor]:
    """What is differentiated, and the gradient of the output."""
    *tensors, do = arranged(scene, contender.layout)
    return [x.detach().requires_grad_() for x in [*tensors, *contender.extra(scene)]], do


def gradients(call: Any, leaves: list[Tensor], do: Tensor) -> None:
    torch.autograd.grad(call(*leaves), leaves, do)


def compiled_call(scene: Scene, contender: Contender) -> Any:
    """A contender's call after one forward without gradients and one with the backward."""
    call = contender.make(scene)
    leaves, do = leaves_of(scene, contender)
    with torch.no_grad():
        call(*leaves)
    gradients(call, leaves, do)
    if scene.device == "cuda":
        torch.cuda.synchronize()
    return call
