"""One optimiser step: losses of its batches, gradients, update.

The host never waits for the device, but within PyTorch's CTC loss, which copies the lengths. Whether a
step was finite is decided and acted upon on the device; the host reads it one step late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from asr.config import Config
from asr.data.augment import spec_augment
from asr.data.draws import stable_hash, utterance_rng
from asr.data.examples import Batch
from asr.errors import InputError
from asr.train.engines import Engine
from asr.train.flops import Flops

# What the random numbers of each view of an utterance are drawn for.
VIEWS = ("specaugment", "specaugment of the second view")


@dataclass(frozen=True)
class Totals:
    """Sums of a step over all processes, as numbers.

    loss        summed over utterances
    num_tokens  of the transcripts
    audio_s     seconds of audio
    flops       operations of forward and backward
    flags       how many processes raised each of the step's flags
    finite      whether loss and gradient were; if not, the step changed nothing
    """

    loss: float
    num_tokens: float
    audio_s: float
    flops: float
    flags: tuple[float, ...]
    finite: bool


class Launched:
    """A step whose results may still be on their way from the device."""

    def __init__(self, step: int, epoch: int, lr: float, batches: Sequence[Batch], totals: Tensor):
        """``step`` counts from 1; ``totals``: loss, tokens, seconds, finite, then the flags."""
        self.step, self.epoch, self.lr, self.batches = step, epoch, lr, batches
        self._host = totals
        self._arrived: torch.cuda.Event | None = None
        if totals.device.type == "cuda":
            self._host = torch.empty(totals.shape, dtype=totals.dtype, pin_memory=True)
            self._host.copy_(totals, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> Totals:
        """Waits for this step, not for those launched after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        loss, num_tokens, finite, audio_s, flops, *flags = self._host.tolist()
        return Totals(loss, num_tokens, audio_s, flops, tuple(flags), finite > 0)


