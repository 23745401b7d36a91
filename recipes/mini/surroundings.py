#!/usr/bin/env python
"""Noises and rooms without recordings of any, and a noisy copy of the test part.

python surroundings.py --data data --out surroundings

Noises: white and pink ones that swell and fade, hums, and babble of several utterances at once. Rooms:
exponentially decaying noise after a direct path (Polack 1988). Those for training babble with the
training part's voices; those around the test part are drawn anew and babble with the dev part's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.cut import Cut
from tqdm import tqdm

from asr.config import AugmentConfig
from asr.data.noise import Surroundings
from asr.data.store.manifest import load_waveform, read_cuts, write_cuts

RATE = 16000
NOISE_S = 15.0
NUM_NOISES, NUM_ROOMS = 60, 60
# Of the noisy copy: every utterance has a noise, half of them are in a room.
SNR_DB = [5.0, 20.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="what asr prepare synthetic wrote")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    train_noises, train_rooms = make(args.out, "", read_some(args.data, "train"), seed=1)
    test_noises, test_rooms = make(args.out, "test-", read_some(args.data, "dev"), seed=2)
    test = list(read_cuts(args.data / "test.cuts.jsonl.gz"))
    copy_with(Surroundings(around_test(test_noises, test_rooms), RATE, seed=1), test, args.out)
    print(f"{train_noises}, {train_rooms}, {args.out}/test-noisy.cuts.jsonl.gz")


def read_some(data: Path, part: str) -> list[np.ndarray]:
    """A hundred utterances of a part, spread over its voices."""
    cuts = list(read_cuts(data / f"{part}.cuts.jsonl.gz"))
    return [load_waveform(cut, RATE) for cut in cuts[:: max(1, len(cuts) // 100)]]


def around_test(noises: Path, rooms: Path) -> AugmentConfig:
    return AugmentConfig(
        noises=[str(noises)],
        noise_probability=1.0,
        noise_snr_db=SNR_DB,
        rooms=[str(rooms)],
        room_probability=0.5,
    )


def make(out: Path, prefix: str, voices: list[np.ndarray], seed: int) -> tuple[Path, Path]:
    """The manifests of noises and of rooms."""
    rng = np.random.default_rng(seed)
    kinds = (swelling, hum, lambda rng: babble(rng, voices))
    noises = [kinds[number % len(kinds)](rng) for number in range(NUM_NOISES)]
    rooms = [room(rng) for _ in range(NUM_ROOMS)]
    return (
        save(out, f"{prefix}noises", [0.1 * n / np.sqrt(np.mean(n**2)) for n in noises]),
        save(out, f"{prefix}rooms", [0.5 * n / np.abs(n).max() for n in rooms]),
    )


def swelling(rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls with a drawn power of the frequency and whose level wanders."""
    size = int(NOISE_S * RATE)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequency_hz = np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50.0)
    noise_n = np.fft.irfft(spectrum * frequency_hz ** -rng.uniform(0.0, 1.0))
    level_db = np.interp(np.arange(size), np.linspace(0, size, 30), rng.uniform(-10, 0, 30))
    return noise_n * 10 ** (level_db / 20)


def hum(rng: np.random.Generator) -> np.ndarray:
    """A tone of 50 to 400 Hz with its overtones, over some noise."""
    time_n = np.arange(int(NOISE_S * RATE)) / RATE
    tones = np.arange(1, 9)[:, None]
    phases = rng.uniform(0, 2 * np.pi, (8, 1))
    sines = np.sin(2 * np.pi * rng.uniform(50, 400) * tones * time_n + phases)
    return (sines / tones).sum(axis=0) + 0.1 * rng.standard_normal(len(time_n))


def babble(rng: np.random.Generator, voices: list[np.ndarray]) -> np.ndarray:
    """Four to eight strands of utterances, one after the other."""
    size = int(NOISE_S * RATE)
    sum_n = np.zeros(size)
    for _ in range(int(rng.integers(4, 9))):
        order = rng.permutation(len(voices))
        strand_n = np.concatenate(
            [voices[k] / np.sqrt(np.mean(voices[k] ** 2)) for k in order[:20]]
        )
        sum_n += np.roll(np.resize(strand_n, size), int(rng.integers(size)))
    return sum_n


def room(rng: np.random.Generator) -> np.ndarray:
    """A direct path, then noise that falls by 60 dB in 0.2 to 0.8 s, -5 to 10 dB below it in sum."""
    decay_s = rng.uniform(0.2, 0.8)
    size = int(decay_s * RATE)
    tail_n = rng.standard_normal(size) * 10 ** (-3 * np.arange(size) / size)
    tail_n[: int(rng.uniform(0.002, 0.01) * RATE)] = 0.0
    tail_n *= 10 ** (-rng.uniform(-5, 10) / 20) / np.sqrt(np.sum(tail_n**2))
    return np.concatenate([[1.0], tail_n])


def save(out: Path, name: str, waves: list[np.ndarray]) -> Path:
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    cuts = []
    for number, wave_n in enumerate(waves):
        path = (folder / f"{name}-{number:03d}.flac").resolve()
        soundfile.write(path, np.clip(wave_n, -1, 1), RATE, subtype="PCM_16")
        cuts.append(Recording.from_file(path, recording_id=path.stem).to_cut())
    write_cuts(cuts, out / f"{name}.cuts.jsonl.gz")
    return out / f"{name}.cuts.jsonl.gz"


def copy_with(surroundings: Surroundings, cuts: list[Cut], out: Path) -> None:
    """``test-noisy``: the same utterances by id, text and speaker."""
    folder = out / "test-noisy"
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for cut in tqdm(cuts, desc="test-noisy", disable=None):
        heard_n = surroundings(load_waveform(cut, RATE), 0, cut.id)
        path = (folder / f"{cut.id}.flac").resolve()
        heard_n = heard_n * min(1.0, 0.9 / float(np.abs(heard_n).max()))
        soundfile.write(path, heard_n, RATE, subtype="PCM_16")
        copy = Recording.from_file(path, recording_id=cut.recording_id).to_cut()
        copy.id, copy.supervisions = cut.id, cut.supervisions
        copies.append(copy)
    write_cuts(copies, out / "test-noisy.cuts.jsonl.gz")


if __name__ == "__main__":
    main()
