"""Utterances with their audio and tokens: as they are in a manifest, or as training plays them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from lhotse.cut import Cut
from torch.utils.data import Dataset

from asr.config import AugmentConfig, DataConfig
from asr.data.augment import change_speed, draw_edge_silences_s, draw_speeds
from asr.data.draws import stable_hash
from asr.data.examples import Example
from asr.data.mixing import Mixture
from asr.data.noise import Surroundings
from asr.data.sieve import NumFrames, Sieve
from asr.data.store.index import CutList, CutTable, FramesNeeded, cut_speaker
from asr.data.store.manifest import load_waveform
from asr.errors import InputError
from asr.text.tokenizer import TextProcessor

LoadWaveform = Callable[[Cut, int], np.ndarray]

# Texts change hands among this many utterances of about the same length (see shuffled_givers).
_SHUFFLE_GROUP = 64


class Utterances(Dataset[Example]):
    """Utterances in manifest order; each is read when it is asked for.

    Attributes:
        cuts: where they come from.
        ids, texts (normalised), speakers, durations_s: of each.
        num_speakers: different ones.
    """

    def __init__(
        self,
        cuts: CutTable | Iterable[Cut],
        processor: TextProcessor,
        sample_rate: int,
        load: LoadWaveform = load_waveform,
    ) -> None:
        """
        Args:
            processor: makes tokens of the texts.
            sample_rate: what audio is resampled to.
            load: reads a cut's samples at a rate.
        """
        self.cuts = cuts if isinstance(cuts, CutTable) else CutList(cuts)
        self.processor = processor
        self.sample_rate = sample_rate
        self.load = load

    @property
    def ids(self) -> Sequence[str]:
        return Lazily(len(self), lambda index: str(self.cuts[index].id))

    @property
    def texts(self) -> Sequence[str]:
        return Lazily(len(self), self._text)

    @property
    def written_texts(self) -> Sequence[str]:
        """The texts as the manifest has them."""
        return Lazily(len(self), self.cuts.text)

    @property
    def speakers(self) -> Sequence[str]:
        return Lazily(len(self), lambda index: cut_speaker(self.cuts[index]))

    @property
    def durations_s(self) -> np.ndarray:
        return self.cuts.durations_s

    @property
    def num_speakers(self) -> int:
        return len(np.unique(self.cuts.speaker_keys))

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        """Return the utterance at (epoch, index), the same in every process.

        Raises:
            InputError: its audio cannot be read.
        """
        epoch, index = key
        cut, text = self.cuts[index], self._text(index)
        tokens_u = np.array(self.processor.tokenizer.encode(text), dtype=np.int64)
        wave_n = self._wave(cut, epoch, index)
        return Example(str(cut.id), wave_n, tokens_u, cut_speaker(cut), text)

    def _text(self, index: int) -> str:
        return self.processor.normalise(self.cuts.text(index))

    def _wave(self, cut: Cut, epoch: int, index: int) -> np.ndarray:
        """Return the samples of an utterance, in every epoch those of its file."""
        return self.load(cut, self.sample_rate)


class TrainingUtterances(Utterances):
    """The utterances that can be trained on, augmented anew in every epoch.

    Attributes:
        durations_s: seconds before any augmentation.
        sieve: which utterances are left out and why; not in worker processes.
    """

    def __init__(
        self,
        utterances: Utterances,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
        num_frames: NumFrames,
        heads: Mapping[str, FramesNeeded],
    ) -> None:
        """
        Args:
            utterances: those to choose from.
            data: bounds on the duration, number of utterances, label shuffling, cache of decoded audio
                (in this process only: worker processes read ahead instead).
            augment: speeds, silence, rooms, noises.
            num_frames: from counts of samples to the frames that heads get.
            heads: what each head needs, by its name; the most that one needs must be there.

        Raises:
            InputError: nothing is left to train on, or labels cannot be shuffled.
        """
        table, processor = utterances.cuts, utterances.processor
        if data.shuffle_labels:
            givers = shuffled_givers(table.durations_s, seed)
            table = table.select(np.arange(len(table)), givers)
        self.sieve = Sieve(
            table,
            np.max([table.frames_needed(*head, processor) for head in heads.items()], axis=0),
            data,
            num_frames=num_frames,
            sample_rate=utterances.sample_rate,
            fastest=max(augment.speed_factors),
        )
        kept = self.sieve.kept[: data.max_utterances or None]
        if len(kept) == 0:
            raise InputError(f"there is nothing to train on: {self.sieve.describe()}")
        super().__init__(table.select(kept), processor, utterances.sample_rate, utterances.load)
        self._augment, self._seed = augment, seed
        self._surroundings = Surroundings(augment, self.sample_rate, seed)
        self._cache = _WaveCache(data.cache_mb << 20)

    def _wave(self, cut: Cut, epoch: int, index: int) -> np.ndarray:
        """Return the samples of an utterance as an epoch plays it."""
        wave_n = self._cache.get(index)
        if wave_n is None:
            wave_n = super()._wave(cut, epoch, index)
            self._cache.put(index, wave_n)
        key = self.cuts.keys[index : index + 1]
        wave_n = change_speed(wave_n, float(self._speeds(epoch, key)[0]), self.sample_rate)
        edges_s = self._edge_silences_s(epoch, key)[:, 0].tolist()
        before, after = (round(silence_s * self.sample_rate) for silence_s in edges_s)
        if before or after:
            wave_n = np.pad(wave_n, (before, after))
        return self._surroundings(wave_n, epoch, str(cut.id))

    def epoch_durations_s(self, epoch: int) -> np.ndarray:
        """Return the seconds of every utterance as an epoch plays it: for ``DurationBatches.plan``."""
        keys = self.cuts.keys
        spoken_s = self.durations_s / self._speeds(epoch, keys)
        return spoken_s + self._edge_silences_s(epoch, keys).sum(axis=0)

    @property
    def longest_durations_s(self) -> np.ndarray:
        """Seconds of every utterance at the slowest speed, with the most silence: what memory must be
        there for."""
        slowest_s = self.durations_s / min(self._augment.speed_factors)
        return slowest_s + 2 * self._augment.edge_silence_s

    def _speeds(self, epoch: int, keys: np.ndarray) -> np.ndarray:
        return draw_speeds(keys, self._seed, epoch, self._augment)

    def _edge_silences_s(self, epoch: int, keys: np.ndarray) -> np.ndarray:
        return draw_edge_silences_s(keys, self._seed, epoch, self._augment)

    def mixture(self, weights: Sequence[float]) -> Mixture | None:
        """Return how to mix the corpora by these weights; None for no weights.

        Raises:
            InputError: see ``Mixture``.
        """
        if not weights:
            return None
        table = self.cuts
        return Mixture(table.keys, table.durations_s, table.sources, weights, self._seed)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_cache": _WaveCache(0)}
        del state["sieve"]
        return state


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
    """Draw whose text each utterance gets instead of its own: the control that a recipe must fail on.

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
