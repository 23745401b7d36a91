"""`asr completion` in real shells: keys are typed, and a function in place of asr shows its words."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from asr.cli import main

pytest.importorskip("shtab")

SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "PS1='ready> '; source {}"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "PS1='ready> '; unsetopt zle_bracketed_paste; autoload -U compinit; compinit -D -u; "
        'eval "$(cat {})"',
    ),
}


def typed(shell: str, script: Path, keys: str, folder: Path) -> list[str]:
    """The words that asr is called with when these keys are typed and then Enter."""
    command, start = SHELLS[shell]
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C"}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        fake = "asr() { printf '\\137%s\\137' \"$@\"; printf 'end\\041\\n'; }"
        os.write(ours, f"{start.format(script)}; {fake}; printf 'begin\\041\\n'\n".encode())
        until(ours, "begin!")
        os.write(ours, f"asr {keys}\n".encode())
        shown = until(ours, "end!")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    line = shown[: shown.rindex("end!")].splitlines()[-1]
    return line.strip("_").split("__")


def until(terminal: int, mark: str) -> str:
    """What the shell writes up to a mark; a minute is for a machine that is very busy."""
    shown, deadline = "", time.monotonic() + 60
    while mark not in shown:
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        assert ready, shown
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("transc\t--mod\t real-\t", ["transcribe", "--model", "real-en"]),
        ("train --exp x encoder.ki\tconf\t", ["train", "--exp", "x", "encoder.kind=conformer"]),
        ("config train.comp\ttr\t", ["config", "train.compile=true"]),
        ("config attention.shift=-\t", ["config", "attention.shift=-log n"]),
        (
            "train --exp e encoder.kind=conformer attention.posi\tro\t",
            ["train", "--exp", "e", "encoder.kind=conformer", "attention.position=rope"],
        ),
        (
            "train --config man\tattention.posi\tro\t",
            ["train", "--config", "manifest", "attention.position=rope"],
        ),
        (
            "train --config man\t--ex\t x",
            ["train", "--config", "manifest", "--exp", "x"],
        ),
        ("train --config=man\tencoder.ki\t", ["train", "--config=manifest", "encoder.kind="]),
        ("export --format in\t", ["export", "--format", "int8"]),
        ("tune --metric=c\t", ["tune", "--metric=cer"]),
        ("train --exp=man\t", ["train", "--exp=manifest"]),
        ("stream --model=real\t", ["stream", "--model=real-en"]),
        ("decode --device cu\t--cuts man\t", ["decode", "--device", "cuda", "--cuts", "manifest"]),
        ("decode --cuts two\\ words/a\t", ["decode", "--cuts", "two words/a b.gz"]),
        ('decode --cuts "two words/a\t', ["decode", "--cuts", "two words/a b.gz"]),
        ("decode --cuts 'two words/a\t", ["decode", "--cuts", "two words/a b.gz"]),
        ("decode --cuts two\ta\t", ["decode", "--cuts", "two words/a b.gz"]),
        ("decode --cuts=two\\ words/a\t", ["decode", "--cuts=two words/a b.gz"]),
        ("decode --model two\tx", ["decode", "--model", "two words/x"]),
        ("lm per\t", ["lm", "perplexity"]),
        (
            "lm train --text man\tman\t./man\t--orde\t 3",
            ["lm", "train", "--text", "manifest", "manifest", "./manifest", "--order", "3"],
        ),
        (
            "prepare lhotse --corpus=man\tman\t--ou\t x",
            ["prepare", "lhotse", "--corpus=manifest", "manifest", "--out", "x"],
        ),
        ("prepare libri\t--cor\t ./man\t", ["prepare", "librispeech", "--corpus", "./manifest"]),
        ("transcribe man\t", ["transcribe", "manifest"]),
        ("transcribe talk.flac man\t", ["transcribe", "talk.flac", "manifest"]),
    ],
)
def test_tab_completes(
    shell: str, keys: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "manifest").touch()
    (folder / "two words").mkdir()
    (folder / "two words" / "a b.gz").touch()
    assert typed(shell, script, keys, folder) == words


def test_zsh_describes_commands_by_their_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert "transcribe:'audio" in script
    assert "completion:'a script that completes" in script
