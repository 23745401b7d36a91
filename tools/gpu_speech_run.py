"""One training of gpu_speech.py: the features of all speech on the device, captured steps."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_speech import load_config, save_parts
from torch import Tensor

from asr.config import Config
from asr.data.augment import mask_features
from asr.model.recogniser import Recogniser, count_parameters
from asr.model.recogniser import ctc_loss as torch_ctc_loss
from asr.nn.features import estimate_norm
from asr.search.greedy import greedy
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import load_tokenizer
from asr.train.averaging import MovingAverage
from asr.train.objective import consistency
from asr.train.optimizer import build_optimizer
from asr.wer import ErrorCounts, count_errors

WARM_UP_STEPS = 300
CALIBRATION_STEPS = 60
NUM_BUCKETS = 8
SAVE_EVERY_S = 30.0


class Speech:
    """Every utterance at every speed: normalised features in half precision, tokens, lengths.

    feats_nf  (frames of all, mels); row r begins at start_r[r] and has frames_r[r] of them
    tokens_ru (rows, most tokens)
    """

    def __init__(self, folder: Path, net: Recogniser, config: Config, tokenizer: Any, device: Any):
        rows = json.loads((folder / "train.json").read_text())
        normalise = get_normaliser(config.tokenizer.normaliser)
        tokens = [tokenizer.encode(normalise(row["text"])) for row in rows]
        pieces, frames, use = [], [], []
        speeds = list(config.augment.speed_factors)
        # mean and variance come from the speech as it is
        speeds.sort(key=lambda speed: speed != 1.0)
        for place, speed in enumerate(speeds):
            found = list(features(folder, f"train-{speed:g}", net, device))
            if place == 0:
                net.norm.set_statistics(*estimate_norm(found))
            for feats_btf, lens_b in found:
                normal_btf = net.norm(feats_btf, lens_b)
                for feats_tf, length in zip(normal_btf, lens_b.tolist(), strict=True):
                    pieces.append(feats_tf[:length].half())
                    frames.append(length)
        for number, length in enumerate(frames):
            row = tokens[number % len(rows)]
            repeats = sum(a == b for a, b in itertools.pairwise(row))
            use.append(len(row) + repeats <= -(-length // 4) and len(row) > 0)
        self.num_utterances, self.num_speeds = len(rows), len(speeds)
        self.frames = np.array(frames)
        self.use = np.array(use)
        self.token_lens = np.array([len(row) for row in tokens] * len(speeds))
        self.feats_nf = torch.cat(pieces)
        self.frames_r = torch.tensor(frames, device=device)
        self.start_r = self.frames_r.cumsum(0) - self.frames_r
        most = max(map(len, tokens))
        padded = np.zeros((len(rows), most), dtype=np.int64)
        for out, row in zip(padded, tokens, strict=True):
            out[: len(row)] = row
        self.tokens_ru = torch.from_numpy(padded).to(device).repeat(len(speeds), 1)
        self.token_lens_r = torch.from_numpy(self.token_lens).to(device)


def features(folder: Path, name: str, net: Recogniser, device: Any) -> Iterator[Any]:
    """(feats_btf, lens_b) of a part, in order, some at a time."""
    samples = np.load(folder / f"{name}.npy", mmap_mode="r")
    lens = np.load(folder / f"{name}-lens.npy")
    ends = np.cumsum(lens)
    for first in range(0, len(lens), 64):
        some = lens[first : first + 64]
        wave_bn = np.zeros((len(some), int(some.max())), dtype=np.int16)
        for row, end, size in zip(wave_bn, ends[first : first + 64], some, strict=True):
            row[:size] = samples[end - size : end]
        wave = torch.from_numpy(wave_bn).to(device).float() / 32768
        with torch.no_grad():
            yield net.features(wave, torch.from_numpy(some).to(device))


class Bucket:
    """Batches of one shape: rows of at most `frames` frames, `size` of them, `tokens` tokens."""

    def __init__(self, frames: int, size: int, tokens: int, device: torch.device):
        self.frames, self.size, self.tokens = frames, size, tokens
        self.row_b = torch.zeros(size, dtype=torch.int64, device=device)
        self.graph: Any = None
        self.waiting: list[int] = []


def make_buckets(speech: Speech, batch_s: float, device: torch.device) -> list[Bucket]:
    """Lengths that hold about the same audio each, in multiples of 32 frames."""
    frames = np.sort(speech.frames[speech.use])
    share = np.cumsum(frames) / frames.sum()
    places = [int(np.searchsorted(share, (k + 1) / NUM_BUCKETS)) for k in range(NUM_BUCKETS)]
    edges = [frames[min(place, len(frames) - 1)] for place in places]
    edges = sorted({int(-(-edge // 32) * 32) for edge in edges})
    buckets, low = [], 0
    for edge in edges:
        inside = speech.use & (speech.frames > low) & (speech.frames <= edge)
        size = max(int(100 * batch_s / edge), 1)
        size = min(size, max(int(inside.sum()) // speech.num_speeds, 1))
        tokens = int(speech.token_lens[inside].max())
        buckets.append(Bucket(edge, size, tokens, device))
        low = edge
    return buckets


def batches(speech: Speech, buckets: list[Bucket], seed: int) -> Iterator[tuple[Bucket, list[int]]]:
    """For ever: each epoch every utterance once at a speed of its own; a batch whenever one is full."""
    rng = np.random.default_rng(seed)
    edges = np.array([bucket.frames for bucket in buckets])
    while True:
        speeds = rng.integers(speech.num_speeds, size=speech.num_utterances)
        rows = np.arange(speech.num_utterances) + speeds * speech.num_utterances
        ready = []
        for row in rng.permutation(rows[speech.use[rows]]).tolist():
            bucket = buckets[int(np.searchsorted(edges, speech.frames[row]))]
            bucket.waiting.append(row)
            if len(bucket.waiting) == bucket.size:
                ready.append((bucket, bucket.waiting))
                bucket.waiting = []
        # or those of short utterances would all come late
        for place in rng.permutation(len(ready)):
            yield ready[place]


class Training:
    """Model, optimiser and what a step does; nothing in a step asks the device."""

    def __init__(self, config: Config, net: Recogniser, speech: Speech, graphs: bool):
        self.config, self.net, self.speech, self.graphs = config, net, speech, graphs
        self.device = next(net.parameters()).device
        self.cuda = self.device.type == "cuda"
        self.ctc_loss = torch_ctc_loss
        if self.cuda and graphs:
            from ctc_kernel import ctc_loss

            self.ctc_loss = ctc_loss
        self.optimizer = build_optimizer(net, config.optimizer)
        self.lr = torch.zeros((), device=self.device)
        if self.cuda:
            for group in self.optimizer.param_groups:
                group["capturable"], group["lr"] = True, self.lr
        self.loss_sum = torch.zeros((), device=self.device)
        self.skipped = torch.zeros((), device=self.device)
        self.pool = torch.cuda.graph_pool_handle() if self.cuda else None
        self.average = MovingAverage(net, config.train.ema_decay)

    def loss(self, bucket: Bucket) -> Tensor:
        """Per token, of the rows in `bucket.row_b`."""
        speech, net, config = self.speech, self.net, self.config
        row_b = bucket.row_b
        lens_b = speech.frames_r[row_b]
        at_bt = torch.arange(bucket.frames, device=self.device).minimum(lens_b[:, None] - 1)
        feats_btf = speech.feats_nf[speech.start_r[row_b, None] + at_bt].float()
        inside = torch.arange(bucket.frames, device=self.device) < lens_b[:, None]
        feats_btf = feats_btf.masked_fill(~inside[..., None], 0.0)
        tokens_bu = speech.tokens_ru[row_b, : bucket.tokens]
        token_lens_b = speech.token_lens_r[row_b]
        views = 2 if config.train.cr_ctc else 1
        feats_btf, lens_2b = feats_btf.repeat(views, 1, 1), lens_b.repeat(views)
        masks = config.augment.num_freq_masks + config.augment.num_time_masks
        uniform = torch.rand(len(feats_btf), masks, 2, device=self.device)
        feats_btf = mask_features(feats_btf, lens_2b, uniform, config.augment)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            encoded, out_lens_b = net.encoder.outputs(feats_btf, lens_2b)
            log_probs_btv = net.log_probs(encoded[-1])
        loss_b = self.ctc_loss(
            log_probs_btv, out_lens_b, tokens_bu.repeat(views, 1), token_lens_b.repeat(views)
        )
        if views == 2:
            first_btv, second_btv = log_probs_btv.chunk(2)
            pulled_b = consistency(first_btv, second_btv, out_lens_b.chunk(2)[0])
            loss_b = loss_b.unflatten(0, (2, -1)).mean(0) + config.train.cr_ctc * pulled_b
        return loss_b.sum() / token_lens_b.sum()

    def compute(self, bucket: Bucket) -> None:
        """A whole step on the rows in `bucket.row_b`, at the rate in `self.lr`."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(bucket)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            self.net.parameters(), self.config.optimizer.clip_norm
        )
        finite = loss.detach().isfinite() & norm.isfinite()
        self.optimizer.found_inf = (~finite).float().reshape(())  # type: ignore[attr-defined]
        if not self.cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = float(self.lr)
        self.optimizer.step()
        self.loss_sum += torch.where(finite, loss.detach(), 0.0)
        self.skipped += (~finite).float()

    def prepare(self, buckets: list[Bucket], rows: dict[int, list[int]]) -> None:
        """Warm up and capture each shape, at rate 0 and then with the optimiser's state renewed."""
        self.lr.zero_()
        for bucket in buckets:
            bucket.row_b.copy_(torch.tensor(rows[bucket.frames]))
        if not self.cuda:
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for bucket in buckets:
                for _ in range(2):
                    self.compute(bucket)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        if self.graphs:
            for bucket in buckets:
                self.optimizer.zero_grad(set_to_none=True)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self.pool, stream=stream):
                    self.compute(bucket)
                bucket.graph = graph
            torch.cuda.synchronize()
        with torch.no_grad():
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        self.loss_sum.zero_()
        self.skipped.zero_()

    def step(self, number: int, bucket: Bucket, rows: list[int], lr: float) -> None:
        host = torch.tensor(rows)
        if self.cuda:
            host = host.pin_memory()
        bucket.row_b.copy_(host, non_blocking=True)
        self.lr.fill_(lr)
        if bucket.graph is not None:
            bucket.graph.replay()
        else:
            self.compute(bucket)
        self.average.update(number)


