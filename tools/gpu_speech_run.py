"""The trainings of gpu_speech.py: models and captured steps."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from gpu_speech import load_config, save_parts
from gpu_speech_data import Batches, Bucket, Speech, Texts, features
from torch import Tensor, nn

from asr.config import Config, CtcConfig
from asr.data.augment import mask_features
from asr.heads.base import Head
from asr.heads.ctc import Ctc
from asr.model.recogniser import Recogniser, count_parameters
from asr.provenance import commit
from asr.search.greedy import greedy
from asr.text.normalise import get_normaliser
from asr.train.averaging import MovingAverage
from asr.train.optimizer import build_optimizer
from asr.wer import ErrorCounts, count_errors

CHARACTER_WEIGHT = 0.5  # of the middle layer's loss
LAST_S = 8.0  # of all seconds, for the last weights and a look at the dev part
SAVE_EVERY_S = 30.0

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(log_probs_btv, lens_b, tokens_bu, token_lens_b) -> (b)."""


class Training:
    """Model, optimiser and what a step does; nothing in a step asks the device."""

    def __init__(self, args: argparse.Namespace, weighting: str, speech: Speech):
        self.device = speech.frames_r.device
        self.cuda = self.device.type == "cuda"
        self.config = load_config(weighting, args.set)
        self.speech, self.weighting = speech, weighting
        self.character_layer = args.character_layer
        torch.manual_seed(self.config.train.seed)
        self.net = Recogniser(self.config, speech.units.tokenizer.vocab_size)
        self.net = self.net.to(self.device).train()
        self.net.norm.load_state_dict(speech.norm)
        with self.device:
            characters = Ctc(
                CtcConfig(), self.config.encoder.dim, speech.characters.tokenizer.vocab_size
            )
        self.trained = nn.ModuleDict({"net": self.net, "characters": characters})
        self.ctc_loss: Loss = self.net.head("ctc").loss_of_frames
        if self.cuda and not args.no_graphs:
            from ctc_kernel import ctc_loss

            self.ctc_loss = ctc_loss
        self.optimizer = build_optimizer(self.trained, self.config.optimizer)
        self.lr = torch.zeros((), device=self.device)
        if self.cuda:
            for group in self.optimizer.param_groups:
                group["capturable"], group["lr"] = True, self.lr
        self.loss_sums = torch.zeros(2, device=self.device)  # per unit, per character
        self.skipped = torch.zeros((), device=self.device)
        self.stream = torch.cuda.Stream() if self.cuda else None
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        self.graphs: dict[Bucket, Any] = {}
        self.average = MovingAverage(self.net, self.config.train.ema_decay)

    def loss(self, bucket: Bucket) -> Tensor:
        """Per unit, of the rows in `bucket.row_b`."""
        speech, net, augment = self.speech, self.net, self.config.augment
        row_b = bucket.row_b
        lens_b = speech.frames_r[row_b]
        frame_t = torch.arange(bucket.frames, device=self.device)
        at_bt = frame_t.minimum(lens_b[:, None] - 1)
        feats_btf = speech.feats_nf[speech.start_r[row_b, None] + at_bt].float()
        feats_btf = feats_btf.masked_fill((frame_t >= lens_b[:, None])[..., None], 0.0)
        if bucket.masked:
            masks = augment.num_freq_masks + augment.num_time_masks
            uniform = torch.rand(len(feats_btf), masks, 2, device=self.device)
            feats_btf = mask_features(feats_btf, lens_b, uniform, augment)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            encoded, out_lens_b = net.encoder.outputs(
                feats_btf, lens_b, after=(self.character_layer,)
            )
            # the last layer learns characters too while utterances are short
            last = encoded[1]
            characters = cast(Head, self.trained["characters"])
            last_btv = (net.head("ctc") if bucket.masked else characters).frames(last)
            middle_btv = characters.frames(encoded[0])
        texts = speech.units if bucket.masked else speech.characters
        loss_b = self.text_loss(last_btv, out_lens_b, texts, bucket)
        middle_loss_b = self.text_loss(middle_btv, out_lens_b, speech.characters, bucket)
        mixed_b = torch.lerp(loss_b, middle_loss_b, CHARACTER_WEIGHT)
        for place, (losses_b, there) in enumerate(
            ((loss_b, texts), (middle_loss_b, speech.characters))
        ):
            self.loss_sums[place] += losses_b.detach().sum() / there.lens_r[row_b].sum()
        return mixed_b.sum() / texts.lens_r[row_b].sum()

    def text_loss(
        self, log_probs_btv: Tensor, lens_b: Tensor, texts: Texts, bucket: Bucket
    ) -> Tensor:
        """(b) the CTC loss of the bucket's rows."""
        tokens_bu = texts.tokens_ru[bucket.row_b, : bucket.most[texts]]
        return self.ctc_loss(log_probs_btv, lens_b, tokens_bu, texts.lens_r[bucket.row_b])

    def compute(self, bucket: Bucket) -> None:
        """A whole step on the rows in `bucket.row_b`, at the rate in `self.lr`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(bucket)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.optimizer.clip_norm)
        finite = loss.detach().isfinite() & norm.isfinite()
        self.optimizer.found_inf = (~finite).float().reshape(())  # type: ignore[attr-defined]
        if not self.cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = float(self.lr)
        self.optimizer.step()
        self.skipped += (~finite).float()

    def prepare(self, buckets: list[Bucket], graphs: bool) -> None:
        """Warm up and capture each shape, at rate 0 and then with the optimiser's state renewed."""
        if self.stream is None:
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for bucket in buckets:
                for _ in range(2):
                    self.compute(bucket)
        torch.cuda.synchronize()
        for bucket in buckets if graphs else ():
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self.compute(bucket)
            self.graphs[bucket] = graph
        with torch.no_grad():
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        self.loss_sums.zero_()
        self.skipped.zero_()
        torch.cuda.synchronize()

    def step(self, number: int, bucket: Bucket, lr: float) -> None:
        with torch.cuda.stream(self.stream):  # None: does nothing
            self.lr.fill_(lr)
            if bucket in self.graphs:
                self.graphs[bucket].replay()
            else:
                self.compute(bucket)
            self.average.update(number)


