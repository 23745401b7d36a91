"""`asr transcribe`: whatever is thrown at it, a clear message, and the other files still transcribed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.cli import main
from asr.data.store.manifest import read_cuts

from .conftest import RATE, Run, needs_silero, write


def odd_input(kind: str, path: Path, babble: np.ndarray) -> None:
    speech = babble[: 2 * RATE]
    spoilt = speech.copy()
    spoilt[5000:5100] = np.nan
    spoilt[9000] = np.inf
    arrays = {
        "one sample": (speech[:1], RATE),
        "50 ms": (speech[:800], RATE),
        "silence": (np.zeros(RATE, np.float32), RATE),
        "NaN and inf": (spoilt, RATE),
        "all NaN": (np.full(RATE, np.nan, np.float32), RATE),
        "clipped": (np.sign(speech), RATE),
        "beyond 1.0": (30000 * speech, RATE),
        "absurd": (1e30 * speech, RATE),
        "8 kHz": (speech[::2], 8000),
        "96 kHz": (np.repeat(speech, 6), 96000),
        "6 channels": (np.stack([speech] * 6, axis=1), RATE),
    }
    if kind in arrays:
        write(path, *arrays[kind])
    elif kind == "truncated MP3":
        soundfile.write(path, speech, RATE, format="MP3")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("these are words, not sound")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "code", "complaints"),
    [
        ("one sample", 0, 1),
        ("50 ms", 0, 0),
        ("silence", 0, 0),
        ("clipped", 0, 0),
        ("beyond 1.0", 0, 1),
        ("8 kHz", 0, 0),
        ("96 kHz", 0, 0),
        ("6 channels", 0, 0),
        ("NaN and inf", 0, 2),
        ("truncated MP3", 0, 1),
        ("all NaN", 2, 1),
        ("absurd", 2, 1),
        ("text", 2, 1),
        ("empty", 2, 1),
        ("missing", 2, 1),
        ("folder", 2, 1),
    ],
)
def test_odd_input_is_survived_alone_and_in_company(
    run: Run, tmp_path: Path, good: Path, babble: np.ndarray, kind: str, code: int, complaints: int
) -> None:
    odd = tmp_path / "odd.wav"
    odd_input(kind, odd, babble)
    found, out, err = run(odd)
    assert found == code
    assert err.count("\n") == complaints, err
    assert all(line.startswith("asr: ") and "odd.wav" in line for line in err.splitlines())
    assert bool(out) == (code == 0)
    found, out, err = run(odd, good)
    assert found == (0 if code == 0 else 3), "whether any failed"
    assert err.count("\n") == complaints
    assert out.splitlines()[-1].startswith(f"{good}\t")
    assert len(out.splitlines()) == 1 + (code == 0)


def test_gaps_are_in_the_json(run: Run, tmp_path: Path, babble: np.ndarray) -> None:
    odd_input("NaN and inf", tmp_path / "a.wav", babble)
    _, out, err = run(tmp_path / "a.wav", "--format", "json")
    gaps = json.loads(out)["gaps"]
    assert [gap["start_s"] for gap in gaps] == [round(5000 / RATE, 3), round(9000 / RATE, 3)]
    assert "not transcribed from 0.31 s to 0.32 s" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_seen_on_a_terminal_only(
    run: Run, tmp_path: Path, good: Path, babble: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "long.wav", babble[: 20 * RATE])
    words = [tmp_path / "long.wav", good, "--window-s", 5, "--overlap-s", 1, "--max-batch-s", 5]
    code, expected, err = run(*words)
    assert (code, err) == (0, "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # no thread that outlives the test
    code, out, _ = run(*words)
    assert (code, out) == (0, expected)
    assert isinstance(sys.stderr, Terminal)
    told = sys.stderr.getvalue()
    seconds = [int(one) for one in re.findall(r"transcribing: (\d+) s of sound in 00:", told)]
    assert seconds == sorted(seconds)
    assert (seconds[0], seconds[-1]) == (0, 23)
    assert told.rpartition("\r")[0].endswith(" ")  # the last line was wiped


def test_a_manifest_gives_a_line_for_each_cut(run: Run, tiny_corpus: Path) -> None:
    manifest = tiny_corpus / "test.cuts.jsonl.gz"
    code, out, err = run(manifest)
    assert (code, err) == (0, "")
    assert [line.split("\t")[0] for line in out.splitlines()] == [c.id for c in read_cuts(manifest)]


def test_one_channel_of_many(run: Run, tmp_path: Path, good: Path, babble: np.ndarray) -> None:
    speech = babble[: 3 * RATE]
    write(tmp_path / "two.wav", np.stack([speech[::-1], speech], axis=1), subtype="PCM_16")
    assert run(tmp_path / "two.wav", "--channel", 2)[1] == run(good)[1]
    ctm = run(tmp_path / "two.wav", "--channel", 2, "--format", "ctm")[1]
    assert {line.split()[1] for line in ctm.splitlines()} == {"2"}
    assert run(good, "--format", "ctm")[1].split()[1] == "1"
    code, _, err = run(tmp_path / "two.wav", "--channel", 3)
    assert code == 2
    assert "no channel 3: choose from 1 to 2" in err


def test_standard_input(
    run: Run, good: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = run(good)[1]
    for content, code in ((good.read_bytes(), 0), (b"not sound", 2)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        found, out, err = run("-")
        assert found == code
        assert (out == expected) if code == 0 else ("standard input" in err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "doc"], "format 'doc': choose from txt, json"),
        (["--format", "srt,txt"], "one goes to standard output"),
        (["--channel", "0"], "channels count from 1"),
        (["--overlap-s", "20"], "overlap"),
        (["--vad-silence-s", "1"], "--vad-silence-s 1: means nothing without --vad"),
        (
            ["--search", "beam", "--num-best", "3", "--format", "srt"],
            "--num-best 3: only --format json shows more than one",
        ),
    ],
)
def test_wrong_options_get_one_line(run: Run, good: Path, options: list[str], message: str) -> None:
    code, out, err = run(good, *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("option", ["--overlap-s", "--window-s", "--max-batch-s"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_seconds_are_finite(run: Run, good: Path, option: str, value: str) -> None:
    code, out, err = run(good, f"{option}={value}")
    assert (code, out) == (2, "")
    assert "must be" in err.splitlines()[-1]


def test_hotwords_do_not_take_the_input(run: Run, good: Path) -> None:
    options = ["--search", "beam", "--beam", 2, "--hotwords", "lazy dog", "--hotwords", "fox"]
    assert run(*options, good)[0] == 0
    code, _, err = run(*options, "--hotwords", "f0x", good)
    assert code == 2
    assert "hotword 'f0x': this model never writes '0'" in err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["transcribe", "-"], "stdin"),
        (["transcribe", "none.wav"], "stdout"),
        (["stream"], "stdin"),
        (["stream"], "stdout"),
    ],
)
def test_closed_streams_get_one_line(
    words: list[str],
    name: str,
    streaming_exp: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python starts with None in their place."""
    monkeypatch.setattr(sys, name, None)
    assert main([*words, "--model", str(streaming_exp), "--device", "cpu"]) == 2
    monkeypatch.undo()
    closed = {"stdin": "input", "stdout": "output"}[name]
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"asr: error: standard {closed} is closed")
    assert found.err.count("\n") == 1


