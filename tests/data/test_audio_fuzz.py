"""Damaged audio of every format: samples or AudioError, never another exception, a crash or a hang, nor
memory beyond bounds."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import AudioError, check_audio, probe, read_audio

RATE = 16000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
    "m4a": None,
}
MEMORY_BYTES = 1 << 30
SECONDS = 60
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def original(folder: Path, suffix: str) -> bytes:
    """Half a second of stereo."""
    path = folder / f"original.{suffix}"
    wave_nc = 0.3 * np.random.default_rng(1).standard_normal((RATE // 2, 2))
    kind = FORMATS[suffix]
    if kind is not None:
        soundfile.write(path, wave_nc, RATE, format=kind[0], subtype=kind[1])
        return path.read_bytes()
    av = pytest.importorskip("av", reason="extra `media` not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="stereo")
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(wave_nc.T, dtype="f4"), format="fltp", layout="stereo"
        )
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path.read_bytes()


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four kinds of damage, mostly near the head, where lengths and rates are."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        end = len(data) if rng.random() < 0.3 else min(len(data), 200)
        at = int(rng.integers(0, max(1, end)))
        kind = rng.integers(0, 6)
        if kind == 0:
            data[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind == 1:
            value, size = EXTREMES[rng.integers(0, len(EXTREMES))], int(rng.choice([1, 2, 4]))
            order = "little" if rng.random() < 0.5 else "big"
            data[at : at + size] = (value & (256**size - 1)).to_bytes(size, order)
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 64))]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        else:
            data[at:at] = data[at : at + int(rng.integers(1, 512))]
    return bytes(data)


def in_a_process(work: Callable[[], None]) -> str:
    """Empty, or how ``work`` ended that should have ended well, under limits of memory and time."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders complain there
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(SECONDS)
            work()
            code = 0
        except BaseException:
            os.write(writer, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        error = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return error if code == 1 else f"killed by signal {-code}" if code else ""


def check(path: Path) -> None:
    for read in (probe, check_audio, read_audio):
        try:
            found = read(path)
        except AudioError:
            continue
        if isinstance(found, np.ndarray):
            assert found.dtype == np.float32
            assert found.ndim == 1
            assert np.isfinite(found).all()


def fuzz(tmp_path: Path, suffix: str, seed: int, count: int) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("limits on memory and /proc are Linux's")
    content = original(tmp_path, suffix)
    path = tmp_path / f"damaged.{suffix}"
    rng = np.random.default_rng(seed)

    def work() -> None:
        for _ in range(count):
            path.write_bytes(mutate(content, rng))
            check(path)

    # the file that did it is left in the test's folder
    assert in_a_process(work) == "", path


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    fuzz(tmp_path, suffix, seed=0, count=150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_damaged_files(tmp_path: Path, suffix: str, seed: int) -> None:
    fuzz(tmp_path, suffix, seed, count=2000)


def test_without_pyav_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for suffix in ("wav", "flac", "mp3"):
        fuzz(tmp_path, suffix, seed=9, count=100)


def test_the_fuzzer_notices(tmp_path: Path) -> None:
    """It would see an exception, a crash and an allocation out of bounds."""
    assert "ZeroDivisionError" in in_a_process(lambda: print(1 // 0))
    assert in_a_process(lambda: os.kill(os.getpid(), signal.SIGSEGV)) == "killed by signal 11"
    assert "MemoryError" in in_a_process(lambda: print(np.ones(1 << 28).sum()))