def rate(args: argparse.Namespace, peak: float, share: float) -> float:
    """Half the rate while utterances are short, the whole soon after, then a cosine to a hundredth."""
    if share < args.short_share:
        return peak * min(0.5, 0.005 + 12 * share)
    later = (share - args.short_share) / (1 - args.short_share)
    return peak * min(
        0.5 + 12 * later, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(later, 1.0)))
    )


@torch.no_grad()
def dev_wer(folder: Path, net: Recogniser, tokenizer: Any, config: Config) -> float:
    """Greedy word error rate of the dev part."""
    net.eval()
    device = net.device
    normalise = get_normaliser(config.tokenizer.normaliser)
    rows = json.loads((folder / "dev.json").read_text())
    texts = iter([normalise(row["text"]) for row in rows])
    errors = ErrorCounts()
    for feats_btf, lens_b in features(folder, "dev-1", net, device):
        with torch.compiler.set_stance("force_eager"):
            encoded_btd, out_lens_b = net.encoder(net.norm(feats_btf, lens_b), lens_b)
        for best in greedy(net.head("ctc").frames(encoded_btd).cpu(), out_lens_b.cpu()):
            errors += count_errors(next(texts).split(), tokenizer.decode(best.tokens).split())
    net.train()
    return errors.wer


def run(args: argparse.Namespace, begun_s: float) -> None:
    """All of it: features, graphs, steps, weights, a first look at the dev part."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch._dynamo.config.recompile_limit = 64

    def tell(text: str) -> None:
        print(f"{time.time() - begun_s:6.1f} s  {text}", flush=True)

    speech = Speech(args, load_config(args.weightings[0], args.set), device)
    short = Batches(speech, args.short_batch_s, True, seed=1)
    whole = Batches(speech, args.batch_s, False, seed=2)
    buckets = [*short.buckets, *whole.buckets]
    shapes = [(b.frames, b.size, *b.most.values()) for b in buckets]
    left_out = 1 - speech.use.mean()
    tell(f"{len(speech.feats_nf) / 360000:.1f} h of features, {left_out:.2%} do not fit; {shapes}")
    trainings = [Training(args, weighting, speech) for weighting in args.weightings]
    for training in trainings:
        if device.type == "cuda" and not args.eager:
            training.loss(buckets[0])  # chooses the kernels, once, or the layers compile twice
            for layer in training.net.encoder.layers:
                layer.compile(dynamic=True)
        training.prepare(buckets, not args.no_graphs)
        tell(f"{training.weighting} is ready, {count_parameters(training.net)} parameters")
    log = Log(args, speech, trainings, tell)
    follow(args, trainings, short, whole, log, begun_s)
    for training in trainings:
        with training.average.in_place():
            wer = dev_wer(args.samples, training.net, speech.units.tokenizer, training.config)
        log.finish(training, wer)


class Log:
    """What is kept of the trainings: weights and a log in a folder each."""

    def __init__(
        self,
        args: argparse.Namespace,
        speech: Speech,
        trainings: list[Training],
        tell: Callable[[str], None],
    ):
        self._args, self._trainings, self._tell = args, trainings, tell
        self._told, self._started_s = 0, time.time()
        revision, dirty = commit()
        self._entries: dict[str, dict[str, Any]] = {
            training.weighting: {
                "weighting": training.weighting,
                "set": args.set,
                "commit": revision,
                "dirty": dirty,
                "command": shlex.join(["python", *sys.argv]),
                "options": {n: v for n, v in vars(args).items() if isinstance(v, (int, float))},
                "parameters": count_parameters(training.net),
                "backend": training.net.attention_backend(),
                "hours": float(speech.frames[: speech.num_utterances].sum() / 360000),
                "train": [],
            }
            for training in trainings
        }

    def add(self, step: int, share: float, lr: float, audio_h: float) -> None:
        """Mean losses since the last time: the last layer's per unit (while utterances are short: per
        character), the middle layer's per character."""
        losses = []
        for training in self._trainings:
            means = (training.loss_sums / (step - self._told)).tolist()
            training.loss_sums.zero_()
            losses.append(f"{training.weighting} {means[0]:.4f} {means[1]:.4f}")
            entry = self._entries[training.weighting]
            seconds = time.time() - self._started_s
            entry["train"].append([step, round(seconds, 2), audio_h, *means])
            entry |= {"steps": step, "audio_h": audio_h, "seconds": seconds}
            entry["skipped"] = float(training.skipped)
        self._told = step
        self._tell(
            f"step {step:6d} {share:6.1%} rate {lr:.1e}, {audio_h:6.1f} h of audio, "
            f"losses {'  '.join(losses)}"
        )

    def keep(self) -> None:
        """The averaged weights and the log so far."""
        for training in self._trainings:
            folder = self._args.out / training.weighting
            save_parts(folder, {**training.net.state_dict(), **training.average.values})
            (folder / "log.json").write_text(json.dumps(self._entries[training.weighting]) + "\n")

    def finish(self, training: Training, wer: float) -> None:
        entry = self._entries[training.weighting]
        entry["dev_wer"] = wer
        (self._args.out / training.weighting / "log.json").write_text(json.dumps(entry) + "\n")
        self._tell(
            f"{training.weighting}: {entry['steps']} steps, {entry['skipped']:.0f} skipped, "
            f"WER of the dev part {wer:.2%}"
        )


