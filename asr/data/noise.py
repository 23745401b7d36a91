"""Rooms and noises around training utterances, every draw keyed by (seed, epoch, utterance)."""

from __future__ import annotations

import math

import numpy as np

from asr.config import AugmentConfig
from asr.data.audio.samples import to_mono
from asr.data.draws import utterance_rng
from asr.data.store.index import CutTable, open_cuts
from asr.data.store.manifest import load_samples, load_waveform


class Surroundings:
    """First a room (a recorded impulse response), then a noise at a drawn signal-to-noise ratio, then
    the hiss of a recorder, white and at a drawn level: where nobody speaks it is never quite silent."""

    def __init__(self, config: AugmentConfig, sample_rate: int, seed: int) -> None:
        """
        Raises:
            InputError: a manifest cannot be read.
        """
        self._config, self._sample_rate, self._seed = config, sample_rate, seed
        self._rooms: CutTable | None = open_cuts(config.rooms) if config.rooms else None
        self._noises: CutTable | None = open_cuts(config.noises) if config.noises else None

    def __call__(self, wave_n: np.ndarray, epoch: int, utterance_id: str) -> np.ndarray:
        """The utterance as float32 of the same length, or itself where no draw falls on it.

        Raises:
            InputError: the impulse response or noise drawn cannot be read.
        """
        if self._rooms is not None:
            rng = utterance_rng(self._seed, epoch, utterance_id, "room")
            if rng.random() < self._config.room_probability:
                response_n = self._response(int(rng.integers(len(self._rooms))))
                wave_n = reverberate(wave_n, response_n)
        if self._noises is not None:
            rng = utterance_rng(self._seed, epoch, utterance_id, "noise")
            if rng.random() < self._config.noise_probability:
                low_db, high_db = self._config.noise_snr_db
                snr_db = rng.uniform(low_db, high_db)
                wave_n = add_noise(wave_n, self._noise(rng, len(wave_n)), snr_db)
        if self._config.hiss_db:
            rng = utterance_rng(self._seed, epoch, utterance_id, "hiss")
            if rng.random() < self._config.hiss_probability:
                low_db, high_db = self._config.hiss_db
                gain = np.float32(10.0 ** (rng.uniform(low_db, high_db) / 20.0))
                wave_n = wave_n + gain * rng.standard_normal(len(wave_n), dtype=np.float32)
        return wave_n

    def _response(self, index: int) -> np.ndarray:
        assert self._rooms is not None
        cut = self._rooms[index]
        # One microphone's: a mean over several would be a room with several direct paths.
        return to_mono(load_samples(cut)[:1], cut.sampling_rate, self._sample_rate)

    def _noise(self, rng: np.random.Generator, num_samples: int) -> np.ndarray:
        """A stretch of a drawn noise, beginning anywhere; one that is too short is repeated."""
        assert self._noises is not None
        cut = self._noises[int(rng.integers(len(self._noises)))]
        wanted_s = num_samples / self._sample_rate
        start_s = float(rng.random()) * max(cut.duration - wanted_s, 0.0)
        if cut.duration > wanted_s:
            # Only what is needed is read; a little more, for the resampler rounds.
            cut = cut.truncate(offset=start_s, duration=min(wanted_s + 0.1, cut.duration - start_s))
        noise_n = load_waveform(cut, self._sample_rate)
        return np.resize(noise_n, num_samples)


def add_noise(wave_n: np.ndarray, noise_n: np.ndarray, snr_db: float) -> np.ndarray:
    """``wave_n`` plus ``noise_n`` scaled so that the ratio of their mean squares is ``snr_db``.

    Silence on either side has no ratio: then the utterance is returned as it is.
    """
    signal, noise = _power(wave_n), _power(noise_n)
    if signal == 0.0 or noise == 0.0:
        return wave_n
    gain = math.sqrt(signal / noise * 10.0 ** (-snr_db / 10.0))
    return wave_n + np.float32(gain) * noise_n


def reverberate(wave_n: np.ndarray, response_n: np.ndarray) -> np.ndarray:
    """``wave_n`` as heard in a room, with its length, its power and its place in time.

    The response's highest peak is taken for the direct path, whose delay is cut off, so that what is
    said when does not change; the tail that outlasts the utterance is cut off too (Ko et al. 2017, "A
    study on data augmentation of reverberant speech for robust speech recognition").
    """
    delay = int(np.argmax(np.abs(response_n)))
    num_samples = len(wave_n)
    # Beyond an utterance's length a response has nothing left to add to it.
    response_n = response_n[: delay + num_samples]
    size = _fft_size(num_samples + len(response_n) - 1)
    product = np.fft.rfft(wave_n, size) * np.fft.rfft(response_n, size)
    heard_n = np.fft.irfft(product, size)[delay : delay + num_samples]
    power = _power(heard_n)
    if power > 0.0:
        heard_n *= math.sqrt(_power(wave_n) / power)
    return heard_n.astype(np.float32)


def _power(wave_n: np.ndarray) -> float:
    return float(np.mean(np.square(wave_n, dtype=np.float64)))


def _fft_size(least: int) -> int:
    """The smallest of 2^n, 3/4 of it and 5/8 of it that is large enough."""
    power = 1 << (least - 1).bit_length()
    return min(size for size in (power * 5 // 8, power * 3 // 4, power) if size >= least)
