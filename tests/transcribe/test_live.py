"""Live text: the tokens of the whole with the same chunks, however samples and bytes are cut; as soon
as promised; in memory that does not grow."""

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
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

import asr
from asr.api import SearchOptions, StreamResult, TextStream, Transcriber
from asr.cli import main
from asr.errors import InputError
from asr.model_folder import Model
from asr.search.prefix_beam import prefix_beam
from asr.transcribe.pcm import InterruptibleInput

from .conftest import SMALL, STREAMING, untrained

RATE = 16000
ATTENTION = [
    [f"attention.weighting={weighting}", f"attention.position={position}"]
    for weighting in ("softmax", "sigmoid")
    for position in ("alibi", "rope", "relative")
]
Run = Callable[..., tuple[int, list[dict], str]]


def offline_log_probs(model: Model, wave_n: np.ndarray, chunk: tuple[int, int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.net(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]), chunk=chunk)[
            0
        ]


def offline_letters(model: Model, wave_n: np.ndarray, chunk: tuple[int, int]) -> str:
    """The full-file chunked pass: the likeliest token of each frame, repeats and blanks left out."""
    path = offline_log_probs(model, wave_n, chunk)[0].argmax(-1).tolist()
    tokens = [token for token, _ in itertools.groupby(path) if token]
    return "".join(model.tokenizer.decode(tokens).split())


def letters(results: Iterable[StreamResult]) -> str:
    return "".join("".join(one.segment.text.split()) for one in results if one.is_final)


def fed(stream: TextStream, parts: Iterable[np.ndarray]) -> list[StreamResult]:
    return [*(one for part in parts for one in stream.feed(part)), *stream.finish()]


def random_parts(wave_n: np.ndarray, seed: int) -> list[np.ndarray]:
    """Some of no sample, some longer than a chunk."""
    sizes = (10 ** np.random.default_rng(seed).uniform(-0.5, 4.5, 1000)).astype(int)
    return np.split(wave_n, np.minimum(np.cumsum(sizes), len(wave_n)))


@pytest.mark.parametrize("options", ATTENTION, ids=" ".join)
def test_any_cutting_gives_the_tokens_of_the_whole(
    tmp_path: Path, babble: np.ndarray, options: list[str]
) -> None:
    model = untrained(tmp_path, False, babble, [*STREAMING, *options])
    wave_n = babble[: 6 * RATE + 77]
    expected = offline_letters(model, wave_n, (8, 3))
    assert len(expected) > 10
    assert expected != offline_letters(model, wave_n, (4, 1)), "chunks make a difference"
    transcriber = Transcriber(model)
    whole = fed(transcriber.stream(), [wave_n])
    assert letters(whole) == expected
    finals = [one for one in whole if one.is_final]
    results = fed(transcriber.stream(), random_parts(wave_n, 0))
    assert [one for one in results if one.is_final] == finals
    small = fed(transcriber.stream(chunk=4, left_chunks=1), random_parts(wave_n, 3))
    assert letters(small) == offline_letters(model, wave_n, (4, 1))


@pytest.fixture(scope="module")
def transcriber(streaming_exp: Path) -> Transcriber:
    return asr.load(streaming_exp, "cpu")


