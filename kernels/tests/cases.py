"""What the tests of every backend run: one seeded call, its output and all of its gradients."""

from dataclasses import dataclass, field, replace

import torch
from sigmoid_attention import Mask, PositionBias, Weighting, attend
from sigmoid_attention.reference import attention_weights, offsets, scores
from sigmoid_attention.spec import default_scale
from sigmoid_attention.weightings import MAPS, served_by

WEIGHTINGS = {
    "softmax": Weighting.softmax,
    "no_shift": lambda: Weighting.sigmoid(shift=None),
    "constant": lambda: Weighting.sigmoid(shift=-1.5),
    "visible": Weighting.sigmoid,
    "per_head": Weighting.sigmoid,  # with a trainable bias_h
    "sequence": lambda: Weighting.sigmoid(n="sequence"),
    "number": lambda: Weighting.sigmoid(n=5),
    "effective": lambda: Weighting.sigmoid(n="effective"),
    "exponent": lambda: Weighting.sigmoid(n="effective"),  # with a trainable exponent_h
    "mean": lambda: Weighting("sigmoid", row_scale="1/n"),
    "root": lambda: Weighting("sigmoid", shift="-log n", row_scale="1/sqrt n"),
    "effective_root": lambda: Weighting("sigmoid", row_scale="1/sqrt n", n="effective"),
    "relu": Weighting.relu,
    "polynomial": lambda: Weighting.polynomial(2),
    "unscaled": lambda: Weighting("polynomial", power=3),
}
POSITIONS = ("none", "alibi", "table", "relative")
PACKED = "packed"


def served(engine, *without):
    """Names of those in WEIGHTINGS that an engine has, but for some maps."""
    maps = set(served_by(engine)) - set(without)
    return [name for name, build in WEIGHTINGS.items() if build().map in maps]


@dataclass(frozen=True)
class Sizes:
    batch: int = 3
    heads: int = 4
    kv_heads: int = 2
    queries: int = 13
    keys: int = 17
    d: int = 8
    dv: int = 6
    dtype: torch.dtype = torch.float64
    device: str = "cpu"


def output_gradient(o):
    """The same for equal shapes."""
    g = torch.Generator().manual_seed(2)
    return torch.randn(o.shape, generator=g, dtype=torch.float64).to(o)


