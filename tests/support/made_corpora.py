"""Small corpora for tests: tones that tell files apart, and what came of preparing them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from asr.cli import main
from asr.data.store.manifest import load_waveform, read_cuts

RATE = 16000

# `asr prepare` that is refused: its message.
Refusal = Callable[..., str]


def tone(path: Path, hz: float, duration_s: float = 1.0) -> Path:
    """Its frequency tells one file from another, whatever the codec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(duration_s * RATE)) / RATE)
    soundfile.write(path, wave, RATE)
    return path


def steps(path: Path) -> Path:
    """Four seconds: 300, 600, 900 and 1200 Hz, a second each; the first is the loudest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.arange(RATE) / RATE
    wave = [np.sin(2 * np.pi * 300 * k * seconds) / (2 + k) for k in (1, 2, 3, 4)]
    soundfile.write(path, np.concatenate(wave), RATE)
    return path


def pitch_hz(wave_n: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave_n))) * RATE / len(wave_n))


def prepared(out: Path, part: str) -> dict[str, tuple[str, str, float, float]]:
    """Utterance -> (text, speaker, pitch, seconds), by loading as training does."""
    found = {}
    for cut in read_cuts(out / f"{part}.cuts.jsonl.gz"):
        (supervision,) = cut.supervisions
        wave_n = load_waveform(cut, RATE)
        assert supervision.start == 0
        assert len(wave_n) == cut.num_samples
        found[cut.id] = (
            supervision.text,
            supervision.speaker,
            round(pitch_hz(wave_n) / 10) * 10.0,
            cut.duration,
        )
    return found


def left_out(out: Path, part: str) -> list[tuple[str, str]]:
    report = json.loads((out / f"{part}.report.json").read_text())
    return sorted((item["id"], item["reason"]) for item in report["left_out"])


def prepare(*words: object) -> None:
    assert main(["prepare", *map(str, words)]) == 0
