"""`asr stream`: bytes in any portions, JSON lines out; Ctrl-C, damage and wrong input."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr.api import Transcriber
from asr.cli import main
from asr.errors import InputError
from asr.transcribe.pcm import InterruptibleInput, PcmDecoder

from .conftest import SMALL, offline_letters

RATE = 16000
Run = Callable[..., tuple[int, list[dict], str]]


class Portions(io.RawIOBase):
    """A pipe whose other end writes these portions."""

    def __init__(self, portions: Iterable[bytes]):
        self._portions = iter(portions)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._rest or next(self._portions, b"")
        data, self._rest = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, streaming_exp: Path
) -> Run:
    def call(portions: Iterable[bytes], *words: object) -> tuple[int, list[dict], str]:
        pipe = io.TextIOWrapper(io.BufferedReader(Portions(portions)))
        monkeypatch.setattr(sys, "stdin", pipe)
        options = ["--model", streaming_exp, "--device", "cpu", "--threads", 1]
        code = main([str(word) for word in ["stream", *options, *words]])
        captured = capsys.readouterr()
        return code, [json.loads(line) for line in captured.out.splitlines()], captured.err

    return call


def pcm(babble: np.ndarray, duration_s: float) -> tuple[bytes, np.ndarray]:
    """Signed 16-bit bytes, and the floats that they mean."""
    int16 = np.round(babble[: int(duration_s * RATE)] * 32767).astype("<i2")
    return int16.tobytes(), int16.astype("f4") / 32768


def said(lines: list[dict]) -> str:
    return "".join("".join(one["text"].split()) for one in lines if one["type"] == "final")


@pytest.mark.parametrize("duration_s", [0.4, pytest.param(4.0, marks=pytest.mark.slow)])
def test_the_command_byte_by_byte(
    run: Run, transcriber: Transcriber, babble: np.ndarray, duration_s: float
) -> None:
    data, wave_n = pcm(babble, duration_s)
    expected = offline_letters(transcriber.model, wave_n, (4, 1))
    assert expected
    single = (data[i : i + 1] for i in range(len(data)))
    code, lines, err = run(single, "--chunk", 4, "--left-chunks", 1)
    assert (code, err) == (0, "")
    assert said(lines) == expected
    assert lines[0] == {"type": "ready", "chunk_ms": 160, "latency_ms": 175}
    assert lines[-1] == {"type": "end", "duration_s": duration_s}


def test_the_command_in_random_portions(
    run: Run, transcriber: Transcriber, babble: np.ndarray
) -> None:
    """Most of them end within a sample; of two channels, within a frame of them."""
    data, wave_n = pcm(babble, 8.0)
    expected = offline_letters(transcriber.model, wave_n, (8, 3))
    rng = np.random.default_rng(0)
    for channels in (1, 2):
        many = np.repeat(np.frombuffer(data, "<i2"), channels).tobytes()
        edges = np.unique(rng.integers(0, len(many), 300)).tolist()
        portions = [many[i:j] for i, j in itertools.pairwise([0, *edges, len(many)]) if j > i]
        code, lines, err = run(portions, "--channels", channels)
        assert (code, err) == (0, "")
        assert said(lines) == expected
        assert {one["type"] for one in lines} == {"ready", "partial", "final", "end"}
    floats = wave_n.astype("<f4").tobytes()
    assert said(run([floats], "--sample-format", "f32le")[1]) == expected


def test_the_command_tells_what_is_damaged(run: Run, babble: np.ndarray) -> None:
    wave_n = babble[: 2 * RATE].astype("<f4")
    wave_n[RATE : RATE + 160] = np.nan
    code, lines, err = run([wave_n.tobytes() + b"abc"], "--sample-format", "f32le")
    assert code == 0
    (gap,) = [one for one in lines if one["type"] == "gap"]
    assert (gap["start_s"], gap["end_s"]) == (1.0, 1.01)
    assert err == "asr: warning: the last 3 bytes are no whole sample\n"


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        (b"RIFF\0\0\0\0WAVE", [], "standard input is WAV, not raw samples"),
        (b"fLaC\0", [], "standard input is FLAC"),
        (b"\x1aE\xdf\xa3", [], "standard input is WebM or Matroska"),
        (b"\0\0\0\x20ftypM4A ", [], "standard input is MP4 or M4A"),
        (b"caff\0\x01", [], "standard input is CAF"),
        (b"", ["--sample-format", "u8"], "choose one of s16le, s32le, f32le"),
        (b"", ["--channels", 0], "0 channels: must be at least 1"),
        (b"", ["--channel", 0], "channels count from 1"),
        (bytes(4), ["--channel", 2], "no channel 2: choose from 1 to 1"),
        (b"", ["--chunk", 5], "was trained with 4, 8"),
    ],
)
def test_wrong_input_and_options_get_one_line(
    run: Run, data: bytes, words: list[object], message: str
) -> None:
    code, lines, err = run([data[:2], data[2:]] if data else [], *words)
    assert code == 2
    assert [one["type"] for one in lines] in ([], ["ready"])
    assert err.startswith("asr: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("portion", [1, 5000])
def test_files_are_no_raw_samples(kind: str, portion: int, babble: np.ndarray) -> None:
    file = io.BytesIO()
    soundfile.write(file, babble[:RATE], RATE, format=kind)
    content = file.getvalue()
    decoder = PcmDecoder("s16le", 1)
    portions = (content[start : start + portion] for start in range(0, len(content), portion))
    with pytest.raises(InputError, match="not raw samples"):
        list(map(decoder.push, portions))


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("adts", "aac"),
        ("mpegts", "aac"),
        ("webm", "libopus"),
        ("ipod", "aac"),
    ],
)
def test_files_of_pyav_are_no_raw_samples(container: str, codec: str) -> None:
    av = pytest.importorskip("av", reason="PyAV not installed")
    file = io.BytesIO()
    with av.open(
        file, "w", format=container, options={"write_xing": "0", "id3v2_version": "0"}
    ) as out:
        stream = out.add_stream(codec, rate=48000, layout="mono")
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, "mono", 48000, size)
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 48000)).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(noise, format="flt", layout="mono")
        sound.rate = 48000
        for frame in [*resampler.resample(sound), *resampler.resample(None)]:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(InputError, match="not raw samples"):
        PcmDecoder("s16le", 1).push(file.getvalue())


def test_a_terminal_is_refused(
    streaming_exp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    master, terminal = os.openpty()
    with open(terminal) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["stream", "--model", str(streaming_exp)]) == 2
    os.close(master)
    assert "standard input is a terminal: pipe raw samples into it" in capsys.readouterr().err


def test_a_model_without_chunks_is_refused(run: Run, exp: Path) -> None:
    code, lines, err = run([], "--model", exp)
    assert (code, lines) == (2, [])
    assert err.count("\n") == 1
    assert "train with encoder.causal=true encoder.chunk_sizes=[0,8,16,32]" in err


def test_the_training_that_is_recommended_exists(exp: Path) -> None:
    from asr import config
    from asr.config.rules import sees_past_only

    with pytest.raises(InputError) as refused:
        asr.load(exp, "cpu").stream()
    chunks, past_only = str(refused.value).partition("train with ")[2].split(", or with ")
    assert len(chunks.split()) == 3
    assert config.load([], chunks.split()).encoder.chunk_sizes == [0, 8, 16, 32]
    assert len(past_only.split()) == 2
    assert sees_past_only(config.load([], past_only.split()))


def test_an_interrupt_waits_for_what_is_being_computed() -> None:
    before = signal.getsignal(signal.SIGINT)
    with InterruptibleInput(io.BufferedReader(Portions([b"ab", b"cd"]))) as blocks:
        seen = []
        for data in blocks:
            seen.append(data)
            signal.raise_signal(signal.SIGINT)
        assert seen == [b"ab"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_from_training_to_live_text(
    run: Run,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    babble: np.ndarray,
) -> None:
    """The training of docs/live.md, of a smaller model; then its experiment streams."""
    page = (Path(__file__).parents[2] / "docs" / "live.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^asr (train .*?)\n```", page, re.M | re.S)
    small = [*SMALL, "encoder.subsampling_channels=4", "train.epochs=1", "train.tensorboard=false"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(tiny_corpus)
    words = shlex.split(command.replace("\\\n", " "))
    assert main([*words, *small, "train.num_threads=1"]) == 0
    capsys.readouterr()
    code, lines, _ = run([pcm(babble, 3.0)[0]], "--model", "exp/live", "--chunk", 16)
    assert code == 0
    assert lines[0]["latency_ms"] == 16 * 40 + 15
    assert lines[-1] == {"type": "end", "duration_s": 3.0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_process_and_ctrl_c(
    streaming_exp: Path, transcriber: Transcriber, babble: np.ndarray, number: signal.Signals
) -> None:
    """Partial results come while the pipe is open; an interrupt gives what is left, and no error."""
    data, wave_n = pcm(babble, 5.0)
    command = [sys.executable, "-m", "asr.cli", "stream", "--model", str(streaming_exp)]
    process = subprocess.Popen(
        [*command, "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines = [json.loads(process.stdout.readline())]
        assert lines[0]["type"] == "ready"
        process.stdin.write(data)
        process.stdin.flush()
        while lines[-1].get("end_s", 0.0) < 4.0:
            lines.append(json.loads(process.stdout.readline()))
        assert any(one["type"] == "partial" for one in lines)
        process.send_signal(number)
        process.stdin.close()
        lines += [json.loads(line) for line in process.stdout.read().splitlines()]
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    assert process.stderr.read() == b""
    # what was still in the pipe when the interrupt came is not read any more
    duration_s = lines[-1]["duration_s"]
    assert lines[-1]["type"] == "end"
    assert 4.0 <= duration_s <= 5.0
    heard_n = wave_n[: round(duration_s * RATE)]
    assert said(lines) == offline_letters(transcriber.model, heard_n, (8, 3))
