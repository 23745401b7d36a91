"""What torch.library, torch.compile and torch.export see: one operator, whole."""

import pytest
import torch
from sigmoid_attention import Mask, PositionBias, Weighting, ops, resolve
from sigmoid_attention.flat import flatten
from torch import nn
from torch.nn import functional as F

from .cases import POSITIONS, Sizes, make

SMALL = Sizes(batch=2, heads=2, kv_heads=1, queries=5, keys=7, d=4, dv=3)


def flat_of(weighting, position, mask, dtype=torch.float64):
    sizes = Sizes(**{**SMALL.__dict__, "dtype": dtype})
    case = make(weighting, position, mask, sizes)
    for x in (case.q, case.k, case.v):
        x.data.nan_to_num_(0.5)
    mask = case.mask or Mask()
    return flatten(case.q, case.k, case.v, case.weighting, case.position, mask, None)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    ("weighting", "mask", "engine"),
    [
        ("softmax", "causal", "torch"),
        ("per_head", "lens", "torch"),
        ("relu", "none", "torch"),
        ("relu", "lens", "c++"),
        ("visible", "lens", "c++"),
    ],
)
def test_opcheck(weighting, position, mask, engine):
    if engine == "c++":
        if not ops.cpp.available():
            pytest.skip("no C++ compiler here")
        flat = flat_of(weighting, position, mask, torch.float32)
    else:
        flat = flat_of(weighting, position, mask)
    torch.library.opcheck(torch.ops.sigmoid_attention.attend.default, (*flat, engine))


@pytest.mark.parametrize("position", POSITIONS)
def test_opcheck_backward(position):
    flat = flat_of("per_head" if position == "none" else "visible", position, "lens")
    flat = flat._replace(
        **{n: x.detach() for n, x in flat._asdict().items() if isinstance(x, torch.Tensor)}
    )
    needs = [getattr(flat, name) is not None for name in ops.TENSORS]
    do = torch.randn(2, 2, 5, 3, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.sigmoid_attention.attend_backward.default, (do, needs, *flat, "torch")
    )


class Layer(nn.Module):
    """Half a Conformer layer: self-attention and a depthwise convolution, each with a residual."""

    def __init__(self, weighting, position, backend, d_model=16, heads=2, device="cpu"):
        super().__init__()
        self.heads, self.kind = heads, position
        self.norm, self.qkv = nn.LayerNorm(d_model), nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.conv = nn.Conv1d(d_model, d_model, 3, padding=1, groups=d_model)
        d = d_model // heads
        self.slopes, self.table = (
            nn.Parameter(torch.rand(heads)),
            nn.Parameter(torch.rand(heads, 9)),
        )
        self.u, self.v = nn.Parameter(torch.randn(heads, d)), nn.Parameter(torch.randn(heads, d))
        self.r = nn.Parameter(torch.randn(heads, 63, d))
        kind = None if position == "none" else position
        masks = "key_lens+query_lens"
        self.attend = resolve(weighting, kind, masks, device=device, backend=backend)

    def forward(self, x_btd, lens_b):
        batch, frames, channels = x_btd.shape
        qkv = self.qkv(self.norm(x_btd)).view(batch, frames, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        position = {
            "none": lambda: None,
            "alibi": lambda: PositionBias.alibi(self.slopes),
            "table": lambda: PositionBias.table(self.table, 4),
            "relative": lambda: PositionBias.relative(self.u, self.v, self.r, 31),
        }[self.kind]()
        mask = Mask(key_lens=lens_b, query_lens=lens_b)
        o = self.attend(q, k, v, position=position, mask=mask)
        x_btd = x_btd + self.out(o.transpose(1, 2).reshape(batch, frames, channels))
        return x_btd + F.silu(self.conv(x_btd.mT)).mT


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    ("weighting", "backend"),
    [
        ("sigmoid", "blockwise"),
        ("sigmoid", "reference"),
        ("softmax", "sdpa"),
        ("softmax", "blockwise"),
    ],
)
def test_compile_has_no_graph_break(weighting, position, backend):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = Layer(getattr(Weighting, weighting)(), position, backend)
    x, lens_b = torch.randn(2, 20, 16), torch.tensor([20, 13])
    expected = layer(x, lens_b)
    expected.square().sum().backward()
    grad = layer.qkv.weight.grad.clone()
    layer.zero_grad()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    got = compiled(x, lens_b)
    got.square().sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(layer.qkv.weight.grad, grad)


@pytest.mark.parametrize("position", POSITIONS)
def test_nothing_grows_with_time_squared_between_forward_and_backward(position):
    frames = 300
    sizes = Sizes(queries=frames, keys=frames, batch=1, heads=1, kv_heads=1, dtype=torch.float32)
    case = make("visible", position, "causal", sizes)
    saved = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x)
    with hooks:
        case.run("blockwise")
    assert saved
    assert max(x.numel() for x in saved) <= max(x.numel() for x in case.leaves)


def test_export_takes_the_operator_whole():
    layer = Layer(Weighting.sigmoid(), "alibi", "blockwise")
    program = torch.export.export(layer, (torch.randn(2, 20, 16), torch.tensor([20, 13])))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.sigmoid_attention.attend.default) == 1


@pytest.mark.parametrize("backend", ["blockwise", "c++"])
def test_gradients_are_contiguous_as_the_compiler_is_told(backend):
    """r of a view, as the position module gives it: inductor checks the strides that fakes promise."""
    if backend == "c++" and not ops.cpp.available():
        pytest.skip("no C++ compiler here")
    torch.manual_seed(0)
    dtype = torch.float32 if backend == "c++" else torch.float64
    q, k, v = (torch.randn(2, 2, 5, 4, dtype=dtype) for _ in range(3))
    u, w = torch.randn(2, 4, dtype=dtype), torch.randn(2, 4, dtype=dtype)
    r = torch.randn(9, 2, 4, dtype=dtype).transpose(0, 1)
    position = PositionBias.relative(u, w, r, 4)
    flat = flatten(q, k, v, Weighting.sigmoid(), position, Mask(), None)
    needs = [getattr(flat, name) is not None for name in ops.TENSORS]
    engine = "c++" if backend == "c++" else "torch"
    grads = torch.ops.sigmoid_attention.attend_backward(torch.randn_like(q), needs, *flat, engine)
    assert len(grads) == 7  # q, k, v, the shift of rows, u, v, r
    assert all(g.is_contiguous() for g in grads)
