"""The training loop: steps of equal audio, validation, checkpoints, the averaged model at the end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from asr.config import Config
from asr.data.augment import spec_augment, utterance_rng
from asr.data.batches import sorted_batches
from asr.data.dataset import Batch
from asr.data.loader import Loader
from asr.errors import InputError
from asr.model_folder import save_model
from asr.runtime import choose_device, prepare_cpu
from asr.train.checkpoint import (
    average_weights,
    checkpoint_path,
    choose_epochs,
    list_checkpoints,
    load_checkpoint,
    remove_others,
    save_checkpoint,
)
from asr.train.log import TrainingLog
from asr.train.optimizer import build_optimizer, learning_rate
from asr.train.setup import (
    Experiment,
    Setup,
    claim_folder,
    describe,
    prepare,
    run_record,
    set_norm,
    write_run,
)
from asr.train.validate import validate

MAX_SKIPPED_IN_A_ROW = 10
# Where there is no terminal for a progress bar, a line this often instead.
TELL_EVERY_S = 30.0


@dataclass
class Progress:
    """Where a run stands; all of it is in every checkpoint."""

    epoch: int = 0
    step: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    wers: dict[int, float] = field(default_factory=dict)


def train(config: Config, folder: Path, resume: bool = False, command: str = "") -> None:
    """Trains into ``folder`` and leaves the model in ``folder/model``.

    Raises:
        InputError: the data, the folder or the configuration cannot be used; or too many steps in a
            row were not finite.
    """
    prepare_cpu(config.train.num_threads)
    exp = Experiment(folder)
    device = choose_device(config.train.device)
    claim_folder(exp, config, resume)
    setup = prepare(config, exp, device)
    trainer = Trainer(config, setup, exp, device)
    for line in describe(setup, config, device, trainer.bf16):
        print(line)
    record = run_record(setup, config, exp, command)
    write_run(exp, record)
    if resume and list_checkpoints(exp.checkpoints):
        trainer.restore()
        print(f"resumed     after epoch {trainer.progress.epoch}, step {trainer.progress.step}")
    else:
        set_norm(setup, config, device)
    with TrainingLog(folder, config.train.tensorboard, trainer.progress.step) as log:
        trainer.run(log)
    progress = trainer.progress
    chosen = choose_epochs(
        progress.wers, config.train.average_checkpoints, config.train.average_what
    )
    weights = average_weights([checkpoint_path(exp.checkpoints, epoch) for epoch in chosen])
    save_model(exp.model, weights, config, setup.tokenizer)
    print(f"model       mean of the weights after epochs {chosen}: {exp.model}")
    record["train_wall_s"] = round(progress.wall_s, 1)
    record["train_audio_s_per_s"] = round(progress.audio_s / max(progress.wall_s, 1e-9), 1)
    record["averaged_epochs"] = chosen
    write_run(exp, record)


class Trainer:
    """One model, its optimiser and its data, stepping."""

    def __init__(self, config: Config, setup: Setup, exp: Experiment, device: torch.device):
        self.config, self.setup, self.exp, self.device = config, setup, exp, device
        self.bf16 = config.train.precision == "bf16" or (
            config.train.precision == "auto" and device.type == "cuda"
        )
        self.optimizer = build_optimizer(setup.net, config.optimizer)
        self.num_steps = config.train.epochs * setup.batches.num_steps
        self.progress = Progress()
        num_workers = config.data.num_workers
        pin_memory, unreadable = device.type == "cuda", config.data.max_unreadable
        self._train = Loader(setup.train, num_workers, pin_memory, unreadable)
        self._dev = Loader(setup.dev, num_workers)
        self._skipped_in_a_row = 0
        self._told_s = time.perf_counter()

    def run(self, log: TrainingLog) -> None:
        """From where the run stands to its last epoch."""
        config, progress = self.config.train, self.progress
        bar = tqdm(
            total=self.num_steps,
            initial=progress.step,
            desc="training",
            unit="step",
            smoothing=0.1,
            mininterval=1.0,
            dynamic_ncols=True,
            disable=None,  # off where the output is no terminal: a log file gets the epochs' lines
        )
        with bar:
            while progress.epoch < config.epochs:
                self._epoch(log, bar)
                progress.epoch += 1
                if progress.epoch % config.validate_epochs == 0 or progress.epoch == config.epochs:
                    plan = sorted_batches(self.setup.dev.durations_s, config.max_batch_s)
                    batches = self._dev.epoch(0, plan)
                    loss, wer = validate(self.setup.net, batches, self.setup.tokenizer, self.device)
                    progress.wers[progress.epoch] = wer
                    log.write("valid", progress.step, epoch=progress.epoch, loss=loss, wer=wer)
                    tqdm.write(
                        f"epoch {progress.epoch:3d}  step {progress.step:6d}  {progress.wall_s:6.0f} s  "
                        f"dev loss {loss:.3f}  dev WER {100 * wer:6.2f} %"
                    )
                    self._save()

    def _epoch(self, log: TrainingLog, bar: tqdm[Any]) -> None:
        net, progress, epoch = self.setup.net, self.progress, self.progress.epoch
        net.train()
        steps = self.setup.batches.steps(epoch, self.setup.train.epoch_durations_s(epoch))
        plan = [batch for step in steps for batch in step]
        loader = self._train.epoch(epoch, plan)
        begun = time.perf_counter()
        since_s, since_audio_s, losses = begun, 0.0, []
        for step in steps:
            lr = learning_rate(progress.step, self.num_steps, self.config.optimizer)
            batches = [next(loader) for _ in step]
            losses.append(self._step(batches, lr, log))
            audio_s = sum(batch.audio_s for batch in batches)
            progress.step += 1
            progress.audio_s += audio_s
            since_audio_s += audio_s
            bar.update()
            if progress.step % self.config.train.log_steps == 0 or step is steps[-1]:
                now = time.perf_counter()
                speed = since_audio_s / (now - since_s)
                finite = [loss for loss in losses if math.isfinite(loss)]
                loss = sum(finite) / max(len(finite), 1)
                log.write(
                    "train",
                    progress.step,
                    epoch=epoch,
                    loss=loss,
                    lr=lr,
                    audio_s_per_s=speed,
                    audio_s=progress.audio_s,
                    wall_s=progress.wall_s + now - begun,
                )
                bar.set_postfix_str(f"loss {loss:.3f}, lr {lr:.1e}, {speed:.0f} s of audio/s")
                if bar.disable and now - self._told_s > TELL_EVERY_S:
                    self._told_s = now
                    print(
                        f"step {progress.step:6d} of {self.num_steps}  loss {loss:.3f}  lr {lr:.1e}  "
                        f"{speed:.0f} s of audio/s",
                        flush=True,
                    )
                since_s, since_audio_s, losses = now, 0.0, []
        progress.wall_s += time.perf_counter() - begun

    def _step(self, batches: list[Batch], lr: float, log: TrainingLog) -> float:
        """One optimiser step over its batches; returns the loss per token."""
        num_tokens = sum(int(batch.token_lens_b.sum()) for batch in batches)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            if len(batch) == 0:
                continue  # nothing in it could be read
            # a sum over the whole step's tokens: how the step is cut into batches changes nothing
            loss = self._loss(batch) / max(num_tokens, 1)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(
            self.setup.net.parameters(), self.config.optimizer.clip_norm
        )
        if math.isfinite(total) and bool(torch.isfinite(norm)):
            self.optimizer.step()
            self._skipped_in_a_row = 0
        else:
            self._skip(batches, total, log)
        return total

    def _loss(self, batch: Batch) -> torch.Tensor:
        seed, epoch, config = self.config.train.seed, self.progress.epoch, self.config
        frame_s = config.features.hop_ms / 1000
        rngs = [utterance_rng(seed, epoch, name, "specaugment") for name in batch.ids]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.setup.net.loss(
                batch.wave_bn.to(self.device, non_blocking=True),
                batch.wave_lens_b.to(self.device, non_blocking=True),
                batch.tokens_bu.to(self.device, non_blocking=True),
                batch.token_lens_b.to(self.device, non_blocking=True),
                lambda feats_btf, lens_b: spec_augment(
                    feats_btf, lens_b, rngs, config.augment, frame_s
                ),
            ).sum()

    def _skip(self, batches: list[Batch], loss: float, log: TrainingLog) -> None:
        """A step that is not finite changes nothing; its utterances are named in the log."""
        self._skipped_in_a_row += 1
        names = [name for batch in batches for name in batch.ids]
        log.write("skipped", self.progress.step + 1, loss=str(loss), utterances=names)
        tqdm.write(f"step {self.progress.step + 1} skipped: loss {loss}; utterances in log.jsonl")
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"{self.exp.root}: {MAX_SKIPPED_IN_A_ROW} steps in a row were not finite; lower "
                "optimizer.lr, lengthen optimizer.warmup_fraction or look at the utterances in log.jsonl"
            )

    def _save(self) -> None:
        progress, train = self.progress, self.config.train
        state = {
            "model": self.setup.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(progress),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all(),
        }
        save_checkpoint(self.exp.checkpoints, progress.epoch, state)
        keep = choose_epochs(progress.wers, train.average_checkpoints, train.average_what)
        remove_others(self.exp.checkpoints, [*keep, progress.epoch])

    def restore(self) -> None:
        """Continue after the newest complete checkpoint."""
        newest = max(list_checkpoints(self.exp.checkpoints).items())[1]
        state = load_checkpoint(newest)
        self.setup.net.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
