"""Statistics of attention inside a model, layer by layer and head by head: read off by hooks, in
evaluation. For `asr diagnose` and, while training, for series of the same numbers.

Of one head let s_ij be the score of key j for query i (position's part included, before shift and map),
p_ij its weight and a_ij = |p_ij| / sum_j |p_ij| its share of the row. Rows are the existing frames that
see a key; means are over the rows of all utterances.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sigmoid_attention.reference import offsets, scores, visible
from sigmoid_attention.spec import default_scale
from torch import Tensor, nn

from asr.data.examples import Batch
from asr.errors import InputError
from asr.files import finite
from asr.model.recogniser import Recogniser
from asr.nn.attention import Attending
from asr.nn.decoder import CrossAttention
from asr.nn.frames import frame_mask
from asr.nn.residual import PreNorm
from asr.probe.finite import watch_forward
from asr.probe.jacobian import jacobian_norms
from asr.probe.watching import Seen, watch_attention

# Frames on both sides that count as near.
NEAR_FRAMES = 5


@dataclass(frozen=True)
class Head:
    """
    entropy         mean of ``-sum_j a_ij log a_ij``, natural logarithm; rows without weight left out
    of_uniform      mean of the same over the logarithm of the keys seen: 1 is uniform, 0 one key alone
    row_sum         mean of ``sum_j p_ij``
    largest_row_sum
    largest_logit   largest s_ij
    near            mean of a_ij summed over ``|i - j| <= near_frames``; NaN where keys are no frames
    """

    entropy: float
    of_uniform: float
    row_sum: float
    largest_row_sum: float
    largest_logit: float
    near: float


@dataclass(frozen=True)
class Layer:
    """
    name            "layer1" of the encoder; "decoder1.self" and "decoder1.cross" of a decoder, whose
                    rows are the tokens of the transcripts, not frames
    residual_norm   mean over rows of the Euclidean norm of what enters the residual connection around
                    attention, or attention itself where there is none
    output_norm     of what attention gives, times the weight and LayerScale of that connection, hybrid
                    norm included: what is added, where no module stands between (an E-Branchformer
                    merges it with its other branch first)
    gradient_norm   of the loss per token (of the head that is read; in a decoder of its own) with
                    respect to the parameters of attention
    jacobian_norm   see ``jacobian_norms``, of attention from its input to its output (projections,
                    position and norms of heads and output included; the norm before it, the residual
                    connection and LayerScale not), the largest over the utterances
    """

    name: str
    heads: list[Head]
    residual_norm: float
    output_norm: float
    gradient_norm: float
    jacobian_norm: float

    @property
    def output_share(self) -> float:
        """Return the ratio of what attention adds to what it is added to."""
        return self.output_norm / self.residual_norm if self.residual_norm else math.nan


@dataclass(frozen=True)
class Diagnosis:
    """
    loss            of the head that is read, per token
    gradient_norm   of it with respect to all parameters
    overflow        the first module that hands on a number that is not finite; None: there is none
    """

    layers: list[Layer]
    loss: float
    gradient_norm: float
    overflow: str | None


def diagnose(net: Recogniser, batch: Batch, near_frames: int = NEAR_FRAMES) -> Diagnosis:
    """Diagnose a batch on the model's device, computed as decoding does: no dropout, no augmentation,
    whole utterances; an attention decoder is given the batch's transcripts. Weights, gradients and
    random state stay as they are.
    """
    training = net.training
    net.eval()
    try:
        probes = _probes(net, batch, near_frames)
        if not probes:
            raise InputError("this model has no attention: there is nothing to diagnose")
        fault: dict[str, Any] = {}
        with ExitStack() as stack:
            for probe in probes:
                stack.enter_context(probe.watching())
            stack.enter_context(watch_forward(net, fault))
            loss, decoder_loss = _losses(net, batch)
        gradients = _gradients(loss, net)
        own = gradients
        if decoder_loss is not None:
            own = gradients | _gradients(decoder_loss, net.head("attention"))
        return Diagnosis(
            layers=[probe.layer(own) for probe in probes],
            loss=float(loss.detach()),
            gradient_norm=_norm(list(gradients.values())),
            overflow=fault.get("layer"),
        )
    finally:
        net.train(training)


def _probes(net: Recogniser, batch: Batch, near_frames: int) -> list[_Probe]:
    """Return the probes of the encoder's layers, then those of the decoder's."""
    probes = [
        _Probe(f"layer{number}", attention, around, near_frames)
        for number, (attention, around) in enumerate(_places(net.encoder), start=1)
    ]
    if "attention" in net.heads:
        # behind the first edge
        lens_b = batch.token_lens_b + 1
        number = 0
        for attention, around in _places(net.head("attention")):
            across = isinstance(attention, CrossAttention)
            number += not across
            name = f"decoder{number}.{'cross' if across else 'self'}"
            probes.append(_Probe(name, attention, around, near_frames, lens_b))
    return probes


def series(diagnosis: Diagnosis) -> dict[str, float | str | None]:
    """Every number under a name of its own, as a log takes them; None where it is not finite."""
    values: dict[str, Any] = {"loss": diagnosis.loss, "gradient_norm": diagnosis.gradient_norm}
    for layer in diagnosis.layers:
        content = asdict(layer)
        where = content.pop("name")
        for place, head in enumerate(content.pop("heads"), start=1):
            values |= {f"{name}/{where}.head{place}": head[name] for name in head}
        values |= {f"{name}/{where}": content[name] for name in content}
    return finite({**values, "overflow": diagnosis.overflow})


def head_statistics(
    p_bhts: Tensor,
    s_bhts: Tensor,
    visible_bts: Tensor,
    offset_ts: Tensor | None,
    near_frames: int,
) -> list[Head]:
    """Summarise weights and scores; offset is key minus query, None where keys are no frames."""
    count_b1t = visible_bts.sum(2)[:, None]
    total_bht = p_bhts.abs().sum(-1)
    share_bhts = p_bhts.abs() / total_bht[..., None]
    rows_bht = (count_b1t > 0).expand_as(total_bht)
    # a row of NaN is not without weight: it shall be seen
    weighed_bht = rows_bht & ~(total_bht == 0)
    entropy_bht = torch.special.entr(share_bhts).sum(-1)
    uniform_bht = entropy_bht / count_b1t.clamp(min=2).log()
    several_bht = weighed_bht & (count_b1t > 1)
    near_bht = torch.full_like(entropy_bht, math.nan)
    if offset_ts is not None:
        near_bht = share_bhts.masked_fill(offset_ts.abs() > near_frames, 0.0).sum(-1)
    row_sum_bht = p_bhts.sum(-1)
    lowest = -math.inf
    columns = (
        _mean(entropy_bht, weighed_bht),
        _mean(uniform_bht, several_bht),
        _mean(row_sum_bht, rows_bht),
        row_sum_bht.masked_fill(~rows_bht, lowest).amax((0, 2)),
        s_bhts.masked_fill(~visible_bts[:, None], lowest).amax((0, 2, 3)),
        _mean(near_bht, weighed_bht),
    )
    return [Head(*row) for row in torch.stack(columns, dim=1).tolist()]


def _mean(values_bht: Tensor, rows_bht: Tensor) -> Tensor:
    """(h) over rows; NaN where there is none."""
    return torch.where(rows_bht, values_bht, 0.0).sum((0, 2)) / rows_bht.sum((0, 2))


def _losses(net: Recogniser, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the losses per token of the head that is read, and of the attention decoder."""
    read, decoder = net.first_head, "attention" if "attention" in net.heads else None
    # those of a decoder are the encoder's, of which the others' are made
    frames_btx, lens_b = net(batch.wave_bn, batch.wave_lens_b, head=decoder)
    count, decoder_loss = max(int(batch.token_lens_b.sum()), 1), None
    if decoder is not None:
        given = (frames_btx, lens_b, batch.tokens_bu, batch.token_lens_b)
        decoder_loss = net.head(decoder).loss_of_frames(*given).sum() / count
        if read == decoder:
            return decoder_loss, decoder_loss
        frames_btx = net.head().frames(frames_btx)
    return _loss(net, frames_btx, lens_b, batch) / count, decoder_loss


