"""Our layers with somebody else's weights in them, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr import config
from asr.nn.attention import MultiHeadAttention
from asr.nn.conformer import ConformerLayer
from asr.nn.encoder import Encoder
from asr.nn.frames import Frames, frame_mask
from asr.nn.modules import SelfAttention
from asr.nn.position import Relative

DIM, HEADS, FF_DIM, KERNEL = 64, 4, 96, 7
LENS = (61, 23, 1)
TOLERANCE = 1e-4  # as a share of the largest value


@dataclass
class Projections:
    """Attention's matrices as most write them: one Linear each for q, k, v and the output."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear


def our_layer(position: str) -> ConformerLayer:
    """A Conformer layer as a configuration makes it, softmax, in evaluation mode."""
    cfg = config.load(
        [],
        [
            f"encoder.dim={DIM}",
            f"encoder.ff_dim={FF_DIM}",
            f"encoder.conv_kernel={KERNEL}",
            "encoder.num_layers=1",
            f"attention.num_heads={HEADS}",
            "attention.weighting=softmax",
            f"attention.position={position}",
        ],
    )
    layer = Encoder(cfg.encoder, cfg.attention, cfg.features.num_mels).eval().layers[0]
    assert isinstance(layer, ConformerLayer)
    return layer


def randomise(module: nn.Module) -> None:
    """Every weight, running mean and variance away from where initialisation puts it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean.normal_(std=0.3)  # type: ignore[union-attr]
                part.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]


def fill(ours: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Copy one pair into a module of ours; a bias that they do not have is zero in ours."""
    with torch.no_grad():
        ours.get_parameter("weight").copy_(weight)
        if bias is None:
            ours.get_parameter("bias").zero_()
        else:
            ours.get_parameter("bias").copy_(bias)


def fill_from(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy weight and bias of their module, whose shapes are ours."""
    fill(ours, theirs.get_parameter("weight"), theirs._parameters.get("bias"))


def fill_attention(ours: MultiHeadAttention, theirs: Projections) -> None:
    """Ours has q, k and v in one matrix, in this order."""
    parts = (theirs.q, theirs.k, theirs.v)
    biases = [p.weight.new_zeros(len(p.weight)) if p.bias is None else p.bias for p in parts]
    fill(ours.project_qkv, torch.cat([p.weight for p in parts]), torch.cat(biases))
    fill_from(ours.project_out, theirs.out)


def fill_relative(ours: nn.Module, w_r: Tensor, u_hd: Tensor, v_hd: Tensor) -> None:
    """Theirs: channels of r alternate sine and cosine, of query minus key. Ours: all sines, then all
    cosines, of key minus query. So the columns move, and those of the sines change sign."""
    assert isinstance(ours, Relative)
    with torch.no_grad():
        ours.project.weight.copy_(torch.cat([-w_r[:, 0::2], w_r[:, 1::2]], dim=1))
        ours.u_hd.copy_(u_hd)
        ours.v_hd.copy_(v_hd)


class Affine(nn.Module):
    """What a batch norm is in evaluation mode: one scale and one shift per channel, which for our
    (b, t, d) stands in the place of the norm per frame."""

    def __init__(self, norm: nn.BatchNorm1d):
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.scale_d = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
        self.shift_d = (norm.bias - norm.running_mean * self.scale_d).detach()

    def forward(self, x_btd: Tensor) -> Tensor:
        return x_btd * self.scale_d + self.shift_d


def batch() -> tuple[Tensor, Tensor]:
    """(b, t, d) noise, also where there is nothing, and the lengths."""
    return torch.randn(len(LENS), max(LENS), DIM), torch.tensor(LENS)


def heads_of(layer: ConformerLayer) -> MultiHeadAttention:
    """The layer's attention without norm, dropout and residual."""
    branch = layer.attention.branch
    assert isinstance(branch, SelfAttention)
    return branch.attention


def attention_of(layer: ConformerLayer) -> Callable[[Tensor, Tensor], Tensor]:
    """(x_btd, lens_b) -> what the layer's attention alone gives."""
    heads = heads_of(layer)
    return lambda x_btd, lens_b: heads(x_btd, Mask(key_lens=lens_b, query_lens=lens_b))


def whole(layer: ConformerLayer) -> Callable[[Tensor, Tensor], Tensor]:
    """(x_btd, lens_b) -> what the whole layer gives."""

    def run(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        mask = Mask(key_lens=lens_b, query_lens=lens_b)
        out_btd: Tensor = layer(x_btd, Frames(frame_mask(lens_b, x_btd.shape[1]), mask))
        return out_btd

    return run


def one_by_one(theirs: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """For those who let padding in: each utterance goes alone, without any."""

    def run(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        out_btd = torch.zeros_like(x_btd)
        for row, length in enumerate(lens_b.tolist()):
            out_btd[row, :length] = theirs(x_btd[row : row + 1, :length])[0]
        return out_btd

    return run


def difference(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """Largest difference on existing frames of outputs and of the input's gradients, each over the
    largest value of theirs."""
    x_btd, lens_b = batch()
    frames_bt = frame_mask(lens_b, x_btd.shape[1])
    direction_btd = torch.randn_like(x_btd) * frames_bt[..., None]
    results = []
    for run in (ours, theirs):
        leaf = x_btd.clone().requires_grad_()
        out_btd = run(leaf, lens_b)
        out_btd.backward(direction_btd)
        assert leaf.grad is not None
        results.append((out_btd.detach()[frames_bt], leaf.grad[frames_bt]))
    largest = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True)]
    return max(largest)