def meet(
    folder: Path, what: str, name: str, value: float, peers: int, wait_s: float
) -> list[float]:
    """This process' number and those of its peers, as many as come in time."""
    (folder / f"{what}-{name}.tmp").write_text(repr(value))
    (folder / f"{what}-{name}.tmp").rename(folder / f"{what}-{name}")
    until_s = time.time() + wait_s
    while True:
        found = [p for p in folder.glob(f"{what}-*") if p.suffix != ".tmp"]
        if len(found) >= peers or time.time() > until_s:
            return [float(path.read_text()) for path in found]
        time.sleep(0.02)


def rate(config: Config, step: int, progress: float) -> float:
    """Linear warm-up over a fixed number of steps, then a cosine of the share of the training done."""
    shape = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.optimizer.lr * min((step + 1) / WARM_UP_STEPS, 1.0) * shape


@torch.no_grad()
def dev_wer(folder: Path, net: Recogniser, tokenizer: Any, config: Config) -> float:
    """Greedy word error rate of the dev part."""
    net.eval()
    device = next(net.parameters()).device
    normalise = get_normaliser(config.tokenizer.normaliser)
    rows = json.loads((folder / "dev.json").read_text())
    texts = iter([normalise(row["text"]) for row in rows])
    errors = ErrorCounts()
    for feats_btf, lens_b in features(folder, "dev-1", net, device):
        with torch.compiler.set_stance("force_eager"):
            encoded_btd, out_lens_b = net.encoder(net.norm(feats_btf, lens_b), lens_b)
        for best in greedy(net.log_probs(encoded_btd).cpu(), out_lens_b.cpu()):
            errors += count_errors(next(texts).split(), tokenizer.decode(best.tokens).split())
    net.train()
    return errors.wer