def test_several_subtitles_do_not_fit_into_one_stream(run: Run, good: Path, tmp_path: Path) -> None:
    code, _, err = run(good, tmp_path / "b.wav", "--format", "vtt")
    assert code == 2
    assert "--beside or --out" in err


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path, good: Path) -> None:
    """A file stands where a folder should: refused for root too."""
    (tmp_path / "out").write_text("a file")
    code, _, err = run(good, good.with_name("none.wav"), "--out", tmp_path / "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot make this folder" in err
    if Path("/proc/self").exists():
        code, _, err = run(good, "--out", "/proc/self")
        assert (code, err.count("\n")) == (2, 1)
        assert "/proc/self: cannot write into this folder" in err


def test_a_file_deleted_while_it_waits(
    tmp_path: Path, good: Path, exp: Path, babble: np.ndarray
) -> None:
    import asr
    from asr.transcribe.sources import find_sources

    write(tmp_path / "later.wav", babble[:RATE])
    sources = list(find_sources([str(good), str(tmp_path / "later.wav")]))
    (tmp_path / "later.wav").unlink()
    first, second = asr.load(exp, "cpu").transcribe_sources(sources)
    assert str(first.result)
    assert "no such file" in str(second.result)


def start(exp: Path, *words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "asr.cli", "transcribe", "--model", exp, "--device", "cpu"]
    return subprocess.Popen(
        [str(word) for word in [*command, *words]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_reader_that_goes_away_is_no_error(exp: Path, good: Path) -> None:
    process = start(exp, good)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_what_is_done_when_interrupted_stays(exp: Path, tmp_path: Path, babble: np.ndarray) -> None:
    """The last source is a pipe that nobody writes to; the one before it filled the pool."""
    write(tmp_path / "a.wav", babble[: 5 * RATE])
    write(tmp_path / "b.wav", babble[: 30 * RATE])
    os.mkfifo(tmp_path / "c.wav")
    options = ["--max-batch-s", 5, "--window-s", 5, "--overlap-s", 1, "--out", tmp_path / "out"]
    process = start(exp, *(tmp_path / name for name in ("a.wav", "b.wav", "c.wav")), *options)
    try:
        for _ in range(600):
            if (tmp_path / "out" / "a.txt").exists():
                break
            assert process.poll() is None
            time.sleep(0.1)
        # Python loses an interrupt that falls into a destructor; a user would press the keys again
        for _ in range(12):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                break
        assert process.poll() == 130
    finally:
        process.kill()
    assert process.stderr is not None
    assert process.stderr.read().endswith(b"asr: interrupted\n")
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.txt"]


def peak_mb(words: list[object], content: Iterable[bytes] = ()) -> tuple[int, bytes, bytes]:
    """Highest resident memory of `asr WORDS`, what it prints, what it complains about."""
    code = (
        "import resource, sys; from asr.cli import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(code)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words), "--device", "cpu", "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    for data in content:
        process.stdin.write(data)
    out, err = process.communicate()
    assert process.returncode == 0, err
    *lines, last = out.splitlines(keepends=True)
    return int(last), b"".join(lines), err


with_and_without_vad = pytest.mark.parametrize(
    "vad", [[], pytest.param(["--vad"], marks=needs_silero)], ids=["", "vad"]
)


def write_silence(path: Path, minutes: int) -> None:
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(minutes):
            file.write(np.zeros(60 * RATE, "i2"))


@with_and_without_vad
def test_minutes_of_silence(
    run: Run, tmp_path: Path, good: Path, mute_exp: Path, vad: list[str]
) -> None:
    write_silence(tmp_path / "silence.flac", 3)
    code, out, err = run(tmp_path / "silence.flac", *vad, "--model", mute_exp)
    assert (code, out) == (0, "\n")
    lines = err.splitlines()
    assert len(lines) == 1 + len(vad)
    assert lines[-1].endswith("silence.flac: no words found in 180.0 s")


@pytest.mark.slow
@with_and_without_vad
def test_an_hour_of_silence_in_the_memory_of_a_few_minutes(
    tmp_path: Path, mute_exp: Path, vad: list[str]
) -> None:
    """A copy of the 48 minutes between would be 184 MB; the heap grows by 64 at a time."""
    peaks = []
    for minutes in (12, 60):  # from 8 on, as many windows wait as ever do
        path = tmp_path / f"{minutes}.flac"
        write_silence(path, minutes)
        peak, out, err = peak_mb(["transcribe", path, "--model", mute_exp, *vad])
        peaks.append(peak)
        assert out == b"\n"
        assert f"no words found in {60 * minutes}.0 s".encode() in err
    assert peaks[1] < peaks[0] + 150


@pytest.mark.slow
def test_an_hour_of_silence_live_in_the_memory_of_a_few_minutes(mute_exp: Path) -> None:
    peaks = []
    for minutes in (3, 60):
        content = (bytes(2 * RATE) for _ in range(60 * minutes))
        peak, out, err = peak_mb(["stream", "--model", mute_exp], content)
        peaks.append(peak)
        kinds = [json.loads(line)["type"] for line in out.splitlines()]
        assert (kinds, err) == (["ready", "end"], b"")
    assert peaks[1] < peaks[0] + 30
