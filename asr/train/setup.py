"""Parts of a run: data, tokenizer, model, and the folder it writes to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asr import config as configuration
from asr.config import Config, DataConfig
from asr.data.batches import DurationBatches, check_durations, sorted_batches
from asr.data.dataset import TrainingUtterances, Utterances
from asr.data.loader import Loader
from asr.data.store.index import CutTable, open_cuts
from asr.errors import InputError, warn
from asr.files import write_atomically
from asr.model.folder import new_folder
from asr.model.recogniser import Recogniser, count_parameters
from asr.nn.features.norm import GlobalNorm, estimate_norm
from asr.processes import Processes
from asr.run_folder import RunFolder
from asr.text.coverage import check_training_texts, warn_of_references
from asr.text.normalise import Normaliser, get_normaliser
from asr.text.tokenizer import (
    CHAR_FILE,
    SPM_FILE,
    TextProcessor,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)
from asr.train.initialise import Start, keeps_tokenizer, take_weights

NORM_UTTERANCES = 500
# Texts whose characters are counted: an estimate where a part has more, of which they are a tenth of
# a second for each 10,000.
COVERAGE_UTTERANCES = 20_000


@dataclass(frozen=True)
class Setup:
    """Parts that a run needs before its first step."""

    net: Recogniser
    tokenizer: Tokenizer
    train: TrainingUtterances
    dev: Utterances
    plain: Utterances
    """Evenly spaced training utterances without augmentation: what mean and variance come from."""
    batches: DurationBatches
    initialised: str
    """What was taken from another model; empty: nothing."""
    data: dict[str, dict[str, Any]]
    """What the manifests of each option hold: number of utterances, fingerprint."""


def check_tokenizer_folder(exp: RunFolder) -> None:
    """Check that nothing but a tokenizer lies where a run has its own.

    Raises:
        InputError: something else does.
    """
    if not exp.tokenizer.is_dir():
        return
    names = {path.name for path in exp.tokenizer.iterdir()}
    if foreign := sorted(names - {SPM_FILE, CHAR_FILE}):
        raise InputError(
            f"{exp.tokenizer}: holds {foreign[0]!r}, which no run wrote; name another folder"
        )


def forget_tokenizer(exp: RunFolder) -> None:
    """Remove a tokenizer that lies in a folder without the configuration it was learnt for.

    Raises:
        InputError: there is something else in its folder; nothing is removed.
    """
    check_tokenizer_folder(exp)
    shutil.rmtree(exp.tokenizer, ignore_errors=True)


def keep_setup(exp: RunFolder, config: Config, tokenizer: Tokenizer) -> None:
    """Make EXP this run's own, now that everything in it is known to fit."""
    if not exp.tokenizer.is_dir():
        with new_folder(exp.tokenizer) as unfinished:
            tokenizer.save(unfinished)
    write_atomically(exp.config, configuration.dump(config))


