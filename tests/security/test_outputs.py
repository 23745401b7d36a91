"""Places of results, and lines told meanwhile: nothing else is lost, nothing is steered."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.cli import main
from asr.data.audio.samples import AudioError
from asr.data.store.manifest import load_waveform, read_cuts
from asr.data.store.preparation import Utterance, prepare_part
from asr.errors import InputError
from asr.files import write_atomically

NO_FILE = "cannot write: a folder, a pipe or a device, not a file"


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("asr: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("a b c\n" * 20)
    return path


@pytest.fixture
def cuts(tmp_path: Path, tiny_corpus: Path) -> Path:
    path = tmp_path / "some.cuts.jsonl.gz"
    path.write_bytes((tiny_corpus / "test.cuts.jsonl.gz").read_bytes())
    return path


def test_pipes_sockets_and_links_to_open_files_are_not_replaced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "other").touch()
    (tmp_path / "open").symlink_to(f"/proc/self/fd/{os.open(tmp_path / 'other', os.O_RDONLY)}")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        names = ("pipe", "link", "open", "socket")
        before = [(tmp_path / name).lstat().st_ino for name in names]
        for name in names:
            told = refused(capsys, "lm", "train", "--text", text, "--out", tmp_path / name)
            assert NO_FILE in told
        assert [(tmp_path / name).lstat().st_ino for name in names] == before
    assert len(list(tmp_path.iterdir())) == 6


def test_devices_are_not_replaced(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))
    except OSError:
        pytest.skip("only root makes devices")
    with pytest.raises(InputError, match=NO_FILE):
        write_atomically(device, "text")
    assert device.is_char_device()


def test_a_link_in_a_folder_of_results_is_replaced_and_not_followed(
    tmp_path: Path, text: Path
) -> None:
    (tmp_path / "compare.md").symlink_to(text)
    write_atomically(tmp_path / "compare.md", "new")
    assert text.read_text() == "a b c\n" * 20


def test_what_is_read_is_not_written_over(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path, cuts: Path
) -> None:
    (tmp_path / "same.txt").hardlink_to(text)
    (tmp_path / "other.cuts.jsonl.gz").symlink_to(cuts)
    packed, other = cuts.read_bytes(), tmp_path / "other.cuts.jsonl.gz"
    for words in (
        ["lm", "train", "--text", text, "--out", text],
        ["lm", "train", "--text", cuts, text, "--out", tmp_path / "same.txt"],
        ["subset", "--cuts", cuts, "--out", cuts],
        ["subset", "--cuts", cuts, "--out", other],
        ["join", "--cuts", other, "--out", cuts],
    ):
        assert "is read; name another" in refused(capsys, *words)
    assert [text.read_text(), cuts.read_bytes()] == ["a b c\n" * 20, packed]


@pytest.mark.parametrize("verb", ["subset", "join"])
def test_a_manifest_is_written_as_its_name_says(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, cuts: Path
) -> None:
    ids = []
    for name in ("a.jsonl", "a.jsonl.gz", "a.cuts.jsonl.gz"):
        assert main([verb, "--cuts", str(cuts), "--out", str(tmp_path / name)]) == 0
        ids.append([cut.id for cut in read_cuts(tmp_path / name)])
    capsys.readouterr()
    assert ids[0] == ids[1] == ids[2] != []
    for name in ("a.json", "a", "a.yaml", "a.gz"):
        told = refused(capsys, verb, "--cuts", cuts, "--out", tmp_path / name)
        assert "ends in .jsonl.gz or .jsonl" in told
        assert not (tmp_path / name).exists()


SLEEPER = """
import sys, time
from pathlib import Path
from asr import cli
from asr.commands import doctor
from asr.files import unfinished
def run(args):
    with unfinished(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("begun", flush=True)
        time.sleep(60)
doctor.run = run
cli.main(["doctor"])
"""


def test_sigterm_leaves_no_half_written_file(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SLEEPER, str(tmp_path / "result.txt")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_error_lines_steer_no_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "a\x1b[2J\x9b1m\u202eb\u2028c\rd"
    told = refused(capsys, "score", tmp_path / name)
    assert "a\\x1b[2J\\x9b1m\\u202eb c d" in told


def test_a_command_goes_on_where_standard_error_takes_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    words = [sys.executable, "-m", "asr.cli", "score", str(tmp_path / "none")]
    with open("/dev/full", "w") as full:
        assert subprocess.run(words, stderr=full, check=False).returncode == 2


def test_a_file_that_is_another_than_its_manifest_says(
    tmp_path: Path,
) -> None:
    """Another rate plays at another speed, other channels are mixed: neither is an error to Lhotse."""
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "mono.flac", rng.uniform(-0.3, 0.3, 32000), 16000)
    soundfile.write(tmp_path / "two.flac", rng.uniform(-0.3, 0.3, (32000, 2)), 16000)
    utterances = [Utterance(n, tmp_path / f"{n}.flac", "some words", "s") for n in ("mono", "two")]
    prepare_part("good", utterances, tmp_path, num_jobs=1)
    for cut in read_cuts(tmp_path / "good.cuts.jsonl.gz"):
        recording = cut.recording
        whole = load_waveform(cut, 16000)
        assert len(whole) == 32000
        for part in (cut, cut.truncate(offset=0.5, duration=0.5), cut.pad(3.0)):
            load_waveform(part, 16000)
            recording.sampling_rate, recording.duration = 8000, 4.0
            with pytest.raises(
                AudioError, match="has 16000 samples per second, the manifest says 8000"
            ):
                load_waveform(part, 16000)
            recording.sampling_rate, recording.duration = 16000, 2.0
            source = recording.sources[0]
            right, source.channels = source.channels, [0, 1, 2]
            with pytest.raises(AudioError, match=r"has [12] channels, the manifest says 3"):
                load_waveform(part, 16000)
            source.channels = right
        cut.recording.sampling_rate = "16000"
        with pytest.raises(AudioError, match="'16000'"):
            load_waveform(cut, 16000)
