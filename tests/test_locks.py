"""Two processes on one folder: the second gets one line, and a process that dies leaves no lock."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asr.cli import main
from asr.errors import InputError
from asr.locks import locked

HOLD = "import sys, time, pathlib; from asr.locks import locked\n"
HOLD += (
    "with locked(pathlib.Path(sys.argv[1]), sys.argv[2]): print('held', flush=True); time.sleep(99)"
)


def holder(folder: Path, name: str = "") -> subprocess.Popen[str]:
    """A process that holds the folder."""
    words = [sys.executable, "-c", HOLD, str(folder), name]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_gets_one_line_that_names_folder_and_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "exp"
    process = holder(folder)
    try:
        expected = rf"{folder}: another process \(pid {process.pid} on .*\) writes into this folder"
        with pytest.raises(InputError, match=expected), locked(folder):
            raise AssertionError
        with locked(folder, "another part"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(folder):
            assert [path.name for path in folder.iterdir()] == [".lock"]
        assert not [*folder.iterdir()]
    finally:
        process.kill()
        process.wait()


def test_a_folder_made_for_the_lock_goes_with_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad input"), locked(tmp_path / "a" / "b"):
        raise InputError("bad input")
    assert not [*tmp_path.iterdir()]
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "result").write_text("kept")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "result"]


def test_many_at_once_never_hold_it_together(tmp_path: Path) -> None:
    """Each appends a line as it enters and one as it leaves: they alternate."""
    code = (
        "import sys, os, pathlib; from asr.locks import locked; from asr.errors import InputError\n"
        "folder, log = map(pathlib.Path, sys.argv[1:]); count = 0\n"
        "say = lambda text: os.write(out, text); out = os.open(log, os.O_WRONLY | os.O_APPEND)\n"
        "while count < 200:\n"
        "    try:\n"
        "        with locked(folder): say(b'('); say(b')')\n"
        "        count += 1\n"
        "    except InputError: pass\n"
    )
    (tmp_path / "log").touch()
    words = [sys.executable, "-c", code, str(tmp_path / "x"), str(tmp_path / "log")]
    processes = [subprocess.Popen(words) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "()" * 600


def test_without_locks_it_is_said_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on NFS without its lock daemon."""
    import fcntl

    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        (tmp_path / "file").touch()
    told = capsys.readouterr().err
    assert told.startswith(f"asr: warning: {tmp_path}: this file system has no locks")
    assert told.count("\n") == 1


def test_commands_that_would_damage_each_other_are_refused(
    tmp_path: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp, cuts = tmp_path / "exp", tiny_corpus / "dev.cuts.jsonl.gz"
    (exp / "checkpoints").mkdir(parents=True)
    train = ["train", "--exp", exp, f"data.train=[{cuts}]", f"data.dev=[{cuts}]"]
    (tmp_path / "dev.wav").touch()
    commands = {
        "": [train, [*train, "--resume"], ["shard", "--cuts", cuts, "--out", exp],
             ["average", "--exp", tmp_path, "--out", exp]],
        "dev": [["prepare", "lhotse", "--corpus", cuts, "--out", exp]],
        "corpus": [["prepare", "synthetic", "--hours", "1", "--out", exp]],
    }  # fmt: skip
    for name, several in commands.items():
        process = holder(exp, name)
        try:
            for words in several:
                assert main([str(word) for word in words]) == 2
                assert f"pid {process.pid}" in capsys.readouterr().err
            assert [path.name for path in exp.glob("[!.]*")] == ["checkpoints"]
        finally:
            process.kill()
            process.wait()
