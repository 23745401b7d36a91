"""Memory of checking long files grows with what a block holds, not with the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV not installed")
if not Path("/proc/self/status").exists():
    pytest.skip("no /proc: peak memory of a process is not known", allow_module_level=True)

RATE = 44100
CHECK = """
import re, sys
from pathlib import Path
from asr.data.audio.samples import check_audio
info = check_audio(sys.argv[1])
# getrusage would count what the parent had before exec
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(info.num_samples, peak[1])
"""


def write_m4a(path: Path, minutes: int) -> None:
    """Stereo noise of low level, lossless, which is fast to write."""
    noise_cn = np.random.default_rng(0).integers(-300, 300, (2, RATE), dtype=np.int16)
    with av.open(str(path), "w", format="ipod") as file:
        stream = file.add_stream("alac", rate=RATE, layout="stereo")
        size = stream.codec_context.frame_size or 4096
        every_cn = np.tile(noise_cn, 60 * minutes)
        for start in range(0, every_cn.shape[1], size):
            piece_cn = np.ascontiguousarray(every_cn[:, start : start + size])
            frame = av.AudioFrame.from_ndarray(piece_cn, format="s16p", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


def peak_of_checking(path: Path) -> tuple[int, float]:
    """(samples, peak megabytes of a process of its own)."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(path)], capture_output=True, text=True, check=True
    )
    samples, kilobytes = map(int, done.stdout.split())
    return samples, kilobytes / 1024


def test_a_long_m4a_is_checked_in_the_memory_of_a_short_one(tmp_path: Path) -> None:
    found = {}
    for minutes in (1, 5):
        path = tmp_path / f"{minutes}.m4a"
        write_m4a(path, minutes)
        samples, found[minutes] = peak_of_checking(path)
        assert samples == pytest.approx(60 * minutes * RATE, abs=RATE)
    # four minutes more of float32 samples of two channels would be 85 MB
    assert found[5] - found[1] < 40
