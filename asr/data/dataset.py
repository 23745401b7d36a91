"""Utterances with their audio and tokens, and the batches a model is trained and tested on.

Shapes: b utterance, n sample, u token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import Dataset

from asr.config import AugmentConfig, DataConfig
from asr.data.augment import change_speed, draw_edge_silences_s, draw_speeds
from asr.data.draws import stable_hash
from asr.data.mixing import Mixture
from asr.data.noise import Surroundings
from asr.data.sieve import NumFrames, Sieve
from asr.data.store.index import CutList, CutTable, cut_speaker
from asr.data.store.manifest import LeftOut, load_waveform
from asr.errors import InputError
from asr.text.normalise import Normaliser
from asr.text.tokenizer import Tokenizer

LoadWaveform = Callable[[Cut, int], np.ndarray]

# Texts change hands among this many utterances of about the same length (see shuffled_givers).
_SHUFFLE_GROUP = 64


@dataclass(frozen=True)
class Example:
    """One utterance of one epoch: ``wave_n`` float32 as augmented, ``tokens_u`` int64."""

    id: str
    wave_n: np.ndarray
    tokens_u: np.ndarray
    speaker: str
    text: str


@dataclass(frozen=True)
class Batch:
    """The batch that a training step, validation and decoding read.

    ids             utterance ids, b of them
    wave_bn         float32 samples in [-1, 1], zeros past the length
    wave_lens_b     int64 samples
    tokens_bu       int64 token ids, zeros (the blank) past the length
    token_lens_b    int64 tokens
    audio_s         seconds of audio, padding not counted, as augmented
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
        ids, texts (normalised), speakers: of the utterances kept; each is read when it is asked for.
        durations_s: seconds before any speed change.
        num_speakers: different ones.
    """

    def __init__(
        self,
        cuts: CutTable | Iterable[Cut],
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
            train: leave out what cannot be trained on, and augment.
            augment: speeds, silence, rooms, noises; None or ``train`` false leaves the audio as it is.
            encoder_frames: from counts of samples to the frames that CTC gets; None: no check.
            load: reads a cut's samples at a rate.
            cache_bytes: keep up to this much decoded audio in memory, before any change of speed.
                In this process only: worker processes read ahead instead.

        Raises:
            InputError: nothing is left to train on, or labels cannot be shuffled.
        """
        self.sample_rate = sample_rate
        self.seed = seed
        self._load = load
        self._tokenizer, self._normalise = tokenizer, normaliser
        self._augment = augment if augment is not None and train else None
        self._surroundings = (
            Surroundings(self._augment, sample_rate, seed) if self._augment else None
        )
        self._cache = _WaveCache(cache_bytes)
        self._source = cuts if isinstance(cuts, CutTable) else CutList(cuts)
        kept = givers = np.arange(len(self._source))
        self._sieve: Sieve | None = None
        if train:
            if data.shuffle_labels:
                givers = shuffled_givers(self._source.durations_s, seed)
            self._sieve = Sieve(
                self._source,
                self._source.ctc_frames(tokenizer, normaliser)[givers],
                data,
                encoder_frames=encoder_frames,
                sample_rate=sample_rate,
                fastest=max(self._augment.speed_factors) if self._augment else 1.0,
            )
            kept = self._sieve.kept[: data.max_utterances or None]
            if len(kept) == 0:
                raise InputError(f"there is nothing to train on: {self.describe_left_out()}")
        self._cuts = self._source.select(kept)
        self._givers = givers[kept]
        self.durations_s = self._cuts.durations_s
        self.num_speakers = len(np.unique(self._cuts.speaker_keys))

    @property
    def ids(self) -> Sequence[str]:
        return Lazily(len(self), lambda index: str(self._cuts[index].id))

    @property
    def texts(self) -> Sequence[str]:
        return Lazily(len(self), self._text)

    @property
    def speakers(self) -> Sequence[str]:
        return Lazily(len(self), lambda index: cut_speaker(self._cuts[index]))

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """The utterance at (epoch, index).

        Raises:
            InputError: its audio cannot be read.
        """
        epoch, index = key
        cut = self._cuts[index]
        wave_n = self._cache.get(index)
        if wave_n is None:
            wave_n = self._load(cut, self.sample_rate)
            self._cache.put(index, wave_n)
        if self._augment is not None:
            wave_n = change_speed(wave_n, self.speed(epoch, index), self.sample_rate)
            before, after = self._edge_samples(epoch, index)
            if before or after:
                wave_n = np.pad(wave_n, (before, after))
        if self._surroundings is not None:
            wave_n = self._surroundings(wave_n, epoch, str(cut.id))
        text = self._text(index)
        tokens_u = np.array(self._tokenizer.encode(text), dtype=np.int64)
        return Example(str(cut.id), wave_n, tokens_u, cut_speaker(cut), text)

    def _text(self, index: int) -> str:
        return self._normalise(self._source.text(int(self._givers[index])))

    def tokens(self, index: int) -> list[int]:
        """The tokens of an utterance."""
        return self._tokenizer.encode(self._text(index))

    def speed(self, epoch: int, index: int) -> float:
        """The speed of an utterance in an epoch."""
        return float(self._draw_speeds(epoch, self._cuts.keys[index : index + 1])[0])

    def epoch_durations_s(self, epoch: int) -> np.ndarray:
        """Seconds of every utterance as that epoch plays them: for ``DurationBatches.plan``."""
        keys = self._cuts.keys
        spoken_s = self.durations_s / self._draw_speeds(epoch, keys)
        return spoken_s + self._draw_edge_silences_s(epoch, keys).sum(axis=0)

    def _edge_samples(self, epoch: int, index: int) -> list[int]:
        """Return the samples of silence before and after an utterance."""
        silences_s = self._draw_edge_silences_s(epoch, self._cuts.keys[index : index + 1])
        return [round(silence_s * self.sample_rate) for silence_s in silences_s[:, 0].tolist()]

    def _draw_speeds(self, epoch: int, keys: np.ndarray) -> np.ndarray:
        if self._augment is None:
            return np.ones(len(keys))
        return draw_speeds(keys, self.seed, epoch, self._augment)

    def _draw_edge_silences_s(self, epoch: int, keys: np.ndarray) -> np.ndarray:
        if self._augment is None:
            return np.zeros((2, len(keys)))
        return draw_edge_silences_s(keys, self.seed, epoch, self._augment)

    def fingerprint(self) -> str:
        """See ``CutTable.fingerprint``: of all that were given, those not kept too."""
        return self._source.fingerprint()

    def mixture(self, weights: Sequence[float]) -> Mixture | None:
        """Return how to mix the corpora by these weights; None for no weights.

        Raises:
            InputError: see ``Mixture``.
        """
        if not weights:
            return None
        table = self._cuts
        return Mixture(table.keys, table.durations_s, table.sources, weights, self.seed)

    @property
    def longest_durations_s(self) -> np.ndarray:
        """Seconds of every utterance at the slowest speed, with the most silence: what memory must be
        there for."""
        if self._augment is None:
            return self.durations_s
        slowest_s = self.durations_s / min(self._augment.speed_factors)
        return slowest_s + 2 * self._augment.edge_silence_s

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The utterances that were not kept and why, in manifest order; nothing unless for training."""
        return () if self._sieve is None else self._sieve.left_out()

    def left_out_counts(self) -> dict[str, int]:
        """Count how many utterances were left out for each reason."""
        return {} if self._sieve is None else self._sieve.counts()

    def describe_left_out(self) -> str:
        """One line: counts, reasons, and one utterance by name for each."""
        return "no utterance left out" if self._sieve is None else self._sieve.describe()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": _WaveCache(0), "_sieve": None}


class Lazily(Sequence[str]):
    """A sequence whose items are made when they are asked for."""

    def __init__(self, count: int, item: Callable[[int], str]) -> None:
        self._count, self._item = count, item

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(self._count)[index]
        if isinstance(places, range):
            return [self._item(place) for place in places]
        return self._item(places)


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


def shuffled_givers(durations_s: np.ndarray, seed: int) -> np.ndarray:
    """Whose text each utterance gets instead of its own: the control that a recipe must fail on.

    Texts move among utterances of about the same length, so that they still fit the audio and the
    control trains on as many utterances as the real thing. No utterance keeps its own.

    Raises:
        InputError: fewer than two utterances.
    """
    if len(durations_s) < 2:
        raise InputError("data.shuffle_labels needs at least two utterances")
    rng = np.random.default_rng(stable_hash("shuffle-labels", seed))
    by_length = np.argsort(durations_s, kind="stable")
    num_groups = max(1, len(durations_s) // _SHUFFLE_GROUP)
    givers = np.empty(len(durations_s), dtype=np.int64)
    for group in np.array_split(by_length, num_groups):
        # One cycle through the group in random order moves every text.
        cycle = rng.permutation(group)
        givers[np.roll(cycle, 1)] = cycle
    return givers


def collate(
    examples: Sequence[Example], sample_rate: int, left_out: Sequence[LeftOut] = ()
) -> Batch:
    """Zero-padded tensors, in the order given."""
    wave_bn, wave_lens_b = _pad([example.wave_n for example in examples], np.float32)
    tokens_bu, token_lens_b = _pad([example.tokens_u for example in examples], np.int64)
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


def _pad(arrays: Sequence[np.ndarray], dtype: type[np.generic]) -> tuple[Tensor, Tensor]:
    lens_b = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
    longest = max((len(array) for array in arrays), default=0)
    # NumPy's zeros are the system's own empty pages; PyTorch's are written once more.
    padded = np.zeros((len(arrays), longest), dtype=dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded), lens_b