def test_results_come_as_soon_as_promised(transcriber: Transcriber, babble: np.ndarray) -> None:
    stream = transcriber.stream(chunk=4)
    # 4 frames of 40 ms, and what a window of 25 ms reaches beyond its hop of 10 ms
    assert (stream.chunk_s, stream.latency_s) == pytest.approx((0.16, 0.175))
    begin, heard = RATE, False
    stream.feed(babble[:begin])
    for end in range(begin + 800, 3 * RATE, 800):
        heard = heard or bool(stream.feed(babble[end - 800 : end]))
    assert heard
    stream = transcriber.stream(chunk=4)
    due = round(0.175 * RATE) - 1
    stream.feed(babble[:due])
    assert stream._num_frames == 0
    stream.feed(babble[due : due + 1])
    assert stream._num_frames == 4


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_resampling_is_counted_in_the_latency(transcriber: Transcriber, rate: int) -> None:
    stream = transcriber.stream(rate, chunk=4)
    assert 0.175 < stream.latency_s < 0.3
    for number in range(1, 10):  # after a further chunk of sound a further chunk of frames
        due_s = stream.latency_s + (number - 1) * stream.chunk_s
        while stream.duration_s < due_s:
            stream.feed(np.zeros(rate // 200, np.float32))
        assert stream._num_frames >= 4 * number


def test_partial_results_grow_into_final_ones(transcriber: Transcriber, babble: np.ndarray) -> None:
    """Each partial result begins where the last final one ended, and is news."""
    results = fed(transcriber.stream(chunk=4), np.split(babble[: 20 * RATE], 100))
    finals = [one.segment for one in results if one.is_final]
    assert len(finals) > 1
    end_s, shown, num_partial = 0.0, "", 0
    for one in results:
        assert one.segment.text == " ".join(word.text for word in one.segment.words) != ""
        assert one.segment.start_s >= end_s
        if one.is_final:
            end_s, shown = one.segment.end_s, ""
        else:
            assert one.segment.text != shown
            shown, num_partial = one.segment.text, num_partial + 1
    assert num_partial > len(finals)
    assert end_s <= 20.0


def test_other_rates_and_channels(transcriber: Transcriber, babble: np.ndarray) -> None:
    """Oracle: soxr over all samples at once, then the model over all of them."""
    speech_n = babble[: 6 * RATE : 2]
    expected = offline_letters(
        transcriber.model, soxr.resample(speech_n, 8000, RATE).astype("f4"), (8, 3)
    )
    assert len(expected) > 10
    stream = transcriber.stream(8000)
    assert letters(fed(stream, random_parts(speech_n, 1))) == expected
    assert stream.duration_s == 6.0
    both_cn = np.stack([speech_n[::-1], speech_n])
    stream = transcriber.stream(8000, channel=1)
    assert letters(fed(stream, np.split(both_cn, 10, axis=1))) == expected
    int16 = np.round(babble[: 3 * RATE] * 32767).astype("<i2")
    assert letters(fed(transcriber.stream(), [int16])) == letters(
        fed(transcriber.stream(), [int16.astype("f4") / 32768])
    )


def test_final_results_by_beam_search(streaming_exp: Path, babble: np.ndarray) -> None:
    beam = asr.load(streaming_exp, "cpu", SearchOptions(search="beam", beam=4, num_best=2))
    wave_n = babble[: 2 * RATE]
    log_probs_btv = offline_log_probs(beam.model, wave_n, (8, 3))
    lens_b = torch.tensor([log_probs_btv.shape[1]])
    best, second = prefix_beam(log_probs_btv, lens_b, beam=4, num_best=2)[0]
    finals = [one for one in fed(beam.stream(), np.split(wave_n, 8)) if one.is_final]
    assert len(finals) == 1
    spelled = [" ".join(beam.model.tokenizer.decode(one.tokens).split()) for one in (best, second)]
    assert [one.text for one in finals[0].segment.alternatives] == spelled


def test_bad_samples_are_a_gap_and_silence(transcriber: Transcriber, babble: np.ndarray) -> None:
    damaged = babble[: 4 * RATE].copy()
    damaged[RATE : 2 * RATE] = np.nan
    silenced = np.nan_to_num(damaged)
    stream = transcriber.stream()
    results = fed(stream, random_parts(damaged, 2))
    assert letters(results) == offline_letters(transcriber.model, silenced, (8, 3))
    assert (stream.gaps[0].start_s, stream.gaps[-1].end_s) == (1.0, 2.0)
    nothing = transcriber.stream()
    nothing.feed(np.full(100, np.inf, np.float32))
    with pytest.raises(InputError, match="only"):
        nothing.finish()


def test_nothing_and_next_to_nothing(transcriber: Transcriber) -> None:
    assert transcriber.stream().finish() == []
    for count in (1, 399):
        assert fed(transcriber.stream(), [np.zeros(count, np.float32)]) == []


@pytest.mark.parametrize("sound", ["babble", "silence"])
def test_an_endless_stream_needs_no_more_memory(
    transcriber: Transcriber, babble: np.ndarray, sound: str
) -> None:
    """Everything that a stream holds, after each half minute: tensors, and what Python allocates."""
    stream = transcriber.stream()
    block_n = babble[: 30 * RATE] if sound == "babble" else np.zeros(30 * RATE, np.float32)
    sizes, allocated = [], []
    tracemalloc.start()
    for _ in range(3):
        for part_n in np.split(block_n, 30):
            stream.feed(part_n)
        layers, held = stream._log_probs._encoder.layers, stream._cutter.held
        tensors = [t for past in layers for t in (past.k_bhsd, past.v_bhsd, past.conv_bdt)]
        sizes.append([t.numel() for t in tensors if t is not None])
        assert len(stream._log_probs._wave_n) < 8 * 640 + 400
        assert len(held.log_probs_tv) * 0.04 <= 30
        allocated.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0][0] == 32 * 24, "keys of three chunks of eight frames"
    assert allocated[2] - allocated[1] < 50_000


def test_a_past_without_bounds_in_training_is_bounded(tmp_path: Path, babble: np.ndarray) -> None:
    options = [*STREAMING, "encoder.left_chunks=[-1,2]", "data.max_duration_s=3.1"]
    stream = Transcriber(untrained(tmp_path, False, babble, options)).stream(chunk=4)
    fed(stream, np.split(babble[: 10 * RATE], 20))
    # 3.1 s are 20 chunks of 160 ms
    assert {past.num_past_keys for past in stream._log_probs._encoder.layers} == {80}


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        (["encoder.chunk_sizes=[]"], {}, r"train with encoder\.causal=true encoder\.chunk_sizes="),
        (["encoder.chunk_sizes=[0]"], {}, "this one saw whole utterances"),
        ([], {"chunk": 5}, "chunks of 5 frames: this model was trained with 4, 8"),
        ([], {"left_chunks": 2}, "2 chunks before: this model was trained with 1, 3"),
        (["encoder.left_chunks=[-1]"], {"left_chunks": -1}, "any number from 0"),
        ([], {"sample_rate": 7}, "7 samples per second, which cannot be right"),
    ],
)
def test_what_cannot_be_streamed_is_refused(
    tmp_path: Path, babble: np.ndarray, options: list[str], call: dict[str, int], message: str
) -> None:
    model = untrained(tmp_path, False, babble, [*STREAMING, *options])
    with pytest.raises(InputError, match=message):
        Transcriber(model).stream(**call)


def test_samples_that_are_none_are_refused(transcriber: Transcriber) -> None:
    for samples, message in (
        (np.zeros(5, np.uint8), "floats or signed integers"),
        (np.zeros((1, 2, 3)), "3 axes"),
    ):
        with pytest.raises(InputError, match=message):
            transcriber.stream().feed(samples)
        with pytest.raises(InputError, match=message):
            transcriber.transcribe(samples, RATE)


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


def test_a_model_without_chunks_is_refused(run: Run, exp: Path) -> None:
    code, lines, err = run([], "--model", exp)
    assert (code, lines) == (2, [])
    assert err.count("\n") == 1
    assert "train with encoder.causal=true encoder.chunk_sizes=[0,8,16,32]" in err


def test_the_training_that_is_recommended_exists(exp: Path) -> None:
    from asr import config

    with pytest.raises(InputError) as refused:
        asr.load(exp, "cpu").stream()
    options = str(refused.value).partition("train with ")[2].split()
    assert len(options) == 3
    assert config.load([], options).encoder.chunk_sizes == [0, 8, 16, 32]


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


def test_a_live_process_and_ctrl_c(
    streaming_exp: Path, transcriber: Transcriber, babble: np.ndarray
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
        process.send_signal(signal.SIGINT)
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