@dataclass
class Case:
    """Inputs of one call; `leaves` are differentiated in this order."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    weighting: Weighting
    position: PositionBias | None
    mask: Mask | None
    leaves: list[torch.Tensor] = field(default_factory=list)

    def run(self, backend):
        """[o, gradient of each leaf] for a fixed gradient of o."""
        o = attend(
            self.q,
            self.k,
            self.v,
            weighting=self.weighting,
            position=self.position,
            mask=self.mask,
            backend=backend,
        )
        do = output_gradient(o)
        for x in self.leaves:
            x.grad = None
        o.backward(do)
        return [o.detach(), *(x.grad for x in self.leaves)]


def lens(sizes, of):
    """Full, part, and none of the frames, over and over."""
    parts = [of, max(min(1, of), of * 2 // 5), 0]
    chosen = [parts[b % 3] for b in range(sizes.batch)]
    return torch.tensor(chosen, dtype=torch.int64, device=sizes.device)


def slope_roundings(case):
    """The largest head's sum over what a slope's gradient adds up, |dL/ds_ij (i - j)|, times by how
    many roundings each is off: four, and those of s_ij's two parts, by which p_ij is off."""
    how = {"position": case.position, "mask": case.mask}
    plain = replace(case.weighting, row_scale=None)
    with torch.no_grad():
        p = attention_weights(case.q, case.k, weighting=plain, **how)
        scaled = attention_weights(case.q, case.k, weighting=case.weighting, **how)
        slope = MAPS[plain.map].slope(p) * torch.where(p > 0, scaled / p, 0.0)
        do = output_gradient(p.new_empty(*p.shape[:3], case.v.shape[3]))
        v = case.v.nan_to_num().repeat_interleave(p.shape[1] // case.v.shape[1], 1)
        delta = 0 if case.mask is None else case.mask.k_start - case.mask.q_start
        distance = offsets(p.shape[2], p.shape[3], delta, p.device).abs()
        terms = slope * (do @ v.transpose(2, 3)) * distance
        content = scores(case.q, case.k, None, delta, default_scale(case.q, None)).nan_to_num()
        bias = case.leaves[-1][:, None, None] * distance
        return (terms.abs() * (4 + content.abs() + bias.abs())).sum((0, 2, 3)).max().item()


def make_mask(name, sizes):
    key_lens, query_lens = lens(sizes, sizes.keys), lens(sizes, sizes.queries)
    ends = [0, sizes.keys // 3, sizes.keys // 3, sizes.keys // 2 + 1, sizes.keys]
    masks = {
        "none": None,
        "lens": Mask(key_lens=key_lens, query_lens=query_lens),
        "causal": Mask(causal=True, q_start=4),
        "window": Mask(window=(3, 2), key_lens=key_lens),
        "ahead": Mask(window=(None, 1), query_lens=query_lens),
        "chunk": Mask(chunk=(4, 1), k_start=2),
        "chunk_causal": Mask(chunk=4, causal=True, key_lens=key_lens),
        PACKED: Mask(cu_seqlens=torch.tensor(ends, dtype=torch.int32, device=sizes.device)),
        "packed_window": Mask(
            cu_seqlens=torch.tensor(ends, dtype=torch.int32, device=sizes.device), window=2
        ),
    }
    return masks[name]


MASKS = (
    "none",
    "lens",
    "causal",
    "window",
    "ahead",
    "chunk",
    "chunk_causal",
    PACKED,
    "packed_window",
)


def make(weighting, position, mask, sizes=Sizes()):
    """A case; the frames that lengths exclude are NaN."""
    g = torch.Generator().manual_seed(1)

    def leaf(*shape):
        x = torch.randn(*shape, generator=g, dtype=torch.float64)
        return x.to(sizes.device, sizes.dtype).requires_grad_()

    batch, keys = sizes.batch, sizes.keys
    if mask is not None and mask.startswith(PACKED):
        sizes = Sizes(**{**sizes.__dict__, "batch": 1, "keys": sizes.queries})
        batch, keys = 1, sizes.keys
    chosen_mask = make_mask(mask, sizes)
    q = leaf(batch, sizes.heads, sizes.queries, sizes.d)
    k = leaf(batch, sizes.kv_heads, keys, sizes.d)
    v = leaf(batch, sizes.kv_heads, keys, sizes.dv)
    case = Case(q, k, v, WEIGHTINGS[weighting](), None, chosen_mask, [q, k, v])
    if weighting == "per_head":
        case.leaves.append(leaf(sizes.heads))
        case.weighting = Weighting.sigmoid(bias_h=case.leaves[-1])
    elif weighting == "exponent":
        case.leaves.append(leaf(sizes.heads))
        case.weighting = Weighting.sigmoid(n="effective", exponent_h=case.leaves[-1])
    _add_position(case, position, leaf, sizes)
    if chosen_mask is not None:
        _poison(q, chosen_mask.query_lens)
        _poison(k, chosen_mask.key_lens)
        _poison(v, chosen_mask.key_lens)
    return case


def _add_position(case, position, leaf, sizes):
    heads, d = sizes.heads, sizes.d
    if position == "alibi":
        slopes = leaf(heads)
        case.position, case.leaves = PositionBias.alibi(slopes), [*case.leaves, slopes]
    elif position == "table":
        table = leaf(heads, 9)
        case.position, case.leaves = PositionBias.table(table, zero=4), [*case.leaves, table]
    elif position == "relative":
        zero = sizes.queries + 5
        new = [leaf(heads, d), leaf(heads, d), leaf(heads, zero + sizes.keys + 5, d)]
        case.position, case.leaves = PositionBias.relative(*new, zero=zero), [*case.leaves, *new]


def _poison(x, lens_b):
    if lens_b is not None:
        with torch.no_grad():
            for b, length in enumerate(lens_b.tolist()):
                x[b, :, length:] = float("nan")


def cached_step(backend, position, sizes, weighting="visible"):
    """(rows 9 to 12 computed from a cache of 10 keys, the same rows of the whole)."""
    case = make(weighting, position, "none", sizes)
    seen = {"causal": True, "window": (6, None)}
    how = {"weighting": case.weighting, "position": case.position, "backend": backend}
    whole = attend(case.q, case.k, case.v, mask=Mask(**seen), **how)[:, :, 9:12]
    q, k, v = case.q[:, :, 9:12], case.k[:, :, 3:12], case.v[:, :, 3:12]
    return attend(q, k, v, mask=Mask(**seen, q_start=9, k_start=3), **how), whole


def beside_nan(backend, frames, device="cpu", weighting="visible"):
    """Two chunks that do not see each other, the second all NaN: (the first's results, those of the
    first alone). Equal only where no tile of one's rows and the other's keys is computed."""
    g = torch.Generator().manual_seed(5)
    alone = [torch.randn(1, 2, frames, 16, generator=g).to(device) for _ in range(4)]
    both = [torch.cat([x, torch.full_like(x, float("nan"))], 2) for x in alone]

    def run(q, k, v, do):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        mask = Mask(chunk=(frames, 0))
        o = attend(*leaves, weighting=WEIGHTINGS[weighting](), mask=mask, backend=backend)
        o.backward(do)
        return [x[:, :, :frames] for x in (o.detach(), *(x.grad for x in leaves))]

    return run(*both), run(*alone)


def assert_same(got, expected, rtol, atol, lost=None):
    """Each tensor within rtol of the largest expected value plus atol, and of the same dtype. lost:
    for each, what may be lost where that is more."""
    lost = lost or [0.0] * len(expected)
    for i, (a, b, most) in enumerate(zip(got, expected, lost, strict=True)):
        assert a.dtype == b.dtype
        worst = (a - b).abs().max().item() if a.numel() else 0.0
        bound = max(most, atol + rtol * (b.abs().max().item() if b.numel() else 0.0))
        assert worst <= bound, f"result {i}: off by {worst:.3g}, allowed {bound:.3g}"
