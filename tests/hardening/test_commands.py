"""Every command that writes, where writing goes wrong: one line, exit status 2, nothing by halves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asr.cli import COMMANDS
from asr.locks import locked

from .conftest import TINY, Workspace, limit_files, run_apart, visible_files

Words = Callable[[Workspace, Path], list[object]]


def _prepare(form: str, source: str, *more: str) -> Words:
    return lambda space, out: [
        *("prepare", form, "--corpus", space.root / source, "--out", out, "--jobs", 1, *more)
    ]


def _train(space: Workspace, out: Path) -> list[object]:
    manifests = [f"data.{part}=[{space.cuts}]" for part in ("train", "dev")]
    return ["train", "--exp", out, *TINY, *manifests]


def _score(space: Workspace, out: Path) -> list[object]:
    """Scores what lies in ``out``, so what was decoded is put there first."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("hypotheses.jsonl", "decode.json"):
        shutil.copy(space.model / "decode" / "few" / name, out / name)
    return ["score", out]


def _tune(space: Workspace, out: Path) -> list[object]:
    """Writes into the model folder, so there is one of its own in ``out``."""
    shutil.copytree(space.model / "model", out, dirs_exist_ok=True)
    words = ["tune", "--model", out, "--cuts", space.cuts, "--lm", space.lm]
    return [*words, "--beam", 2, "--threads", 1]


WRITERS: dict[str, Words] = {
    "prepare librispeech": _prepare("librispeech", "libri"),
    "prepare folder": _prepare("folder", "talks"),
    "prepare tsv": lambda space, out: [
        *_prepare("tsv", "table.tsv")(space, out), "--clips", space.root / "talks"
    ],
    "prepare jsonl": _prepare("jsonl", "nemo.json"),
    "prepare kaldi": _prepare("kaldi", "kaldi"),
    "prepare lhotse": _prepare("lhotse", "few.cuts.jsonl.gz"),
    "prepare synthetic": lambda space, out: [
        *("prepare", "synthetic", "--out", out, "--hours", 0.001, "--dev", 1, "--test", 1),
        *("--jobs", 1),
    ],
    "shard": lambda space, out: ["shard", "--cuts", space.cuts, "--out", out, "--jobs", 1],
    "lm train": lambda space, out: [
        "lm", "train", "--text", space.cuts, "--order", 2, "--out", out / "lm.arpa"
    ],
    "lm prune": lambda space, out: [
        "lm", "prune", space.lm, "--ngrams", 200, "--out", out / "lm.arpa"
    ],
    "lm train-neural": lambda space, out: [
        *("lm", "train-neural", "--text", space.cuts, "--model", space.model, "--out", out),
        *("--epochs", 1, "--dim", 8, "--threads", 1),
    ],
    "tune": _tune,
    "align": lambda space, out: [
        "align", "--model", space.model, "--cuts", space.cuts, "--out", out, "--threads", 1
    ],
    "transcribe": lambda space, out: [
        *("transcribe", space.audio, "--model", space.model, "--out", out),
        *("--format", "json", "--threads", 1, "--overwrite"),
    ],
    "subset": lambda space, out: [
        "subset", "--cuts", space.cuts, "--out", out / "some.cuts.jsonl.gz", "--first", 2
    ],
    "join": lambda space, out: [
        *("join", "--cuts", space.cuts, "--out", out / "joined.cuts.jsonl.gz", "--share", 0.9)
    ],
    "train": _train,
    "average": lambda space, out: ["average", "--exp", space.model, "--out", out],
    "decode": lambda space, out: [
        "decode", "--model", space.model, "--cuts", space.cuts, "--out", out, "--threads", 1
    ],
    "score": _score,
    "compare": lambda space, out: ["compare", space.model, "--out", out],
    "compare --html": lambda space, out: ["compare", space.model, "--html", out / "report.html"],
    "compare --page": lambda space, out: ["compare", space.model, "--page", out / "page.md"],
    "compare --results": lambda space, out: ["compare", space.model, "--results", out / "r.md"],
    "certify": lambda space, out: [
        *("certify", space.model, "--cuts", space.cuts, "--utterances", 2, "--threads", 1),
        *("--json", out / "certificate.json"),
    ],
    "diagnose": lambda space, out: [
        *("diagnose", space.model, "--cuts", space.cuts, "--utterances", 1, "--threads", 1),
        *("--json", out / "figures.json"),
    ],
    "export": lambda space, out: ["export", "--model", space.model, "--out", out / "model.onnx"],
    "export --format int8": lambda space, out: [
        "export", "--model", space.model, "--format", "int8", "--out", out / "small"
    ],
    "push": lambda space, out: ["push", space.model, out / "pushed"],
    "pull": lambda space, out: ["pull", space.model, "--out", out / "pulled"],
}  # fmt: skip
# These print, and write no file.
NO_WRITERS = {"stream", "models", "config", "completion", "doctor"}


def test_every_command_that_writes_is_here() -> None:
    names = {module.__name__.rpartition(".")[2] for module in COMMANDS}
    assert {words.split()[0] for words in WRITERS} == names - NO_WRITERS


