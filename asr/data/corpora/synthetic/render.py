"""One synthetic utterance as a pure function of (seed, part, index); what worker processes run.

Imports neither torch nor Lhotse: a spawned worker starts in a fraction of a second.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soundfile
import soxr

from asr.data.corpora.synthetic.espeak import Espeak, Speech
from asr.data.corpora.synthetic.grammar import draw_sentence
from asr.data.corpora.synthetic.voices import VOICES, Voice

SAMPLE_RATE = 16000

PARTS = ("train", "dev", "test")
_SENTENCE, _SOUND = 0, 1  # streams of random numbers of one utterance

_UTTERANCES_PER_CHAPTER = 50

# Drawn uniformly per utterance.
RATE_WPM = (130, 190)
PITCH = (35, 65)  # espeak's 0 to 99; 50 is the variant's own
PITCH_RANGE = (30, 70)
EDGE_S = (0.03, 0.1)  # silence before and after speech
SNR_DB = (20.0, 40.0)
LEVEL_DBFS = (-30.0, -18.0)  # root mean square
_NOISE_SAMPLES = 1 << 20  # about a minute
_MAX_PEAK = 0.9
# Some accents hurry: faster than this is said again slower. It is as fast as people read aloud, and
# CTC can still align letters at 25 frames per second.
MAX_CHARACTERS_PER_S = 20.0
_SLOWEST_WPM = 100

# Below espeak's default, so that no variant runs into its limiter.
_VOLUME = 50
# Softer than this share of the peak is silence, where an utterance begins and ends.
_SILENCE_SHARE = 0.008
_KEPT_S = 0.02


@dataclass(frozen=True)
class Plan:
    """What tells one run from another; the same plan gives the same bytes."""

    seed: int
    num_dev: int
    num_test: int


@dataclass(frozen=True)
class Rendered:
    id: str
    voice: Voice
    words: tuple[str, ...]
    word_starts_s: tuple[float | None, ...]
    num_samples: int
    flac: bytes

    @property
    def folder(self) -> str:
        """``<speaker>/<chapter>`` within the part."""
        return "/".join(self.id.split("-")[:2])


def render_range(plan: Plan, part: str, start: int, stop: int) -> list[Rendered]:
    """Utterances ``start`` to ``stop`` (exclusive) of ``part``."""
    return [render(plan, part, index) for index in range(start, stop)]


def render(plan: Plan, part: str, index: int) -> Rendered:
    voices = VOICES[part]
    voice = voices[index % len(voices)]
    number = index // len(voices)
    chapter, position = divmod(number, _UTTERANCES_PER_CHAPTER)
    words = sentence(plan, part, index)
    rng = _rng(plan, part, index, _SOUND)
    samples, word_starts_s = synthesise(" ".join(words), voice, rng)
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return Rendered(
        id=f"{voice.speaker}-{chapter + 1}-{position:04d}",
        voice=voice,
        words=words,
        word_starts_s=word_starts_s,
        num_samples=len(samples),
        flac=file.getvalue(),
    )


def sentence(plan: Plan, part: str, index: int) -> tuple[str, ...]:
    """Words of one utterance; training never says a sentence of dev or test."""
    held_out = _held_out(plan)
    if part != "train":
        return held_out[part][index]
    rng = _rng(plan, part, index, _SENTENCE)
    words = draw_sentence(rng)
    while words in held_out["all"]:
        words = draw_sentence(rng)
    return words


@lru_cache(maxsize=1)
def _held_out(plan: Plan) -> dict[str, dict]:
    """Sentences of dev and test by index, all different, and all of them under "all"."""
    found: dict[str, dict] = {"all": {}}
    for part, count in (("dev", plan.num_dev), ("test", plan.num_test)):
        found[part] = {}
        for index in range(count):
            rng = _rng(plan, part, index, _SENTENCE)
            words = draw_sentence(rng)
            while words in found["all"]:
                words = draw_sentence(rng)
            found[part][index] = words
            found["all"][words] = True
    return found


def synthesise(
    text: str, voice: Voice, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[float | None, ...]]:
    """int16 (n,) at SAMPLE_RATE with mild noise, and the time at which each word starts."""
    speech, start, stop = _speak(text, voice, rng)
    spoken = speech.samples[start:stop].astype(np.float32) / 32768
    clean = np.asarray(soxr.resample(spoken, speech.sample_rate, SAMPLE_RATE), dtype=np.float32)
    before, after = (int(SAMPLE_RATE * edge_s) for edge_s in rng.uniform(*EDGE_S, size=2))
    rms = float(np.sqrt(np.mean(clean**2)))
    level = 10 ** (rng.uniform(*LEVEL_DBFS) / 20)
    samples = np.pad(clean, (before, after))
    noise = _noise(len(samples), pink=bool(rng.integers(2)), rng=rng)
    samples += noise * (rms * 10 ** (-rng.uniform(*SNR_DB) / 20))
    gain = min(level / rms, _MAX_PEAK / float(np.abs(samples).max()))
    offset_s = before / SAMPLE_RATE - start / speech.sample_rate
    starts_s = tuple(
        None if at_s is None else round(max(0.0, at_s + offset_s), 4)
        for at_s in speech.word_starts_s
    )
    return np.rint(samples * (gain * 32767)).astype(np.int16), starts_s


def _speak(text: str, voice: Voice, rng: np.random.Generator) -> tuple[Speech, int, int]:
    """What espeak says and where, in its samples, the speech starts and stops."""
    rate_wpm = int(rng.integers(*RATE_WPM, endpoint=True))
    pitch = int(rng.integers(*PITCH, endpoint=True))
    pitch_range = int(rng.integers(*PITCH_RANGE, endpoint=True))
    seed = int(rng.integers(1, 1 << 31))
    while True:
        speech = _espeak().speak(
            text,
            voice.accent,
            voice.variant,
            rate_wpm=rate_wpm,
            pitch=pitch,
            pitch_range=pitch_range,
            volume=_VOLUME,
            seed=seed,
        )
        start, stop = _speech_span(speech.samples, speech.sample_rate)
        characters_per_s = len(text) * speech.sample_rate / (stop - start)
        if characters_per_s <= MAX_CHARACTERS_PER_S or rate_wpm <= _SLOWEST_WPM:
            return speech, start, stop
        slower = int(rate_wpm * MAX_CHARACTERS_PER_S / characters_per_s)
        rate_wpm = max(_SLOWEST_WPM, min(rate_wpm - 5, slower))


def _speech_span(samples: np.ndarray, sample_rate: int) -> tuple[int, int]:
    """Without the silence that espeak leaves at the edges."""
    loudness = np.abs(samples.astype(np.int32))
    loud = np.flatnonzero(loudness > _SILENCE_SHARE * loudness.max())
    assert loud.size, "espeak returned silence"
    kept = int(_KEPT_S * sample_rate)
    return max(0, int(loud[0]) - kept), min(len(samples), int(loud[-1]) + 1 + kept)


def _noise(num_samples: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """float32 (n,) of unit variance, cut out of a long stretch at a random place."""
    start = int(rng.integers(_NOISE_SAMPLES - num_samples))
    return _noises()[int(pink), start : start + num_samples]


@lru_cache(maxsize=1)
def _noises() -> np.ndarray:
    """(2, n): white noise, and pink noise, which falls by 3 dB per octave from 50 Hz on."""
    white = np.random.default_rng(0).standard_normal(_NOISE_SAMPLES, dtype=np.float32)
    frequency_hz = np.fft.rfftfreq(_NOISE_SAMPLES, 1 / SAMPLE_RATE)
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(frequency_hz, 50.0)))
    return np.stack([white, pink / pink.std()]).astype(np.float32)


def _rng(plan: Plan, part: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, PARTS.index(part), index, stream])


@lru_cache(maxsize=1)
def _espeak() -> Espeak:
    return Espeak()
