"""Utterances with their audio and tokens, and the batches a model is trained and tested on.

Shapes: b utterance, n sample, u token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import Dataset

from asr.config import AugmentConfig, DataConfig
from asr.data.augment import change_speed, draw_speed, stable_hash, utterance_rng
from asr.data.manifest import LeftOut, load_waveform, min_ctc_frames
from asr.errors import InputError
from asr.text.normalise import Normaliser
from asr.text.tokenizer import BLANK, Tokenizer

LoadWaveform = Callable[[Cut, int], np.ndarray]
NumFrames = Callable[[int], int]

# Texts change hands among this many utterances of about the same length (see shuffle_texts).
_SHUFFLE_GROUP = 64


@dataclass(frozen=True)
class Example:
    """One utterance of one epoch: ``wave_n`` float32 after speed change, ``tokens_u`` int64."""

    id: str
    wave_n: np.ndarray
    tokens_u: np.ndarray
    speaker: str
    text: str


@dataclass(frozen=True)
class Batch:
    """What a training step, validation and decoding read.

    ids             utterance ids, b of them
    wave_bn         float32 samples in [-1, 1], zeros past the length
    wave_lens_b     int64 samples
    tokens_bu       int64 token ids, zeros (the blank) past the length
    token_lens_b    int64 tokens
    audio_s         seconds of audio, padding not counted, after speed change
    speakers        one per utterance
    texts           normalised references
    left_out        utterances that were to be in this batch and could not be read
    """

    ids: tuple[str, ...]
    wave_bn: Tensor
    wave_lens_b: Tensor
    tokens_bu: Tensor
    token_lens_b: Tensor
    audio_s: float
    speakers: tuple[str, ...]
    texts: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch there; copies from pinned memory do not wait."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which a GPU can read by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            wave_bn=change(self.wave_bn),
            wave_lens_b=change(self.wave_lens_b),
            tokens_bu=change(self.tokens_bu),
            token_lens_b=change(self.token_lens_b),
        )


class Utterances(Dataset[Example]):
    """Utterances in manifest order; item (epoch, index) is the same in every process.

    Attributes:
        ids, texts (normalised), speakers: one per utterance kept.
        durations_s: seconds before any speed change.
        left_out: what was not kept and why; empty unless ``train``.
    """

    def __init__(
        self,
        cuts: Iterable[Cut],
        *,
        tokenizer: Tokenizer,
        normaliser: Normaliser,
        sample_rate: int,
        data: DataConfig,
        seed: int,
        train: bool,
        augment: AugmentConfig | None = None,
        encoder_frames: NumFrames | None = None,
        load: LoadWaveform = load_waveform,
        cache_bytes: int = 0,
    ) -> None:
        """
        Args:
            normaliser: applied to every text before it is tokenized.
            data: bounds on the duration, number of utterances, label shuffling; for training only.
            train: leave out what cannot be trained on, and change speeds.
            augment: speeds; None or ``train`` false leaves the audio as it is.
            encoder_frames: from a count of samples to the frames that CTC gets; None: no check.
            load: reads a cut's samples at a rate.
            cache_bytes: keep up to this much decoded audio in memory, before any change of speed.
                In this process only: worker processes read ahead instead.

        Raises:
            InputError: nothing is left to train on, or labels cannot be shuffled.
        """
        self.sample_rate = sample_rate
        self.seed = seed
        self._load = load
        self._speeds = augment if augment is not None and train else None
        self._cache = _WaveCache(cache_bytes)
        kept = list(cuts)
        texts = [normaliser(cut_text(cut)) for cut in kept]
        self.left_out: tuple[LeftOut, ...] = ()
        if train and data.shuffle_labels:
            texts = shuffle_texts(texts, [cut.duration for cut in kept], seed)
        tokens = [np.asarray(tokenizer.encode(text), dtype=np.int32) for text in texts]
        if train:
            fastest = max(self._speeds.speed_factors) if self._speeds else 1.0
            reasons = [
                _reason_to_leave_out(cut, text, ids, data, encoder_frames, fastest, sample_rate)
                for cut, text, ids in zip(kept, texts, tokens, strict=True)
            ]
            self.left_out = tuple(item for item in reasons if item is not None)
            chosen = [index for index, reason in enumerate(reasons) if reason is None]
            chosen = chosen[: data.max_utterances or None]
            kept, texts = [kept[i] for i in chosen], [texts[i] for i in chosen]
            tokens = [tokens[i] for i in chosen]
        if train and not kept:
            raise InputError(f"there is nothing to train on: {self.describe_left_out()}")
        self._cuts = kept
        self._tokens = tokens
        self.texts = texts
        self.ids = [str(cut.id) for cut in kept]
        self.speakers = [cut_speaker(cut) for cut in kept]
        self.durations_s = np.array([cut.duration for cut in kept], dtype=np.float64)

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """The utterance at (epoch, index).

        Raises:
            InputError: its audio cannot be read.
        """
        epoch, index = key
        wave_n = self._cache.get(index)
        if wave_n is None:
            wave_n = self._load(self._cuts[index], self.sample_rate)
            self._cache.put(index, wave_n)
        if self._speeds is not None:
            wave_n = change_speed(wave_n, self.speed(epoch, index), self.sample_rate)
        tokens_u = self._tokens[index].astype(np.int64)
        return Example(self.ids[index], wave_n, tokens_u, self.speakers[index], self.texts[index])

    def tokens(self, index: int) -> list[int]:
        """The tokens of an utterance."""
        return [int(token) for token in self._tokens[index]]

    def speed(self, epoch: int, index: int) -> float:
        """The speed of an utterance in an epoch."""
        if self._speeds is None or len(self._speeds.speed_factors) == 1:
            return 1.0 if self._speeds is None else float(self._speeds.speed_factors[0])
        rng = utterance_rng(self.seed, epoch, self.ids[index], "speed")
        return draw_speed(rng, self._speeds)

    def epoch_durations_s(self, epoch: int) -> np.ndarray:
        """Seconds of every utterance as that epoch plays them: for ``DurationBatches.steps``."""
        speeds = [self.speed(epoch, index) for index in range(len(self))]
        return self.durations_s / np.array(speeds, dtype=np.float64)

    @property
    def slowest_durations_s(self) -> np.ndarray:
        """Seconds of every utterance at the slowest speed: what memory must be there for."""
        return self.durations_s / (min(self._speeds.speed_factors) if self._speeds else 1.0)

    def left_out_counts(self) -> dict[str, int]:
        """How many utterances were left out for each reason."""
        return dict(Counter(item.reason for item in self.left_out).most_common())

    def describe_left_out(self) -> str:
        """One line: counts, reasons, and one utterance by name for each."""
        if not self.left_out:
            return "no utterance left out"
        first = {item.reason: item for item in reversed(self.left_out)}
        return "; ".join(
            f"{count} left out, {reason} (first: {first[reason].id}, {first[reason].detail})"
            for reason, count in self.left_out_counts().items()
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": _WaveCache(0)}


class _WaveCache:
    """Decoded audio by index until the budget is spent; never changes a sample.

    Int16 where that is lossless, as for FLAC of 16 bits at the right rate; resampled or lossy audio
    is no multiple of 1/32768 and stays float32.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left_bytes = max_bytes
        self._waves: dict[int, np.ndarray] = {}

    def get(self, index: int) -> np.ndarray | None:
        samples_n = self._waves.get(index)
        if samples_n is None or samples_n.dtype == np.float32:
            return samples_n
        return samples_n.astype(np.float32) / np.float32(32768)

    def put(self, index: int, wave_n: np.ndarray) -> None:
        if index in self._waves or 2 * wave_n.size > self._left_bytes:
            return
        scaled_n = wave_n * np.float32(32768)
        samples_n = np.clip(np.rint(scaled_n), -32768, 32767).astype(np.int16)
        if not np.array_equal(samples_n, scaled_n):
            samples_n = wave_n
        if samples_n.nbytes <= self._left_bytes:
            self._waves[index] = samples_n
            self._left_bytes -= samples_n.nbytes


