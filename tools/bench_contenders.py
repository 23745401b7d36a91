"""What bench_attention.py times: our backends, and PyTorch's ways to the same or to softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sigmoid_attention import PositionBias, Weighting, resolve
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Shape:
    """Batch, heads, frames (queries and keys), channels."""

    b: int
    h: int
    t: int
    d: int

    @property
    def matrix_bytes(self) -> float:
        return 4.0 * self.b * self.h * self.t**2

    def flops(self, backward: bool) -> float:
        """Multiply-adds of the products times two; a backward has five beside the forward's two."""
        return 4.0 * self.b * self.h * self.t**2 * self.d * (3.5 if backward else 1.0)


@dataclass
class Contender:
    """One way to compute attention, and the weighting its error is measured against."""

    name: str
    run: Attention
    weighting: Weighting
    position: PositionBias | None = None


def positions(shape: Shape, device: str) -> dict[str, PositionBias | None]:
    """One position bias of each kind."""
    g = torch.Generator().manual_seed(1)

    def new(*size: int) -> Tensor:
        return torch.rand(*size, generator=g).to(device)

    h, t, d = shape.h, shape.t, shape.d
    r_hpd = new(h, 2 * t - 1, d) - 0.5
    return {
        "none": None,
        "alibi": PositionBias.alibi(new(h) * 0.1),
        "table": PositionBias.table(new(h, 257), 128),
        "relative": PositionBias.relative(new(h, d), new(h, d), r_hpd, t - 1),
    }


def ours(shape: Shape, device: str, dtype: torch.dtype, kinds: list[str]) -> list[Contender]:
    """Every backend of ours that serves here, for sigmoid and softmax; positions with softmax only
    where it is fused."""
    every = positions(shape, device)
    backends = ["triton", "blockwise"] if device == "cuda" else ["blockwise"]
    out = []
    for backend in backends:
        for kind in kinds:
            both = kind == "none" or backend == "triton"
            weightings = [Weighting.sigmoid()] + ([Weighting.softmax()] if both else [])
            for weighting in weightings:
                chosen = resolve(weighting, kind_or_none(kind), None, device, dtype, backend)
                name = f"{backend} ({chosen.engine}) {weighting.map} {kind}"
                position = every[kind]

                def run(q: Tensor, k: Tensor, v: Tensor, c=chosen, p=position) -> Tensor:  # type: ignore[no-untyped-def]
                    result: Tensor = c(q, k, v, position=p)
                    return result

                out.append(Contender(name, run, weighting, position))
    return out


def kind_or_none(kind: str) -> str | None:
    return None if kind == "none" else kind


def theirs(shape: Shape, device: str, kinds: list[str], flex: bool) -> list[Contender]:
    """PyTorch's softmax kernels, the full matrix, and FlexAttention made to imitate sigmoid."""

    def with_backend(backend: SDPBackend) -> Attention:
        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        return run

    def full_matrix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT * shape.d**-0.5 - math.log(shape.t)
        return s.sigmoid() @ v

    out = [
        Contender(f"sdpa {n} softmax", with_backend(b), Weighting.softmax())
        for n, b in SDPA.items()
    ]
    out.append(Contender("full matrix sigmoid", full_matrix, Weighting.sigmoid()))
    if flex:
        every = positions(shape, device)
        out += [flex_attention(shape, every[k]) for k in kinds if k in ("none", "table")]
    return out


def flex_attention(shape: Shape, position: PositionBias | None) -> Contender:
    """softmax(logsigmoid(x)) times its own normaliser is sigmoid(x)."""
    from torch.nn.attention.flex_attention import AuxOutput, AuxRequest
    from torch.nn.attention.flex_attention import flex_attention as flex

    shift = math.log(shape.t)

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return F.logsigmoid(s - shift)

    def score_with_table(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert position is not None
        assert position.table_hp is not None
        column = (j - i + position.zero).clamp(0, position.table_hp.shape[1] - 1)
        return F.logsigmoid(s + position.table_hp[h, column] - shift)

    chosen = score if position is None else score_with_table
    compiled = torch.compile(flex)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o, aux = compiled(q, k, v, score_mod=chosen, return_aux=AuxRequest(lse=True))
        assert isinstance(aux, AuxOutput)
        assert aux.lse is not None
        result: Tensor = o * aux.lse.exp()[..., None].to(o.dtype)
        return result

    kind = "none" if position is None else "table"
    return Contender(f"flex score_mod sigmoid {kind}", run, Weighting.sigmoid(), position)