def run(args: argparse.Namespace) -> None:
    begun_s = time.time()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config(args.weighting, args.set)
    tokenizer = load_tokenizer(args.packed)
    torch.manual_seed(config.train.seed)
    net = Recogniser(config, tokenizer.vocab_size).to(device).train()
    log: dict[str, Any] = {"weighting": args.weighting, "set": args.set, "train": []}
    log |= {"parameters": count_parameters(net), "backend": net.attention_backend()}

    def tell(text: str) -> None:
        print(f"{args.weighting:8s} {time.time() - begun_s:6.1f} s  {text}", flush=True)

    speech = Speech(args.samples, net, config, tokenizer, device)
    buckets = make_buckets(speech, args.batch_s, device)
    tell(f"{len(speech.feats_nf) / 360000:.1f} h of features; batches "
         f"{[(b.frames, b.size, b.tokens) for b in buckets]}")  # fmt: skip
    if device.type == "cuda" and not args.eager:
        for layer in net.encoder.layers:
            layer.compile(dynamic=True)
    training = Training(config, net, speech, graphs=not args.no_graphs)
    stream = batches(speech, buckets, config.train.seed)
    rows: dict[int, list[int]] = {}
    for bucket in buckets:
        low = max([b.frames for b in buckets if b.frames < bucket.frames], default=0)
        inside = speech.use & (speech.frames > low) & (speech.frames <= bucket.frames)
        rows[bucket.frames] = np.resize(np.flatnonzero(inside), bucket.size).tolist()
    training.prepare(buckets, rows)
    tell("ready")
    meet(args.samples, "ready", args.weighting, 0.0, args.peers, 60.0)
    follow(args, config, training, stream, log, tell)
    if training.average.values:
        with training.average.in_place():
            finish(args, net, tokenizer, config, log, tell)
    else:
        finish(args, net, tokenizer, config, log, tell)