def cut_text(cut: Cut) -> str:
    """The cut's transcript as the manifest has it, supervisions joined by spaces."""
    return " ".join(part.text for part in cut.supervisions if part.text)


def cut_speaker(cut: Cut) -> str:
    """The first supervision's speaker, or an empty text."""
    return str(cut.supervisions[0].speaker or "") if cut.supervisions else ""


def shuffle_texts(texts: Sequence[str], durations_s: Sequence[float], seed: int) -> list[str]:
    """Give every utterance another one's text: the control that a recipe must fail on.

    Texts move among utterances of about the same length, so that they still fit the audio and the
    control trains on as many utterances as the real thing. No utterance keeps its own.

    Raises:
        InputError: fewer than two utterances.
    """
    if len(texts) < 2:
        raise InputError("data.shuffle_labels needs at least two utterances")
    rng = np.random.default_rng(stable_hash("shuffle-labels", seed))
    by_length = np.argsort(np.asarray(durations_s), kind="stable")
    num_groups = max(1, len(texts) // _SHUFFLE_GROUP)
    shuffled = list(texts)
    for group in np.array_split(by_length, num_groups):
        # One cycle through the group in random order moves every text.
        cycle = rng.permutation(group)
        for giver, taker in zip(cycle, np.roll(cycle, 1), strict=True):
            shuffled[taker] = texts[giver]
    return shuffled


def _reason_to_leave_out(
    cut: Cut,
    text: str,
    tokens: np.ndarray,
    data: DataConfig,
    encoder_frames: NumFrames | None,
    fastest: float,
    sample_rate: int,
) -> LeftOut | None:
    name, duration_s = str(cut.id), float(cut.duration)
    if duration_s < data.min_duration_s:
        detail = f"{duration_s:.2f} s"
        return LeftOut(name, f"shorter than data.min_duration_s = {data.min_duration_s:g}", detail)
    if duration_s > data.max_duration_s:
        detail = f"{duration_s:.2f} s"
        return LeftOut(name, f"longer than data.max_duration_s = {data.max_duration_s:g}", detail)
    if not text.strip():
        return LeftOut(name, "no text after normalisation", repr(cut_text(cut)))
    if encoder_frames is None:
        return None
    # Two samples short of the plan: the resampler may round down.
    frames = encoder_frames(max(0, int(duration_s * sample_rate / fastest) - 2))
    needed = min_ctc_frames(tokens.tolist())
    if needed > frames:
        at_speed = f" at speed {fastest:g}" if fastest != 1.0 else ""
        detail = f"{needed} frames needed, {frames} there{at_speed}"
        return LeftOut(name, "too many tokens for CTC to align", detail)
    return None


def collate(
    examples: Sequence[Example], sample_rate: int, left_out: Sequence[LeftOut] = ()
) -> Batch:
    """Zero-padded tensors, in the order given."""
    wave_bn, wave_lens_b = _pad([example.wave_n for example in examples], torch.float32, 0.0)
    tokens_bu, token_lens_b = _pad([example.tokens_u for example in examples], torch.int64, BLANK)
    return Batch(
        ids=tuple(example.id for example in examples),
        wave_bn=wave_bn,
        wave_lens_b=wave_lens_b,
        tokens_bu=tokens_bu,
        token_lens_b=token_lens_b,
        audio_s=float(wave_lens_b.sum()) / sample_rate,
        speakers=tuple(example.speaker for example in examples),
        texts=tuple(example.text for example in examples),
        left_out=tuple(left_out),
    )


def _pad(arrays: Sequence[np.ndarray], dtype: torch.dtype, value: float) -> tuple[Tensor, Tensor]:
    lens_b = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
    longest = max((len(array) for array in arrays), default=0)
    padded = torch.full((len(arrays), longest), value, dtype=dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = torch.from_numpy(array)
    return padded, lens_b
