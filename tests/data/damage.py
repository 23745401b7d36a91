"""A program that reads damaged copies of an audio file under limits of memory and time, in a process of
its own: a fork of the tests' process would inherit whatever locks its threads hold.

    python damage.py ORIGINAL SEED COUNT WHAT

WHAT is "read", "without-pyav", or the name of a fault that the limits must show. The last damaged copy
is left beside the original.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from asr.data.audio.blocks import read_blocks
from asr.data.audio.samples import AudioError, check_audio, probe, read_audio

MEMORY_BYTES = 1 << 30
SECONDS = 120
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


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


def check(path: Path) -> None:
    for read in (probe, check_audio, read_audio, joined_blocks):
        try:
            found = read(path)
        except AudioError:
            continue
        if isinstance(found, np.ndarray):
            assert found.dtype == np.float32
            assert found.ndim == 1
            assert np.isfinite(found).all()


def joined_blocks(path: Path) -> np.ndarray:
    """As `asr transcribe` reads: what can be read of a damaged file, in blocks."""
    return np.concatenate([*read_blocks(path, 16000, [])])


def limit() -> None:
    """So much memory beyond what is used now, so many seconds, no core file, no word from decoders."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(SECONDS)


def main(original: Path, seed: int, count: int) -> None:
    content, rng = original.read_bytes(), np.random.default_rng(seed)
    path = original.with_name(original.name.replace("original", "damaged"))
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        check(path)


FAULTS = {
    "exception": lambda: print(1 // 0),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "memory": lambda: print(np.ones(1 << 28).sum()),
}

if __name__ == "__main__":
    original, seed, count, what = sys.argv[1:]
    limit()
    if what == "without-pyav":
        importlib.util.find_spec = lambda name, package=None: None
    if what in FAULTS:
        FAULTS[what]()
    else:
        main(Path(original), int(seed), int(count))
