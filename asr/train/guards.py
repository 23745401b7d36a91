"""Guards against a run that fails hours in: the worst batch first, and the layer at fault by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from asr.config import Config, TrainConfig
from asr.data.batches import costs_s
from asr.data.examples import Batch
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.probe.finite import watch_forward
from asr.train.engines import Engine
from asr.train.flops import Flops, count_layers
from asr.train.step import Launched, Step, cut, silence, update


def worst_batch(net: Recogniser, longest_s: float, config: Config, max_batch_s: float) -> Batch:
    """Noise as long as the longest utterance can be played, as many of them as a batch can hold,
    each with as many tokens as the heads can take: no batch of the run takes more memory."""
    cost_s = float(costs_s(np.array([longest_s]), config.train.attention_balance_s)[0])
    count = max(int(max_batch_s / cost_s), 1)
    num_samples = int(longest_s * config.features.sample_rate)
    rng = np.random.default_rng(0)
    wave_bn = 0.1 * rng.standard_normal((count, num_samples), dtype=np.float32)
    # neighbours differ, so that a transcript needs no blanks between its tokens
    limits = [net.head(name).max_tokens for name in net.heads]
    frames = max(net.num_output_frames(num_samples), 1)
    most_tokens = min([frames, *(limit for limit in limits if limit is not None)])
    tokens_u = torch.arange(most_tokens) % (net.vocab_size - 1) + 1
    return Batch(
        ids=tuple(f"worst batch, {number}" for number in range(count)),
        wave_bn=torch.from_numpy(wave_bn),
        wave_lens_b=torch.full((count,), num_samples),
        tokens_bu=tokens_u.expand(count, -1).contiguous(),
        token_lens_b=torch.full((count,), most_tokens),
        audio_s=count * longest_s,
        speakers=("",) * count,
        texts=("",) * count,
    )


def largest_in_a_step(longest_s: float, train: TrainConfig) -> float:
    """Padded seconds of the largest batch: ``max_batch_s``, or less where steps are smaller."""
    return min(train.max_batch_s, max(1.1 * train.global_batch_s, longest_s))


def probe(step: Step, engine: Engine, optimizer: torch.optim.Optimizer, batch: Batch) -> Flops:
    """Forward, backward and an update that changes nothing: whatever training needs is allocated.

    Where memory runs out, ``step`` will cut batches into smaller pieces from the start.

    Returns:
        operations of a forward pass, counted on the way.

    Raises:
        InputError: not even one utterance fits.
    """
    while True:
        pieces = cut(batch, step.most_samples)
        try:
            return rehearse(step, engine, optimizer, pieces[0])
        except torch.OutOfMemoryError:
            if not engine.splits_on_out_of_memory:
                raise InputError(
                    "out of memory for the worst batch, and sharded training cannot split it: "
                    "lower train.max_batch_s"
                ) from None
        step.halve(pieces)


def rehearse(step: Step, engine: Engine, optimizer: torch.optim.Optimizer, batch: Batch) -> Flops:
    """Computes a batch as training does; weights and the optimiser's state stay as they are."""
    try:
        with count_layers(engine.net) as counted, engine.dropping():
            step.loss(batch, epoch=0, objective=engine.objective).sum().backward()
        for parameter in engine.net.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        update(optimizer, torch.zeros((), dtype=torch.bool, device=engine.processes.device))
    finally:
        optimizer.zero_grad(set_to_none=True)
    per_sample = counted[0] / float(batch.wave_lens_b.sum())
    return Flops(per_sample, *_attention_flops(engine, int(batch.wave_lens_b[0])))


def largest_that_fits(fits: Callable[[float], bool], lowest_s: float, highest_s: float) -> float:
    """Padded seconds, to some 5 %, of the largest batch that fits; 0 if not even ``lowest_s`` do."""
    good_s, bad_s = 0.0, math.inf
    asked_s = lowest_s
    while good_s < highest_s and bad_s > 1.05 * max(good_s, lowest_s):
        if fits(asked_s):
            good_s = asked_s
        else:
            bad_s = asked_s
        asked_s = min(2 * good_s, highest_s) if bad_s == math.inf else (good_s + bad_s) / 2
        if good_s == 0.0:
            return 0.0
    return good_s


def _attention_flops(engine: Engine, num_samples: int) -> tuple[float, tuple[float, float]]:
    """Per squared sample, q k and the weighted sum of v, 2 t^2 d operations each and layer; and how
    many samples a sample sees to each side. Chunks are taken to hide nothing."""
    net = engine.net
    frames_per_sample = net.num_output_frames(num_samples) / num_samples
    side = (net.encoder.window or math.inf) / frames_per_sample
    sides = (side, 0.0 if net.encoder.causal else side)
    return 4.0 * len(net.encoder.layers) * net.dim * frames_per_sample**2, sides


def find_fault(step: Step, engine: Engine, launched: Launched) -> dict[str, Any]:
    """Computes a step that was not finite once more and says where the first such number appears.

    With the weights as they are now, one step later. Gradients are dropped.
    """
    fault: dict[str, Any] = {"utterances": []}
    step.reseed(launched.step)
    # in the pieces in which it was computed, and with silence where other processes must not wait
    for piece in step.pieces(launched.batches):
        filled = piece if len(piece) else silence(piece)
        with watch_forward(engine.net, fault):
            loss_b = step.loss(filled, launched.epoch, objective=engine.objective)
        fine_b = loss_b[: len(piece)].isfinite().tolist()
        broken = [name for name, fine in zip(piece.ids, fine_b, strict=True) if not fine]
        fault["utterances"].extend(broken)
        with engine.dropping():
            loss_b.sum().backward()
    if "layer" not in fault:
        fault["layer"] = "loss" if fault["utterances"] else _last_broken_gradient(engine.net)
    engine.net.zero_grad(set_to_none=True)
    return fault


def _last_broken_gradient(net: nn.Module) -> str:
    """A backward pass runs from the last layer to the first: the last layer that is broken began."""
    for name, parameter in reversed(list(net.named_parameters())):
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"gradient of {name}"
    return "not found again with the weights of one step later"