def _loss(net: Recogniser, frames_btx: Tensor, lens_b: Tensor, batch: Batch) -> Tensor:
    """Summed over the transcripts that fit; one that does not says nothing of attention."""
    loss_of = net.head().loss_of_frames
    given = (frames_btx, lens_b, batch.tokens_bu, batch.token_lens_b)
    fits_b = ~loss_of(*(x.detach() for x in given)).isinf()
    if not bool(fits_b.any()):
        return 0.0 * frames_btx.sum()
    return loss_of(*(x[fits_b] for x in given)).sum()


def _places(net: nn.Module) -> list[tuple[Attending, PreNorm | None]]:
    """Return each attention, and the innermost residual connection around it."""
    modules, places = dict(net.named_modules()), []
    for name, module in modules.items():
        if isinstance(module, Attending):
            parts = name.split(".")
            above = [modules[".".join(parts[:count])] for count in range(len(parts) - 1, -1, -1)]
            places.append((module, next((m for m in above if isinstance(m, PreNorm)), None)))
    return places


def _gradients(loss: Tensor, net: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Compute gradients without ``.grad``, which training may still need."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {key: value for key, value in zip(parameters, found, strict=True) if value is not None}


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())


class _Probe:
    """Observer of one layer's attention while data pass."""

    seen: Seen
    residual_btd: Tensor
    heads: list[Head]
    output_norm: float

    def __init__(
        self,
        name: str,
        attention: Attending,
        around: PreNorm | None,
        near_frames: int,
        row_lens_b: Tensor | None = None,
    ):
        self.name, self.attention, self.around = name, attention, around
        self.near_frames, self._row_lens_b = near_frames, row_lens_b

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the modules, for as long as the block lasts."""
        handles = [
            (self.around or self.attention).register_forward_pre_hook(self._enters),
            self.attention.register_forward_hook(self._leaves),
        ]
        try:
            with watch_attention(self.attention, self._heads, self._row_lens_b):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def layer(self, gradients: dict[nn.Parameter, Tensor]) -> Layer:
        """Return what was read, and what takes the gradients and a pass of its own."""
        own = [gradients[key] for key in self.attention.parameters() if key in gradients]
        return Layer(
            name=self.name,
            heads=self.heads,
            residual_norm=self._frame_norm(self.residual_btd),
            output_norm=self.output_norm,
            gradient_norm=_norm(own),
            jacobian_norm=self._jacobian_norm(),
        )

    def _enters(self, module: nn.Module, args: tuple[Tensor, Any]) -> None:
        self.residual_btd = args[0].detach()

    def _leaves(self, module: nn.Module, args: Any, output_btd: Tensor) -> None:
        if self.around is not None:
            gain_d = self.around.gain_d
            output_btd = output_btd if gain_d is None else output_btd * gain_d
            output_btd = output_btd * self.around.weight
        self.output_norm = self._frame_norm(output_btd)

    def _frame_norm(self, x_btd: Tensor) -> float:
        return float(x_btd.detach().double().norm(dim=2)[self._exist(x_btd)].mean())

    def _exist(self, x_btd: Tensor) -> Tensor:
        """(b, t) bool: the rows that exist."""
        lens_b = self.seen.frame_mask.query_lens
        if lens_b is None:
            return torch.ones(x_btd.shape[:2], dtype=torch.bool, device=x_btd.device)
        return frame_mask(lens_b, x_btd.shape[1])

    @torch.no_grad()
    def _heads(self, seen: Seen) -> None:
        self.seen = seen
        q_bhtd, k_bhsd, mask = seen.q_bhtd, seen.k_bhsd, seen.key_mask
        delta = mask.k_start - mask.q_start
        p_bhts = seen.weights()
        s_bhts = scores(q_bhtd, k_bhsd, seen.bias, delta, default_scale(q_bhtd, None))
        offset_ts = None
        if seen.one_axis:
            offset_ts = offsets(q_bhtd.shape[2], k_bhsd.shape[2], delta, q_bhtd.device)
        seen_bts = visible(mask, q_bhtd, k_bhsd)
        self.heads = head_statistics(p_bhts, s_bhts, seen_bts, offset_ts, self.near_frames)

    def _jacobian_norm(self) -> float:
        """Compute the norm on a copy in float64, by the reference: it can be differentiated forwards."""
        twin = copy.deepcopy(self.attention).double().requires_grad_(False)
        twin.use("reference")
        x_btd = self.seen.x_btd.detach().double()
        exist_bt1 = self._exist(x_btd)[..., None]

        def rows(x_btd: Tensor) -> Tensor:
            return torch.where(exist_bt1, self.seen.again(twin, x_btd), 0.0)

        return float(jacobian_norms(rows, x_btd).max())