def follow(
    args: argparse.Namespace,
    trainings: list[Training],
    short: Batches,
    whole: Batches,
    log: Log,
    begun_s: float,
) -> None:
    """All steps: as many as asked for, or as the time allows."""
    started_s = saved_s = time.time()
    last_s = begun_s + args.seconds - LAST_S
    streams = {True: iter(short), False: iter(whole)}
    cuda = trainings[0].cuda
    peak = trainings[0].config.optimizer.lr
    step, audio_h, share = 0, 0.0, 0.0
    while share < 1.0:
        bucket, rows = next(streams[share < args.short_share])
        host = torch.tensor(rows)
        if cuda:
            for training in trainings:  # they may still read the rows before
                torch.cuda.current_stream().wait_stream(cast(torch.cuda.Stream, training.stream))
            host = host.pin_memory()
        bucket.row_b.copy_(host, non_blocking=True)
        lr = rate(args, peak, share)
        step += 1
        for training in trainings:
            if training.stream is not None:
                training.stream.wait_stream(torch.cuda.current_stream())
            training.step(step, bucket, lr)
        audio_h += float(whole.speech.frames[rows].sum()) / 360000
        used = step / args.steps if args.steps else 0.0
        share = max(used, (time.time() - started_s) / (last_s - started_s))
        if step % 20 and share < 1.0:
            continue
        if cuda:
            torch.cuda.synchronize()  # the host must not run ahead of the time
        if step % 200 == 0 or share >= 1.0:
            log.add(step, share, lr, audio_h)
        if time.time() - saved_s > SAVE_EVERY_S or share >= 1.0:
            saved_s = time.time()
            log.keep()
