"""Damaged audio of every format: samples or AudioError, never another exception, a crash or a hang, nor
memory beyond bounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

PROGRAM = Path(__file__).with_name("damage.py")
RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
    "m4a": None,
    "mkv": None,
}


def original(folder: Path, suffix: str) -> Path:
    """Half a second of stereo."""
    path = folder / f"original.{suffix}"
    wave_nc = 0.3 * np.random.default_rng(1).standard_normal((RATE // 2, 2))
    kind = FORMATS[suffix]
    if kind is not None:
        soundfile.write(path, wave_nc, RATE, format=kind[0], subtype=kind[1])
        return path
    av = pytest.importorskip("av", reason="PyAV not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wave_nc.T, dtype="f4"), format="fltp", layout="stereo"
        )
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def ending(original: Path, seed: int, count: int, what: str) -> str:
    """Empty, or how a process that should have ended well did end."""
    if not sys.platform.startswith("linux"):
        pytest.skip("limits on memory and /proc are Linux's")
    words = [sys.executable, PROGRAM, original, seed, count, what]
    run = subprocess.run([*map(str, words)], capture_output=True, check=False)
    if run.returncode < 0:
        return f"killed by signal {-run.returncode}"
    return run.stderr.decode(errors="replace")[-4000:] if run.returncode else ""


def fuzz(folder: Path, suffix: str, seed: int, count: int, what: str = "read") -> None:
    # the file that did it is left in the test's folder
    assert ending(original(folder, suffix), seed, count, what) == "", folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    fuzz(tmp_path, suffix, seed=0, count=150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_damaged_files(tmp_path: Path, suffix: str, seed: int) -> None:
    fuzz(tmp_path, suffix, seed, count=2000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_without_pyav_too(tmp_path: Path, suffix: str) -> None:
    fuzz(tmp_path, suffix, seed=9, count=100, what="without-pyav")


@pytest.mark.parametrize(
    ("fault", "sign"),
    [("exception", "ZeroDivisionError"), ("crash", "signal 11"), ("memory", "MemoryError")],
)
def test_the_fuzzer_notices(tmp_path: Path, fault: str, sign: str) -> None:
    assert sign in ending(tmp_path / "none", 0, 0, fault)
