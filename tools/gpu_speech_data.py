"""The speech of gpu_speech.py: features of every utterance at every speed on the device, and batches."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gpu_speech import CHARACTERS
from torch import Tensor

from asr.config import Config
from asr.model.recogniser import Recogniser
from asr.nn.features.norm import GlobalNorm, estimate_norm
from asr.nn.subsampling import subsampled
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import load_tokenizer

SHORT_S = 7.0  # utterances of the beginning
NUM_BUCKETS = {True: 2, False: 5}  # by whether utterances are short


class Texts:
    """Token sequences of every row in one tokenizer: (rows, most) and their lengths."""

    def __init__(self, folder: Path, texts: list[str], num_speeds: int, device: torch.device):
        self.tokenizer = load_tokenizer(folder)
        tokens = [self.tokenizer.encode(text) for text in texts]
        self.lens = np.array([len(row) for row in tokens] * num_speeds)
        repeats = [sum(a == b for a, b in itertools.pairwise(row)) for row in tokens]
        self.least_frames = self.lens + np.array(repeats * num_speeds)
        padded = np.zeros((len(tokens), max(map(len, tokens))), dtype=np.int64)
        for out, row in zip(padded, tokens, strict=True):
            out[: len(row)] = row
        self.tokens_ru = torch.from_numpy(padded).to(device).repeat(num_speeds, 1)
        self.lens_r = torch.from_numpy(self.lens).to(device)


class Speech:
    """Every utterance at every speed: normalised features in half precision, texts, lengths.

    feats_nf  (frames of all, mels); row r begins at start_r[r] and has frames_r[r] of them
    """

    def __init__(self, args: argparse.Namespace, config: Config, device: torch.device):
        rows = json.loads((args.samples / "train.json").read_text())
        normalise = get_normaliser(config.tokenizer.normaliser)
        texts = [normalise(row["text"]) for row in rows]
        # mean and variance come from the speech as it is
        speeds = sorted(config.augment.speed_factors, key=lambda speed: speed != 1.0)
        self.units = Texts(args.packed, texts, len(speeds), device)
        self.characters = Texts(args.packed / CHARACTERS, texts, len(speeds), device)
        net = Recogniser(config, self.units.tokenizer.vocab_size).to(device)
        pieces: list[Tensor] = []
        frames: list[int] = []
        for speed in speeds:
            found = list(features(args.samples, f"train-{speed:g}", net, device))
            if not pieces:
                assert isinstance(net.norm, GlobalNorm)
                net.norm.set_statistics(*estimate_norm(found))
            for feats_btf, lens_b in found:
                normal_btf = net.norm(feats_btf, lens_b)
                for feats_tf, length in zip(normal_btf, lens_b.tolist(), strict=True):
                    pieces.append(feats_tf[:length].half())
                    frames.append(length)
        self.norm = {name: value.clone() for name, value in net.norm.state_dict().items()}
        self.num_utterances, self.num_speeds = len(rows), len(speeds)
        self.frames = np.array(frames)
        room = subsampled(torch.tensor(frames), config.encoder.subsampling).numpy()
        self.use = (self.units.lens > 0) & (
            np.maximum(self.units.least_frames, self.characters.least_frames) <= room
        )
        self.feats_nf = torch.cat(pieces)
        self.frames_r = torch.tensor(frames, device=device)
        self.start_r = self.frames_r.cumsum(0) - self.frames_r


def features(
    folder: Path, name: str, net: Recogniser, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
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
    """Batches of one shape: `size` rows of at most `frames` frames, masked or not."""

    def __init__(self, frames: int, rows: np.ndarray, size: int, masked: bool, speech: Speech):
        self.frames, self.size, self.masked = frames, size, masked
        self.most = {
            texts: int(texts.lens[rows].max()) for texts in (speech.units, speech.characters)
        }
        self.row_b = torch.from_numpy(np.resize(rows, size)).to(speech.frames_r.device)
        self.waiting: list[int] = []


class Batches:
    """Batches of rows of about the same length: each epoch every utterance once, at a speed of its
    own. Lengths that hold about the same audio each, in multiples of 64 frames: 16 of the encoder."""

    def __init__(self, speech: Speech, batch_s: float, short: bool, seed: int):
        self.speech, self.rng = speech, np.random.default_rng(seed)
        self.use = speech.use & (speech.frames <= (100 * SHORT_S if short else np.inf))
        frames = np.sort(speech.frames[self.use])
        share = np.cumsum(frames) / frames.sum()
        number = NUM_BUCKETS[short]
        places = [int(np.searchsorted(share, (k + 1) / number)) for k in range(number)]
        edges = [frames[min(place, len(frames) - 1)] for place in places]
        self.buckets: list[Bucket] = []
        low = 0
        for edge in sorted({int(-(-edge // 64) * 64) for edge in edges}):
            rows = np.flatnonzero(self.use & (speech.frames > low) & (speech.frames <= edge))
            size = max(int(100 * batch_s / edge), 1)
            self.buckets.append(Bucket(edge, rows, size, not short, speech))
            low = edge
        self.frames_an_epoch = self.speech.frames[self.use].sum() / speech.num_speeds

    def __iter__(self) -> Iterator[tuple[Bucket, list[int]]]:
        """Yield batches for ever, each as soon as it is full."""
        edges = np.array([bucket.frames for bucket in self.buckets])
        number = self.speech.num_utterances
        while True:
            rows = np.arange(number) + number * self.rng.integers(
                self.speech.num_speeds, size=number
            )
            ready = []
            for row in self.rng.permutation(rows[self.use[rows]]).tolist():
                bucket = self.buckets[int(np.searchsorted(edges, self.speech.frames[row]))]
                bucket.waiting.append(row)
                if len(bucket.waiting) == bucket.size:
                    ready.append((bucket, bucket.waiting))
                    bucket.waiting = []
            # or those of short utterances would all come late
            for place in self.rng.permutation(len(ready)):
                yield ready[place]