every_writer = pytest.mark.parametrize("command", WRITERS)
# Exporting itself takes seconds.
every_writer_that_works = pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.slow) if command == "export" else command
        for command in WRITERS
    ],
)
# These write into a folder that they read.
IN_PLACE = ("score", "tune")
# These do not overwrite.
NEW_FOLDERS = ("train", "push", "pull", "shard", "export --format int8")

# Bytes after which writing fails: half of a first file, and half of one of those that follow.
LIMITS = (40, 3000)
every_limit = pytest.mark.parametrize(
    "num_bytes", [LIMITS[0], pytest.param(LIMITS[1], marks=pytest.mark.slow)]
)


def leftovers(root: Path) -> list[str]:
    """Unfinished files and folders."""
    return [str(path) for path in root.rglob("*") if path.name.startswith(".")]


def whole(name: str, content: bytes) -> bool:
    """A file that its reader can read: JSON, or lines that all end."""
    if name.endswith((".json", ".jsonl")):
        for line in content.decode().splitlines() if name.endswith("l") else [content.decode()]:
            json.loads(line)
    return True


@every_writer_that_works
@every_limit
def test_a_full_disk(command: str, num_bytes: int, workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = WRITERS[command](workspace, out)
    before = visible_files(tmp_path)
    outcome = run_apart(words, limit_files(num_bytes, kill=False))
    if outcome.code == 0:  # everything it writes is smaller than that
        assert num_bytes == LIMITS[-1]
        return
    outcome.refused("cannot write")
    assert not leftovers(tmp_path)
    after = visible_files(tmp_path)
    assert after.items() >= before.items()
    assert all(whole(name, content) for name, content in after.items())
    if num_bytes == LIMITS[0]:
        assert after == before


@every_writer_that_works
@every_limit
def test_killed_while_writing(
    command: str, num_bytes: int, workspace: Workspace, tmp_path: Path
) -> None:
    """What was there stays, a new file is there whole or not at all, and the next run succeeds."""
    out = tmp_path / "out"
    words = WRITERS[command](workspace, out)
    again = command not in NEW_FOLDERS
    if again:
        assert run_apart(words).code == 0
        for path in out.iterdir():  # a sign of its own, to tell old from new
            if path.suffix in (".trn", ".txt"):
                path.write_text("old\n")
    before = visible_files(out)
    outcome = run_apart(words, limit_files(num_bytes, kill=True))
    if outcome.code == 0:
        assert num_bytes == LIMITS[-1]
        return
    assert outcome.code == -25  # SIGXFSZ: in the middle of a write
    after = visible_files(out)
    assert after.keys() >= before.keys()
    assert all(whole(name, content) for name, content in after.items())
    if num_bytes == LIMITS[0]:
        assert after == before
    assert run_apart([*words, *(["--resume"] if command == "train" else [])]).code == 0


@every_writer
def test_a_file_in_the_way_of_the_folder(
    command: str, workspace: Workspace, tmp_path: Path
) -> None:
    if command in IN_PLACE:
        pytest.skip("writes only into the folder it reads")
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    run_apart(WRITERS[command](workspace, out)).refused(str(tmp_path / "file"))
    assert visible_files(tmp_path) == {"file": b"in the way"}


@every_writer
def test_a_folder_that_takes_no_file(command: str, workspace: Workspace) -> None:
    """/proc, where not even root can make one."""
    if command in IN_PLACE or not Path("/proc/self").exists():
        pytest.skip("no such folder here")
    run_apart(WRITERS[command](workspace, Path("/proc/nobody/out"))).refused("/proc/nobody")


@pytest.mark.parametrize("command", ["train", "average", "decode", "shard"])
def test_a_folder_that_another_process_writes_to(
    command: str, workspace: Workspace, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = WRITERS[command](workspace, out)
    with locked(out):
        run_apart(words).refused(str(out), f"another process (pid {os.getpid()}")
        assert visible_files(out) == {}
    assert run_apart(words).code == 0
    assert not leftovers(tmp_path)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real file system of 64 KB, all but one page of it full."""
    folder = tmp_path_factory.mktemp("disk")
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    mount = subprocess.run(["mount", *options], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    (folder / "filler").write_bytes(bytes(60 * 1024))
    yield folder
    subprocess.run(["umount", str(folder)], check=False)


@every_writer_that_works
def test_a_disk_that_is_really_full(command: str, workspace: Workspace, small_disk: Path) -> None:
    if command in IN_PLACE:
        pytest.skip("its own input does not fit")
    out = small_disk / "out"
    outcome = run_apart(WRITERS[command](workspace, out))
    if outcome.code != 0:  # a few lines fit into one page
        outcome.refused("No space left on device")
        assert not leftovers(small_disk)
        assert all(whole(name, content) for name, content in visible_files(out).items())
    else:
        small = ("prepare", "subset", "join", "lm train", "lm prune", "transcribe", "diagnose")
        assert command.startswith((*small, "certify", "compare --results"))
    shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("words", [["config"], ["config", "--show"], ["doctor"]])
def test_printing_to_a_full_disk(words: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def before() -> None:
        import os
        import sys

        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115

    run_apart(words, before).refused("No space left on device")