def follow(
    args: argparse.Namespace, config: Config, training: Training, stream: Any, log: Any, tell: Any
) -> None:
    """All steps: as many as asked for, or as the slowest of the processes can do in the time."""
    started_s = saved_s = time.time()
    until_s = args.until - 6.0  # saving, dev
    # a first guess, until the speed of all is known
    total, step, told, audio = args.steps or 10**9, 0, 0, 0
    mark_s = marked = 0.0
    while step < total:
        bucket, rows = next(stream)
        elapsed = (time.time() - started_s) / max(until_s - started_s, 1.0)
        if elapsed > 1.0:
            break
        progress = elapsed if total == 10**9 else max(step / total, elapsed)
        training.step(step + 1, bucket, rows, rate(config, step, progress))
        step += 1
        audio += int(training.speech.frames[rows].sum())
        if not args.steps and step in (CALIBRATION_STEPS // 3, CALIBRATION_STEPS):
            if device_is_cuda(training):
                torch.cuda.synchronize()
            if step == CALIBRATION_STEPS:
                speed = (step - marked) / (time.time() - mark_s)
                speeds = meet(args.samples, "speed", args.weighting, speed, args.peers, 10.0)
                total = int(0.96 * min(speeds) * (until_s - time.time())) + step
                tell(f"{speeds} steps/s: {total} steps")
                log["steps_per_s"], log["planned"] = speed, total
            mark_s, marked = time.time(), step
        if step % 20 == 0 and device_is_cuda(training):
            torch.cuda.synchronize()  # the host must not run ahead of the time
        if step - told >= 100 or step == total:
            mean = float(training.loss_sum) / (step - told)
            training.loss_sum.zero_()
            told = step
            epoch = (
                audio
                / 100
                / 3600
                / (len(training.speech.feats_nf) / 360000 / training.speech.num_speeds)
            )
            log["train"].append([step, time.time() - started_s, epoch, mean])
            tell(f"step {step:5d} of {total}, epoch {epoch:5.1f}, loss {mean:.4f}")
        if time.time() - saved_s > SAVE_EVERY_S:
            saved_s = time.time()
            keep(args, training, log, step, audio)
    if device_is_cuda(training):
        torch.cuda.synchronize()
    log["seconds"] = time.time() - started_s
    log["skipped"] = float(training.skipped)
    keep(args, training, log, step, audio)


def device_is_cuda(training: Training) -> bool:
    return training.cuda


def keep(args: argparse.Namespace, training: Training, log: Any, step: int, audio: int) -> None:
    """The averaged weights and the log so far."""
    log |= {"steps": step, "audio_h": audio / 360000}
    weights = dict(training.net.state_dict())
    weights |= training.average.values
    save_parts(args.out / args.weighting, weights)
    (args.out / args.weighting / "log.json").write_text(json.dumps(log) + "\n")


def finish(args: Any, net: Recogniser, tokenizer: Any, config: Config, log: Any, tell: Any) -> None:
    """The word error rate, for a first look."""
    log["dev_wer"] = dev_wer(args.samples, net, tokenizer, config)
    (args.out / args.weighting / "log.json").write_text(json.dumps(log) + "\n")
    tell(
        f"{log['steps']} steps, dev WER {100 * log['dev_wer']:.2f} %, skipped {log['skipped']:.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("samples", "packed", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--weighting", required=True)
    parser.add_argument("--until", type=float, required=True, help="seconds since the epoch")
    parser.add_argument("--batch-s", type=float, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--peers", type=int, required=True)
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--no_graphs", action="store_true")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