class Step:
    """Computes gradients of batches and updates the weights.

    Attributes:
        most_samples: batches of more padded samples are computed in pieces; lowered where memory
            runs out. 0: no limit.
        precision: fp32, bf16 (autocast) or fp64.
        flops: of a forward pass, where they were counted.
    """

    def __init__(self, config: Config, engine: Engine, optimizer: torch.optim.Optimizer):
        self._config, self._engine, self._optimizer = config, engine, optimizer
        self._device = engine.processes.device
        precision = config.train.precision
        if precision == "auto":
            precision = "bf16" if self._device.type == "cuda" else "fp32"
        self.precision = precision
        self._bf16 = precision == "bf16"
        self.most_samples = 0
        self.flops = Flops(0.0, 0.0)

    def launch(
        self, step: int, epoch: int, lr: float, batches: Sequence[Batch], flags: Sequence[float]
    ) -> Launched:
        """One update. ``step`` counts from 1; ``flags`` are for the other processes to see.

        Raises:
            InputError: not even single utterances fit into memory.
        """
        engine = self._engine
        num_tokens = sum(int(batch.token_lens_b.sum()) for batch in batches)
        counted = self._tensor([num_tokens])
        engine.processes.sum_(counted)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        loss = self._gradients(step, epoch, batches, counted)
        audio_s = sum(batch.audio_s for batch in batches)
        flops = sum(self.flops.training(batch.wave_lens_b) for batch in batches)
        totals = torch.cat([loss.reshape(1), self._tensor([audio_s, flops, *flags])])
        engine.processes.sum_(totals)
        norm = engine.clip(self._config.optimizer.clip_norm)
        finite = totals[0].isfinite() & norm.isfinite()
        update(self._optimizer, finite)
        totals = torch.cat([totals[:1], counted, finite.reshape(1), totals[1:]])
        return Launched(step, epoch, lr, batches, totals)

    def reseed(self, step: int) -> None:
        """Random numbers are a function of (seed, step, process): nothing of them needs saving."""
        rank = self._engine.processes.rank
        torch.manual_seed(stable_hash(self._config.train.seed, step, rank, "step") % 2**63)

    def loss(self, batch: Batch, epoch: int, objective: nn.Module) -> Tensor:
        """(b) the loss of each utterance, of a batch on the host."""
        config = self._config
        frame_s = self._engine.net.features.frame_s
        rngs = [
            utterance_rng(config.train.seed, epoch, name, purpose)
            for purpose in VIEWS[: self._engine.net.num_views]
            for name in batch.ids
        ]
        there = batch.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            return objective(
                there.wave_bn,
                there.wave_lens_b,
                there.tokens_bu,
                there.token_lens_b,
                lambda feats_btf, lens_b: spec_augment(
                    feats_btf, lens_b, rngs, config.augment, frame_s
                ),
            )

    def _tensor(self, values: Sequence[float]) -> Tensor:
        host = torch.tensor(values, dtype=torch.float64)
        return host.to(self._device, non_blocking=True)

    def _gradients(
        self, step: int, epoch: int, batches: Sequence[Batch], num_tokens: Tensor
    ) -> Tensor:
        """The summed loss; gradients of loss per token, summed over all processes."""
        while True:
            pieces = self.pieces(batches)
            self._optimizer.zero_grad(set_to_none=True)
            self.reseed(step)
            try:
                return self._accumulate(pieces, epoch, num_tokens)
            except torch.OutOfMemoryError:
                if not self._engine.splits_on_out_of_memory:
                    raise InputError(
                        f"out of memory at step {step}, and sharded training cannot split a batch: "
                        "lower train.max_batch_s"
                    ) from None
            self.halve(pieces)

    def pieces(self, batches: Sequence[Batch]) -> list[Batch]:
        """Return the parts of a step that are computed at once."""
        return [piece for batch in batches for piece in cut(batch, self.most_samples)]

    def halve(self, pieces: Sequence[Batch]) -> None:
        """Lower ``most_samples`` after memory ran out for ``pieces``.

        Raises:
            InputError: they hold one utterance each.
        """
        largest = max(pieces, key=lambda piece: piece.wave_bn.numel())
        if all(len(piece) == 1 for piece in pieces):
            raise InputError(
                f"out of memory for one utterance of {largest.audio_s:.1f} s ({largest.ids[0]}): "
                "lower data.max_duration_s, or set train.checkpoint_activations=true"
            )
        self.most_samples = max(largest.wave_bn.numel() // 2, 1)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _accumulate(self, pieces: Sequence[Batch], epoch: int, num_tokens: Tensor) -> Tensor:
        engine = self._engine
        # a sum over all tokens of all processes: how the step is cut into batches changes nothing
        scale = engine.processes.size / num_tokens.clamp(min=1)
        total = torch.zeros(1, dtype=torch.float64, device=self._device)
        for place, piece in enumerate(pieces):
            with engine.accumulating(last=place + 1 == len(pieces)):
                filled = piece if len(piece) else silence(piece)
                loss_b = self.loss(filled, epoch, engine.shared_objective)
                loss = loss_b[: len(piece)].sum()
                (loss * scale.to(loss.dtype)).sum().backward()
            total += loss.detach()
        return total


def update(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """``optimizer.step()`` where ``finite``, nothing at all where not, without asking the device.

    The fused optimisers read ``found_inf`` and then leave weights, moments and step counts alone.
    """
    optimizer.found_inf = (~finite).float().reshape(())  # type: ignore[attr-defined]
    optimizer.step()


def cut(batch: Batch, most_samples: int) -> list[Batch]:
    """A batch in pieces of at most so many padded samples (one utterance at least); 0: no limit."""
    count, length = batch.wave_bn.shape
    if most_samples == 0 or count * length <= most_samples or count < 2:
        return [batch]
    size = max(most_samples // length, 1)
    return [part_of(batch, start, min(start + size, count)) for start in range(0, count, size)]


def part_of(batch: Batch, start: int, end: int) -> Batch:
    """Some of a batch's utterances, with no more padding than they need."""
    lens_b, token_lens_b = batch.wave_lens_b[start:end], batch.token_lens_b[start:end]
    share = float(lens_b.sum()) / max(float(batch.wave_lens_b.sum()), 1.0)
    return replace(
        batch,
        ids=batch.ids[start:end],
        wave_bn=batch.wave_bn[start:end, : int(lens_b.max())],
        wave_lens_b=lens_b,
        tokens_bu=batch.tokens_bu[start:end, : int(token_lens_b.max())],
        token_lens_b=token_lens_b,
        audio_s=batch.audio_s * share,
        speakers=batch.speakers[start:end],
        texts=batch.texts[start:end],
    )


def silence(empty: Batch, num_samples: int = 16000) -> Batch:
    """One silent utterance with one token, for a process that must go along with nothing to do."""
    return replace(
        empty,
        ids=("",),
        wave_bn=torch.zeros(1, num_samples),
        wave_lens_b=torch.tensor([num_samples]),
        tokens_bu=torch.ones(1, 1, dtype=torch.int64),
        token_lens_b=torch.tensor([1]),
        speakers=("",),
        texts=("",),
    )
