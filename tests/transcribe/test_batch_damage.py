"""`asr transcribe` of many inputs: what is wrong with one, or with the output, costs that one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr.api import Failure
from asr.data.store.manifest import read_cuts, write_cuts
from asr.transcribe.formats import to_json
from asr.transcribe.result import Transcript

from .conftest import RATE, Run, write

FORMATS = "txt,json,srt,vtt,tsv,ctm,textgrid"


@pytest.fixture
def odd_name(tmp_path: Path, babble: np.ndarray) -> Path:
    """A file whose name is not UTF-8."""
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")))
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    write(tmp_path / "plain.wav", babble[:RATE])
    (tmp_path / "plain.wav").rename(path)
    return path


def command(exp: Path, *words: object) -> list[str]:
    start = [sys.executable, "-m", "asr.cli", "transcribe", "--model", exp, "--device", "cpu"]
    return [str(word) for word in [*start, "--threads", 1, *words]]


@pytest.mark.parametrize("format_", FORMATS.split(","))
def test_a_name_that_is_not_utf8(run: Run, odd_name: Path, good: Path, format_: str) -> None:
    assert run(odd_name, good, "--format", format_, "--beside")[0] == 0
    suffix = ".TextGrid" if format_ == "textgrid" else f".{format_}"
    for path in (odd_name, good):
        path.with_suffix(suffix).read_text(encoding="utf-8")


@pytest.mark.parametrize("format_", ["txt", "json", "ctm"])
def test_a_name_that_is_not_utf8_is_printed(
    odd_name: Path, good: Path, exp: Path, format_: str
) -> None:
    words = command(exp, odd_name, good, "--format", format_)
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert "caf\\udce9" in lines[0] or json.loads(lines[0])["name"].endswith("caf\\udce9.wav")
    assert "good" in lines[-1]


@pytest.mark.parametrize("length", [255, 300])
def test_names_as_long_as_they_may_be_and_longer(
    run: Run, tmp_path: Path, good: Path, babble: np.ndarray, length: int
) -> None:
    """255 bytes: the files whose names still fit are written, each other one costs itself."""
    long = tmp_path / ("x" * (length - 4) + ".wav")
    if length == 255:
        write(long, babble[:RATE])
    code, _, err = run(long, good, "--beside", "--format", FORMATS)
    assert code == 3
    assert all(good.with_suffix(f".{name}").exists() for name in ("txt", "json", "srt"))
    assert "File name too long" in err
    if length == 255:
        made = [name for name in ("txt", "srt", "ctm") if long.with_suffix(f".{name}").exists()]
        assert made == ["txt", "srt", "ctm"]
        assert not any(path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
@pytest.mark.parametrize("format_", ["txt", "json", "ctm"])
def test_standard_output_of_another_encoding(
    environment: dict[str, str], format_: str, exp: Path, good: Path, tmp_path: Path
) -> None:
    """What it cannot hold is escaped, and every input has its line."""
    odd = tmp_path / "naïve — 言葉.wav"
    odd.write_bytes(good.read_bytes())
    words = command(exp, odd, good, "--format", format_)
    done = subprocess.run(words, capture_output=True, check=False, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("latin-1").splitlines()
    if format_ == "json":
        assert [json.loads(line)["name"] for line in lines] == [str(odd), str(good)]
    elif format_ == "txt":
        first, second = (line.split("\t")[1] for line in lines)
        assert first == second != ""


def test_json_of_any_text_survives_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from asr.transcribe.outputs import Printed
    from asr.transcribe.sources import file_source

    heard = Transcript("a.wav", "über — 言葉", (), 1.0)
    for format_ in ("json", "txt"):
        raw = io.BytesIO()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
            told = Printed([format_], 1).write(file_source(Path("a.wav")), heard)
            sys.stdout.detach()
        if format_ == "json":
            assert told
            assert json.loads(raw.getvalue()) == json.loads(to_json(heard))
        else:
            assert not told
            assert raw.getvalue() == b"\xfcber \\u2014 \\u8a00\\u8449\n"


def test_the_exit_status_says_whether_any_failed(
    run: Run, tmp_path: Path, good: Path, babble: np.ndarray
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    write(tmp_path / "last.wav", babble[:RATE])
    files, out = [bad, good, tmp_path / "no.wav", tmp_path / "last.wav"], tmp_path / "out"
    code, _, err = run(*files, "--out", out)
    assert (code, err.count("asr: error: ")) == (3, 2)
    assert {path.name for path in out.glob("[!.]*")} == {"good.txt", "last.txt"}
    code, _, err = run(*files, "--out", out)
    assert (code, err.count("asr: error: ")) == (3, 2), "the same failures again"
    assert run(bad, "--out", out)[0] == 2
    assert run(good, tmp_path / "last.wav", "--out", out)[0] == 0, "all done before"


def test_missing_formats_of_a_finished_input_are_made(run: Run, tmp_path: Path, good: Path) -> None:
    """As after a kill between two of them; the others keep their bytes and times."""
    out = tmp_path / "out"
    assert run(good, "--out", out, "--format", FORMATS)[0] == 0
    whole = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("[!.]*")}
    for name in ("good.json", "good.TextGrid"):
        (out / name).unlink()
    assert run(good, "--out", out, "--format", FORMATS)[0] == 0
    for path in out.glob("[!.]*"):
        content, time_ns = whole.pop(path.name)
        assert path.read_bytes() == content
        if path.suffix not in (".json", ".TextGrid"):
            assert path.stat().st_mtime_ns == time_ns
    assert not whole


def test_what_is_done_at_sigterm_stays(exp: Path, tmp_path: Path, babble: np.ndarray) -> None:
    """The third source is a pipe that nobody writes to; the second filled the pool."""
    write(tmp_path / "a.wav", babble[: 5 * RATE])
    write(tmp_path / "b.wav", babble[: 30 * RATE])
    os.mkfifo(tmp_path / "c.wav")
    options = ["--max-batch-s", 5, "--window-s", 5, "--overlap-s", 1, "--out", tmp_path / "out"]
    files = [tmp_path / name for name in ("a.wav", "b.wav", "c.wav")]
    process = subprocess.Popen(command(exp, *files, *options))
    try:
        while not (tmp_path / "out" / "a.txt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM
    finally:
        process.kill()
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.txt"]
    assert (tmp_path / "out" / "a.txt").read_text().endswith("\n")


def test_one_result_for_each_input_in_order(
    exp: Path, good: Path, babble: np.ndarray, tmp_path: Path
) -> None:
    transcriber = asr.load(exp, "cpu")
    samples_n, rate = soundfile.read(good, dtype="float32")
    inputs = [
        *(good, str(good), tmp_path / "no.wav", (samples_n, rate)),
        *((samples_n[None], rate), (samples_n, 0), samples_n, None, good),
        *("a\0b.wav", (samples_n.reshape(2, 2, -1), rate), (samples_n, "16000")),
    ]
    outcomes = list(transcriber.transcribe_all(inputs))
    assert len(outcomes) == len(inputs)
    expected = transcriber.transcribe(good).text
    texts = [None if isinstance(o.result, Failure) else o.result.text for o in outcomes]
    same, none = expected, None
    assert texts[:9] == [same, same, none, same, same, none, none, none, same]
    assert texts[9:] == [none] * 3
    assert "(array, sample_rate)" in str(outcomes[6].result.error)
    (alone,) = transcriber.transcribe_all((samples_n, rate))
    assert alone.result.text == expected
    (refused,) = transcriber.transcribe_all(samples_n)
    assert "(array, sample_rate)" in str(refused.result.error)


def test_manifests_twice_give_their_cuts_twice(
    exp: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))[:2]
    manifest = tmp_path / "few.cuts.jsonl.gz"
    write_cuts(cuts, manifest)
    outcomes = asr.load(exp, "cpu").transcribe_all([manifest, manifest])
    assert [outcome.source.name for outcome in outcomes] == [cut.id for cut in cuts] * 2
