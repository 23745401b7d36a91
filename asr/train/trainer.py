"""The training loop: steps of equal audio, validation, checkpoints."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from asr.config import Config, TrainConfig
from asr.data.batches import EpochPlan
from asr.data.examples import Batch
from asr.data.loader import Loader
from asr.errors import InputError
from asr.processes import Processes
from asr.run_folder import RunFolder
from asr.train.averaging import MovingAverage
from asr.train.checkpoint import (
    State,
    choose_steps,
    list_checkpoints,
    remove_others,
    restore,
)
from asr.train.diagnose import diagnose_step, diagnosis_due
from asr.train.engines import build_engine
from asr.train.flops import peak_flops
from asr.train.guards import (
    find_fault,
    largest_in_a_step,
    largest_that_fits,
    probe,
    rehearse,
    worst_batch,
)
from asr.train.log import TrainingLog
from asr.train.meter import Meter
from asr.train.optimizer import build_optimizer, learning_rate
from asr.train.profiling import Profile
from asr.train.setup import Setup
from asr.train.step import Launched, Step
from asr.train.stopping import Stopped, StopRequest
from asr.train.validate import share_of_dev, validate


@dataclass
class Progress:
    """State of a run; all of it is in every checkpoint."""

    step: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    wers: dict[int, float] = field(default_factory=dict)
    cers: dict[int, float] = field(default_factory=dict)
    """Dev WER and CER by the step they were measured after; older checkpoints have no CER."""
    skipped_in_a_row: int = 0
    num_skipped: int = 0
    num_left_out: int = 0
    window_loss: float = 0.0
    """Sum of the finite losses since the last line of the log, and how many they are."""
    window_steps: int = 0

    def averaged_steps(self, train: TrainConfig) -> list[int]:
        """Return the validated steps whose weights the final model averages, as of now."""
        rates = {"wer": self.wers, "cer": self.cers}[train.best_by]
        return choose_steps(rates, train.average_checkpoints, train.average_what)


class Trainer:
    """One model, its optimiser and its data, stepping."""

    def __init__(
        self,
        config: Config,
        setup: Setup,
        exp: RunFolder,
        processes: Processes,
        request: StopRequest,
    ):
        self.config, self.setup, self.exp, self.processes = config, setup, exp, processes
        self.engine = build_engine(setup.net, config.train, processes)
        self.optimizer = build_optimizer(setup.net, config.optimizer)
        self.step = Step(config, self.engine, self.optimizer)
        self.average = MovingAverage(setup.net, config.train.ema_decay)
        self.steps_an_epoch = setup.batches.num_steps
        self.num_steps = config.train.epochs * self.steps_an_epoch
        self.progress = Progress()
        self._longest_s = float(setup.train.longest_durations_s.max())
        self.profile: Profile | None = None
        self._store = self.engine.store(exp.checkpoints)
        self._state = State(setup.net, self.optimizer, self.average.values)
        workers = config.data.num_workers
        pin_memory, unreadable = processes.device.type == "cuda", config.data.max_unreadable
        self._train = Loader(setup.train, workers, pin_memory, unreadable)
        self._dev = Loader(setup.dev, workers, max_unreadable=unreadable)
        self._request = request
        self._saved_s = time.monotonic()
        self._stop_agreed = self._checkpoint_agreed = False

    def run(self, log: TrainingLog) -> None:
        """Train from the current step to the last one.

        Raises:
            Stopped: asked to; see ``stopping``.
        """
        self.setup.net.train()
        batch = self._worst_batch(largest_in_a_step(self._longest_s, self.config.train))
        self.step.flops = probe(self.step, self.engine, self.optimizer, batch)
        peak = peak_flops(self.processes.device)
        meter = Meter(
            self.num_steps,
            self.progress.step,
            self.progress.wall_s,
            None if peak is None else peak * self.processes.size,
            quiet=not self.processes.first,
        )
        if self.step.most_samples:
            meter.tell(
                f"the worst batch does not fit: computed {self.step.most_samples} samples at once"
            )
        with meter.bar:
            if self._validation_due():  # the checkpoint is of the moment before
                self._validate(log, meter)
            while self.progress.step < self.num_steps:
                self._epoch(log, meter)

    def _worst_batch(self, max_batch_s: float) -> Batch:
        return worst_batch(self.setup.net, self._longest_s, self.config, max_batch_s)

    def find_batch(self) -> float:
        """The largest ``train.max_batch_s`` that fits into the device's memory; 0: none does."""
        self.setup.net.train()

        def fits(max_batch_s: float) -> bool:
            try:
                batch = self._worst_batch(max_batch_s)
                rehearse(self.step, self.engine, self.optimizer, batch)
            except torch.OutOfMemoryError:
                return False
            return True

        total_s = float(self.setup.train.durations_s.sum())
        return largest_that_fits(
            fits, self._longest_s, max(self._longest_s, min(total_s, 100_000.0))
        )

    def _epoch(self, log: TrainingLog, meter: Meter) -> None:
        """Train from the current step to the end of its epoch."""
        epoch, first = divmod(self.progress.step, self.steps_an_epoch)
        plan = self.setup.batches.plan(epoch, self.setup.train.epoch_durations_s(epoch))
        batches = (batch for step in range(first, len(plan)) for batch in self._share(plan, step))
        loaded = self._train.epoch(epoch, batches)
        unread: Launched | None = None
        self.setup.net.train()
        meter.restart()
        for place in range(first, len(plan)):
            taken = meter.waiting(loaded, len(self._share(plan, place)))
            if diagnosis_due(self.config.train, self.progress.step + 1):
                if unread is not None:  # or its time would be the diagnosis'
                    self._read(unread, log, meter)
                    unread = None
                self._diagnose(taken, log, meter)
            launched = self._launch(epoch, taken)
            if unread is not None:
                self._read(unread, log, meter)
            unread = launched
            if self._pause_due():
                self._read(unread, log, meter)
                unread = None
                self._pause(log, meter)
        if unread is not None:
            self._read(unread, log, meter)

    def _share(self, plan: EpochPlan, step: int) -> list[np.ndarray]:
        return plan.share(step, self.processes.rank, self.processes.size)

    def _diagnose(self, batches: list[Batch], log: TrainingLog, meter: Meter) -> None:
        """Diagnose in the first process; the others wait in the step that follows."""
        if self.processes.first:
            values = diagnose_step(self.setup.net, batches)
            if values is not None:
                log.write("diagnose", self.progress.step + 1, **values)
        meter.restart()

    def _launch(self, epoch: int, batches: list[Batch]) -> Launched:
        progress, train = self.progress, self.config.train
        lr = learning_rate(progress.step, self.num_steps, self.config.optimizer)
        progress.step += 1
        due = train.checkpoint_minutes > 0 and (
            time.monotonic() - self._saved_s > 60 * train.checkpoint_minutes
        )
        num_left_out = sum(len(batch.left_out) for batch in batches)
        flags = [self._request.asked, due and self.processes.first, num_left_out]
        launched = self.step.launch(progress.step, epoch, lr, batches, flags)
        self.average.update(progress.step)
        if self.profile is not None:
            self.profile.step()
        return launched

    def _read(self, launched: Launched, log: TrainingLog, meter: Meter) -> None:
        """Take up what a step computed."""
        progress, train = self.progress, self.config.train
        totals = launched.read()
        meter.step(totals)
        progress.audio_s += totals.audio_s
        stop, due, num_left_out = totals.flags
        self._stop_agreed |= stop > 0
        self._checkpoint_agreed |= due > 0
        if num_left_out:
            self._name_left_out(launched, log, meter)
        loss = totals.loss / max(totals.num_tokens, 1)
        if totals.finite:
            progress.skipped_in_a_row = 0
            progress.window_loss += loss
            progress.window_steps += 1
        else:
            self._skipped(launched, loss, log, meter)
        step = launched.step
        if step % train.log_steps == 0 or step % self.steps_an_epoch == 0:
            speeds = meter.take()
            count = progress.window_steps
            mean = progress.window_loss / count if count else None  # every step of it was skipped
            progress.window_loss, progress.window_steps = 0.0, 0
            log.write(
                "train",
                step,
                epoch=launched.epoch,
                loss=mean,
                lr=launched.lr,
                audio_s=progress.audio_s,
                wall_s=meter.wall_s,
                **speeds,
            )
            meter.show(step, mean, launched.lr, speeds)

    def _name_left_out(self, launched: Launched, log: TrainingLog, meter: Meter) -> None:
        """Utterances that could not be read, of all processes."""
        mine = [asdict(item) for batch in launched.batches for item in batch.left_out]
        everyones = [item for items in self.processes.gather(mine) for item in items]
        self.progress.num_left_out += len(everyones)
        log.write("left out", launched.step, utterances=everyones)
        first = everyones[0]
        meter.tell(
            f"step {launched.step}: {len(everyones)} utterances could not be read, "
            f"{first['id']}: {first['reason']}, {first['detail']}"
        )

    def _skipped(self, launched: Launched, loss: float, log: TrainingLog, meter: Meter) -> None:
        """The step changed nothing: says of which utterances it was and where it went wrong."""
        progress, most = self.progress, self.config.train.max_skipped
        progress.skipped_in_a_row += 1
        progress.num_skipped += 1
        names = [name for batch in launched.batches for name in batch.ids]
        names = [name for some in self.processes.gather(names) for name in some]
        faults = self.processes.gather(find_fault(self.step, self.engine, launched))
        # a process whose share was empty or sound has less to say
        fault = max(faults, key=lambda one: len(one["utterances"]))
        log.write("skipped", launched.step, loss=str(loss), utterances=names, faults=faults)
        meter.tell(
            f"step {launched.step} skipped: loss {loss}; first seen in {fault['layer']}; "
            f"its {len(names)} utterances are in log.jsonl"
        )
        if progress.skipped_in_a_row >= most:
            raise InputError(
                f"{self.exp.root}: {most} steps in a row were not finite, first seen in "
                f"{fault['layer']}; lower optimizer.lr, lengthen optimizer.warmup_fraction, try "
                "train.precision=fp32, or look at the utterances in log.jsonl"
            )

    def _validation_due(self) -> bool:
        """Tell whether this step ends with a validation that is still to be done, by the step alone."""
        step, train = self.progress.step, self.config.train
        every = train.validate_steps or train.validate_epochs * self.steps_an_epoch
        due = step % every == 0 or step == self.num_steps
        return step > 0 and due and step not in self.progress.wers

    def _pause_due(self) -> bool:
        every = self.config.train.checkpoint_steps
        return (
            self._stop_agreed
            or self._checkpoint_agreed
            or self._validation_due()
            or (every > 0 and self.progress.step % every == 0)
        )

    def _pause(self, log: TrainingLog, meter: Meter) -> None:
        """Write a checkpoint, end where someone asked for it, and validate where that is due.

        The checkpoint comes first: whatever goes wrong while validating costs no step, and a run
        that goes on after it validates again.
        """
        self.progress.wall_s = meter.wall_s
        self._save(log)
        if self._stop_agreed:
            raise Stopped(f"{self.exp.root}: stopped after step {self.progress.step}")
        if self._validation_due():
            self._validate(log, meter)
        meter.restart()

    def _validate(self, log: TrainingLog, meter: Meter) -> None:
        progress, setup, processes = self.progress, self.setup, self.processes
        plan = share_of_dev(setup.dev, self.config.train.max_batch_s, processes)
        with self.average.in_place():
            self.engine.weights_written()
            found = validate(setup.net, self._dev.epoch(0, plan), setup.tokenizer, processes)
        self.engine.weights_written()
        setup.net.train()
        progress.wers[progress.step] = found.wer
        progress.cers[progress.step] = found.cer
        epoch = -(-progress.step // self.steps_an_epoch)
        shown = "none finite" if found.loss is None else f"{found.loss:.3f}"
        line = (
            f"epoch {epoch:3d}  step {progress.step:6d}  {progress.wall_s:6.0f} s  "
            f"dev loss {shown}  dev WER {100 * found.wer:6.2f} %  CER {100 * found.cer:6.2f} %"
        )
        if found.left_out:
            unread = [asdict(item) for item in found.left_out]
            log.write("left out", progress.step, part="dev", utterances=unread)
            first = found.left_out[0]
            line += (
                f"  of {len(setup.dev) - len(unread)} of {len(setup.dev)} utterances: the others "
                f"could not be read, {first.id}: {first.reason}, {first.detail}"
            )
        log.write(
            "valid",
            progress.step,
            epoch=epoch,
            loss=found.loss,
            wer=found.wer,
            cer=found.cer,
            num_left_out=len(found.left_out),
        )
        meter.tell(line)
        self._remove_others()

    def _save(self, log: TrainingLog) -> None:
        progress = self.progress
        other = {"progress": asdict(progress), "log_bytes": log.num_bytes()}
        self._store.save(progress.step, self._state, other)
        self._remove_others()
        self._saved_s = time.monotonic()
        self._checkpoint_agreed = False

    def _remove_others(self) -> None:
        """Delete the checkpoints that are neither the newest nor among those to average."""
        if self.processes.first:
            keep = self.progress.averaged_steps(self.config.train)
            remove_others(self.exp.checkpoints, [*keep, self.progress.step])

    def restore(self) -> int:
        """Continue after the newest complete checkpoint; returns the log's length at that time."""
        newest = max(list_checkpoints(self.exp.checkpoints))
        other = restore(self.exp.checkpoints, newest, self._state, self.processes)
        self.progress = Progress(**other["progress"])
        return int(other["log_bytes"])
