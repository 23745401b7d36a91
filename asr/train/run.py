"""Training from a configuration to a model folder."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.config import Config
from asr.config import load as load_config
from asr.errors import InputError
from asr.files import read_json_object
from asr.locks import locked
from asr.model.folder import save_model
from asr.processes import Processes, alone, join
from asr.run_folder import RunFolder
from asr.runtime import prepare_cpu
from asr.text.tokenizer import load_tokenizer
from asr.train.checkpoint import average_weights, list_checkpoints
from asr.train.initialise import read_start
from asr.train.log import NoLog, TensorBoard, Tracker, TrainingLog, load_tracker
from asr.train.optimizer import learning_rate
from asr.train.profiling import Profile
from asr.train.record import resumed_record, run_record, write_diff, write_run
from asr.train.resuming import (
    Change,
    check_contents,
    check_steps_left,
    claim_folder,
    finished,
)
from asr.train.setup import (
    Setup,
    check_tokenizer_folder,
    describe,
    forget_tokenizer,
    keep_setup,
    prepare,
    set_norm,
)
from asr.train.stopping import StopRequest, stop_on_signals
from asr.train.trainer import Progress, Trainer


@dataclass(frozen=True)
class Options:
    """Options of a run beside its configuration."""

    resume: bool = False
    command: str = ""
    init_from: Path | None = None
    new_tokenizer: bool = False
    profile: bool = False
    tracker: Path | None = None


def train(config: Config, folder: Path, options: Options | None = None) -> None:
    """Trains into ``folder`` and leaves the model in ``folder/model``.

    The first process holds the folder meanwhile: no other training writes into it.

    Raises:
        InputError: the data, the folder or the configuration cannot be used; or too many steps in a
            row were not finite.
        Stopped: SIGTERM or SIGINT came; a checkpoint is written.
    """
    prepare_cpu(config.train.num_threads)
    with (
        stop_on_signals() as request,
        join(config.train.device, config.train.timeout_minutes) as us,
        locked(folder) if us.first else nullcontext(),
    ):
        _train(config, RunFolder(folder), options or Options(), us, request)


def find_batch(config: Config) -> float:
    """The largest ``train.max_batch_s`` whose worst batch fits into the GPU's memory, with a tenth to
    spare for what fragments. Writes nothing.

    Raises:
        InputError: no GPU (a CPU's memory runs out without an error that could be caught), or not even
            the longest utterance fits.
    """
    prepare_cpu(config.train.num_threads)
    processes = alone(config.train.device)
    if processes.device.type != "cuda":
        raise InputError("--find-batch needs a GPU; on a CPU set train.max_batch_s by hand")
    with tempfile.TemporaryDirectory() as folder:
        exp = RunFolder(Path(folder))
        setup = prepare(config, exp, processes.device, start=None, new_tokenizer=False)
        found_s = Trainer(config, setup, exp, processes, StopRequest()).find_batch()
    if found_s == 0.0:
        raise InputError(
            "not even the longest utterance fits: lower data.max_duration_s, or set "
            "train.checkpoint_activations=true"
        )
    return 0.9 * found_s


def _train(
    config: Config, exp: RunFolder, options: Options, processes: Processes, request: StopRequest
) -> None:
    start = None if options.init_from is None else read_start(options.init_from, config)
    changes: list[Change] = []
    with processes.first_before_others():
        if processes.first:
            changes = claim_folder(exp, config, options.resume)
        setup = prepare(config, exp, processes.device, start, options.new_tokenizer)
        if processes.first:
            check_contents(exp, setup.data)
            num_steps = config.train.epochs * setup.batches.num_steps
            check_steps_left(exp, config, num_steps, changes)
            keep_setup(exp, config, setup.tokenizer)
    resumed = options.resume and bool(list_checkpoints(exp.checkpoints))
    if not resumed and start is None:
        set_norm(setup, config, processes)
    trainer = Trainer(config, setup, exp, processes, request)
    if processes.first:
        engine = type(trainer.engine).__name__
        for line in describe(setup, config, trainer.step.precision, engine, processes):
            print(line)
    log_bytes = trainer.restore() if resumed else 0
    progress = trainer.progress
    record = run_record(setup, config, exp, options.command, processes.size)
    if resumed:
        record = resumed_record(exp, record, progress.step, trainer.num_steps, changes)
    if processes.first:
        if resumed:
            print(f"resumed     after step {progress.step} of {trainer.num_steps}")
            for change in changes:
                print(f"changed     {change}: from step {progress.step + 1} on")
            if progress.step == trainer.num_steps:
                print(f"finished    {finished(config)}")
            elif changes:
                lr = learning_rate(progress.step, trainer.num_steps, config.optimizer)
                print(f"schedule    learning rate {lr:.3g} in step {progress.step + 1}")
        if progress.step < trainer.num_steps:
            write_run(exp, record)
            write_diff(exp, record)
    with ExitStack() as stack:
        log = _open_log(config, exp, options, processes, record, progress.step, log_bytes)
        stack.enter_context(log)
        if options.profile and processes.first:
            trainer.profile = stack.enter_context(Profile(exp.profile, processes.device))
        trainer.run(log)
    if processes.first:
        _finish(config, exp, setup, progress, record)
    processes.wait()


def _open_log(
    config: Config,
    exp: RunFolder,
    options: Options,
    processes: Processes,
    record: dict[str, Any],
    resume_step: int,
    resume_bytes: int,
) -> TrainingLog:
    if not processes.first:
        return NoLog()
    trackers: list[Tracker] = []
    if config.train.tensorboard:
        trackers.append(TensorBoard(exp, resume_step))
    if options.tracker is not None:
        trackers.append(load_tracker(options.tracker, record))
    return TrainingLog(exp, resume_bytes, trackers)


def _finish(
    config: Config, exp: RunFolder, setup: Setup, progress: Progress, record: dict[str, Any]
) -> None:
    chosen = progress.averaged_steps(config.train)
    there = list_checkpoints(exp.checkpoints)
    save_model(exp.model, average_weights([there[s] for s in chosen]), config, setup.tokenizer)
    print(f"model       mean of the weights after steps {chosen}: {exp.model}")
    record["train_wall_s"] = round(progress.wall_s, 1)
    record["train_audio_s_per_s"] = round(progress.audio_s / max(progress.wall_s, 1e-9), 1)
    record["averaged_steps"] = chosen
    record["num_skipped_steps"] = progress.num_skipped
    record["num_left_out"] = progress.num_left_out
    write_run(exp, record)


def average(folder: Path, out: Path, count: int, own: bool) -> list[int]:
    """An experiment folder with the mean of a run's newest checkpoints; returns their steps.

    Args:
        count: checkpoints; ``train.average_checkpoints`` of a run says how many it keeps.
        own: the weights themselves where the run has a moving average of them too.

    Raises:
        InputError: ``folder`` is no run or has fewer checkpoints, ``out`` is a run itself, or a file
            cannot be read or written.
    """
    source, target = RunFolder(folder), RunFolder(out)
    if target.checkpoints.exists():
        raise InputError(f"{out}: holds a run of its own; name another folder with --out")
    there = list_checkpoints(source.checkpoints)
    if not 0 < count <= len(there):
        raise InputError(
            f"{source.checkpoints}: {len(there)} checkpoints, {count} asked for; "
            "train.average_checkpoints says how many a run keeps"
        )
    steps = list(there)[-count:]
    config, record = load_config([source.config], follow_base=False), read_json_object(source.run)
    weights = average_weights([there[step] for step in steps], own)
    tokenizer = load_tokenizer(source.tokenizer)
    check_tokenizer_folder(target)
    save_model(target.model, weights, config, tokenizer)
    forget_tokenizer(target)  # of an average that is replaced
    keep_setup(target, config, tokenizer)
    write_run(target, record | {"name": out.name, "averaged_steps": steps})
    return steps