def prepare(
    config: Config, exp: RunFolder, device: torch.device, start: Start | None, new_tokenizer: bool
) -> Setup:
    """Read the manifests, train or read the tokenizer, build the model on its device.

    Args:
        start: a model whose weights, and where it is of the kind asked for its tokenizer, are taken.
        new_tokenizer: learn one even so.

    Raises:
        InputError: a manifest is missing, nothing in it can be trained on, or ``start`` does not fit.
    """
    train_cuts = _open_all(config.data.train, "data.train", config.data)
    dev_cuts = _open_all(config.data.dev, "data.dev", config.data)
    for key, cuts in (("data.train", train_cuts), ("data.dev", dev_cuts)):
        _warn_of_repeated(key, cuts)
    data = _contents(config, {"data.train": train_cuts, "data.dev": dev_cuts})
    num_validated = min(config.train.max_validate_utterances or len(dev_cuts), len(dev_cuts))
    dev_cuts = dev_cuts.select(np.arange(num_validated))
    normalise = get_normaliser(config.tokenizer.normaliser)
    tokenizer = _tokenizer(config, exp, start, new_tokenizer, train_cuts, normalise)
    dev_texts = list(_spaced_texts(dev_cuts, normalise))
    if not any(text.split() for text in dev_texts):
        raise InputError(f"data.dev = {config.data.dev}: no words in its texts to validate with")
    warn_of_references(dev_texts, tokenizer, "data.dev")
    torch.manual_seed(config.train.seed)
    net = Recogniser(config, tokenizer.vocab_size)
    initialised = "" if start is None else take_weights(net, start, tokenizer)
    net.to(device, torch.float64 if config.train.precision == "fp64" else torch.float32)

    def read(cuts: CutTable) -> Utterances:
        processor = TextProcessor(normalise, tokenizer)
        return Utterances(cuts, processor, config.features.sample_rate)

    seed = config.train.seed
    train = TrainingUtterances(
        read(train_cuts),
        config.data,
        config.augment,
        seed,
        net.num_output_frames,
        {name: net.head(name).frames_needed for name in net.heads},
    )
    dev = read(dev_cuts)
    _check_lengths(net, train, dev)
    balance_s = config.train.attention_balance_s
    check_durations(train.longest_durations_s, config.train.max_batch_s, train.ids, balance_s)
    stride = max(len(train_cuts) // NORM_UTTERANCES, 1)
    plain = read(train_cuts.select(np.arange(0, len(train_cuts), stride)))
    batches = DurationBatches(
        train.durations_s,
        config.train.max_batch_s,
        seed,
        config.train.global_batch_s,
        train.ids,
        balance_s,
        train.mixture(config.data.train_weights),
    )
    return Setup(net, tokenizer, train, dev, plain, batches, initialised, data)


def _check_lengths(net: Recogniser, train: TrainingUtterances, dev: Utterances) -> None:
    """
    Raises:
        InputError: an utterance or a transcript that is longer than learned positions reach.
    """
    longest_s = float(max(train.longest_durations_s.max(), dev.durations_s.max()))
    frames = net.num_output_frames(int(longest_s * train.sample_rate))
    most = net.encoder.max_frames
    if most is not None and frames > most:
        raise InputError(
            f"attention.num_positions = {most}: the longest utterance, of {longest_s:.1f} s as it may "
            f"be played, has {frames} frames; raise it, or leave long ones out (data.max_duration_s)"
        )
    for name, head in ((name, net.head(name)) for name in net.heads):
        for part in (train, dev) if head.max_tokens is not None else ():
            counts = part.cuts.frames_needed(name, head.frames_needed, part.processor)
            at = int(counts.argmax())
            if counts[at] > head.max_tokens:
                raise InputError(
                    f"{part.ids[at]}: its transcript has {counts[at]} tokens, and the {name} head takes "
                    f"{head.max_tokens}: raise decoder.num_positions, or leave it out"
                )


def _warn_of_repeated(key: str, cuts: CutTable) -> None:
    """Issue an ``InputWarning`` where manifests have utterances in common."""
    order = np.argsort(cuts.keys, kind="stable")
    again = order[1:][cuts.keys[order[1:]] == cuts.keys[order[:-1]]]
    if len(again):
        warn(
            f"{key}: {len(again)} utterances are in it more than once, as {cuts[again[0]].id}: "
            "they count as often"
        )


def _contents(config: Config, opened: dict[str, CutTable]) -> dict[str, dict[str, Any]]:
    """Return the content of the data by option, for ``run.json``: a resumed run must find it again."""
    found = {}
    for key, paths, item in configuration.walk(config):
        if item.metadata["on_resume"] == configuration.CONTENT and paths:
            cuts = opened.get(key) or open_cuts(paths, config.data.index_folder)
            found[key] = {"num_utterances": len(cuts), "fingerprint": cuts.fingerprint()}
    return found


def _tokenizer(
    config: Config,
    exp: RunFolder,
    start: Start | None,
    new_tokenizer: bool,
    train_cuts: CutTable,
    normalise: Normaliser,
) -> Tokenizer:
    """The run's own, the start's, or one learnt from the training texts.

    Raises:
        InputError: one that is there already cannot write the training texts.
    """
    if exp.tokenizer.is_dir():
        tokenizer = load_tokenizer(exp.tokenizer)
    elif start is not None and keeps_tokenizer(start, config) and not new_tokenizer:
        tokenizer = start.tokenizer
    else:
        texts = [normalise(train_cuts.text(index)) for index in range(len(train_cuts))]
        return train_tokenizer(texts, config.tokenizer)
    advice = "--new-tokenizer learns another with --init-from, and the head is new"
    check_training_texts(_spaced_texts(train_cuts, normalise), tokenizer, "data.train", advice)
    return tokenizer


def _spaced_texts(cuts: CutTable, normalise: Normaliser) -> Iterator[str]:
    stride = max(len(cuts) // COVERAGE_UTTERANCES, 1)
    return (normalise(cuts.text(index)) for index in range(0, len(cuts), stride))


def _open_all(paths: list[str], key: str, data: DataConfig) -> CutTable:
    if not paths:
        raise InputError(f"{key} = []: name at least one manifest, {key}=[FILE.cuts.jsonl.gz]")
    return open_cuts(paths, data.index_folder)


def set_norm(setup: Setup, config: Config, processes: Processes) -> None:
    """Estimate the global mean and variance of the features where their norm has any, once for all
    processes."""
    norm, device = setup.net.norm, processes.device
    if not isinstance(norm, GlobalNorm):
        return
    plan = sorted_batches(setup.plain.durations_s, config.train.max_batch_s)

    def features() -> Iterator[tuple[Tensor, Tensor]]:
        # What cannot be read costs no more here than in training.
        data = config.data
        loader = Loader(setup.plain, data.num_workers, max_unreadable=data.max_unreadable)
        loaded = loader.epoch(0, plan)
        for batch in tqdm(
            loaded, total=len(plan), desc="mean and variance", leave=False, disable=None
        ):
            if len(batch) > 0:
                yield setup.net.features(batch.wave_bn.to(device), batch.wave_lens_b.to(device))

    if processes.first:
        norm.set_statistics(*estimate_norm(features()))
    for buffer in norm.buffers():
        processes.broadcast_(buffer)


def _summary(utterances: Utterances) -> str:
    hours = float(utterances.durations_s.sum()) / 3600
    return f"{len(utterances)} utterances, {hours:.2f} h, {utterances.num_speakers} speakers"


def describe(
    setup: Setup, config: Config, precision: str, engine: str, processes: Processes
) -> list[str]:
    """List the effective settings, for the reader of the log."""
    attention, augment, train = config.attention, config.augment, config.train
    masks = (
        f"SpecAugment {augment.num_freq_masks} x {augment.max_freq_mask} mel bins, up to "
        f"{augment.num_time_masks} x {augment.time_mask_fraction:g} of the length"
    )
    lines = [
        f"model       {config.encoder.kind}, {count_parameters(setup.net):,} parameters",
        f"attention   {attention.weighting} + {attention.position}, "
        f"backend {setup.net.attention_backend()}",
        f"device      {processes.device}, {precision}, {torch.get_num_threads()} threads; "
        f"{processes.size} processes, {engine}",
        f"text        {setup.tokenizer.kind}, {setup.tokenizer.vocab_size} units, "
        f"normaliser {config.tokenizer.normaliser}",
        f"train       {_summary(setup.train)}, {setup.train.sieve.describe()}",
        f"dev         {_summary(setup.dev)}",
        f"batches     {setup.batches.num_steps} steps an epoch of about {train.global_batch_s:g} s, "
        f"computed in {train.max_batch_s:g} s at most, {100 * setup.batches.waste:.1f} % padding",
        f"augment     speeds {augment.speed_factors}; {masks}; "
        f"{len(augment.rooms)} manifests of rooms, {len(augment.noises)} of noises; "
        f"silence up to {augment.edge_silence_s:g} s, hiss {augment.hiss_db or 'none'}",
        f"optimiser   AdamW, peak lr {config.optimizer.lr:g}, {config.optimizer.schedule}, "
        f"{train.epochs} epochs = {train.epochs * setup.batches.num_steps} steps, seed {train.seed}",
    ]
    return [*lines, *([setup.initialised] if setup.initialised else [])]
