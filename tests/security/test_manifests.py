"""A stranger's manifest runs, opens and downloads nothing, whatever command reads it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign_cuts import FORMS, HUGE, RARER, Form, with_source, with_transforms

from asr.cli import main
from asr.data.store import index
from asr.data.store.gate import check_item
from asr.data.store.manifest import read_cuts
from asr.errors import InputError

from ..hardening.conftest import TINY, Workspace
from ..hardening.conftest import workspace as workspace

Words = Callable[[Workspace, Path, Path], list[object]]
COMMANDS: dict[str, Words] = {
    "train": lambda space, cuts, out: [
        *("train", "--exp", out / "new", *TINY, f"data.train=[{cuts}]"),
        f"data.dev=[{space.cuts}]",
    ],
    "train, dev": lambda space, cuts, out: [
        *("train", "--exp", out / "new", *TINY, f"data.train=[{space.cuts}]", f"data.dev=[{cuts}]"),
    ],
    "train, noises": lambda space, cuts, out: [
        *("train", "--exp", out / "new", *TINY, f"data.train=[{space.cuts}]"),
        *(f"data.dev=[{space.cuts}]", f"augment.noises=[{cuts}]"),
    ],
    "decode": lambda space, cuts, out: [
        "decode", "--model", space.model, "--cuts", cuts, "--out", out / "new"
    ],
    "transcribe": lambda space, cuts, out: [
        "transcribe", cuts, "--model", space.model, "--out", out / "new"
    ],
    "shard": lambda space, cuts, out: ["shard", "--cuts", cuts, "--out", out / "new"],
    "align": lambda space, cuts, out: [
        "align", "--model", space.model, "--cuts", cuts, "--out", out / "new"
    ],
    "certify": lambda space, cuts, out: [
        "certify", space.model, "--cuts", cuts, "--json", out / "new"
    ],
    "diagnose": lambda space, cuts, out: [
        "diagnose", space.model, "--cuts", cuts, "--json", out / "new"
    ],
    "tune": lambda space, cuts, out: [
        "tune", "--model", space.model, "--cuts", cuts, "--lm", space.lm
    ],
    "subset": lambda space, cuts, out: [
        "subset", "--cuts", cuts, "--out", out / "new.cuts.jsonl.gz"
    ],
    "join": lambda space, cuts, out: [
        "join", "--cuts", cuts, "--out", out / "new.cuts.jsonl.gz", "--max-s", 20
    ],
    "lm train": lambda space, cuts, out: [
        "lm", "train", "--text", cuts, "--out", out / "new", "--order", 2
    ],
    "prepare lhotse": lambda space, cuts, out: [
        "prepare", "lhotse", "--corpus", cuts, "--out", out / "new"
    ],
    "compare --html": lambda space, cuts, out: _compare(space, cuts, out),
}  # fmt: skip


# These reach the manifest as one of the others does, and are tried with a few forms.
MORE_COMMANDS: dict[str, Words] = {
    "train, rooms": lambda space, cuts, out: [
        *("train", "--exp", out / "new", *TINY, f"data.train=[{space.cuts}]"),
        *(f"data.dev=[{space.cuts}]", f"augment.rooms=[{cuts}]"),
    ],
    "join --to-s": lambda space, cuts, out: [
        "join", "--cuts", cuts, "--out", out / "new", "--to-s", 20
    ],
    "prepare lhotse --supervisions": lambda space, cuts, out: [
        *("prepare", "lhotse", "--out", out / "new", *_as_recordings(cuts))
    ],
}  # fmt: skip


def _as_recordings(cuts: Path) -> list[object]:
    """A manifest of recordings and one of supervisions with what the cuts hold."""
    items = [json.loads(line) for line in gzip.decompress(cuts.read_bytes()).splitlines()]
    recordings = cuts.with_name("recordings.jsonl")
    supervisions = cuts.with_name("supervisions.jsonl")
    recordings.write_text("".join(json.dumps(item["recording"]) + "\n" for item in items))
    lines = [json.dumps(part) + "\n" for item in items for part in item["supervisions"]]
    supervisions.write_text("".join(lines))
    return ["--recordings", recordings, "--supervisions", supervisions]


def _compare(space: Workspace, cuts: Path, out: Path) -> list[object]:
    """A stranger's folder of results names the manifest."""
    copy = out / "theirs"
    shutil.copytree(space.model, copy)
    for path in copy.rglob("decode.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"cuts": str(cuts)}))
    return ["compare", copy, "--html", out / "new.html", "--utterance", "0"]


def manifest(space: Workspace, form: Form, folder: Path, canary: Path) -> Path:
    """The second of two cuts is the stranger's."""
    first, second = [cut.to_dict() for cut in list(read_cuts(space.cuts))[:2]]
    cuts = [first, form(second, str(canary))]
    path = folder / "theirs.cuts.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(cut) + "\n" for cut in cuts).encode()))
    return path


def refused(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("asr: error: ")
    return line


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_refused_in_one_line(
    command: str,
    form: str,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    cuts = manifest(workspace, FORMS[form], tmp_path, canary)
    line = refused(COMMANDS[command](workspace, cuts, tmp_path), capsys)
    assert "a manifest may name audio files and members of shards only" in line
    assert str(cuts) in line
    assert not canary.exists()
    assert not list((tmp_path / "new").rglob("*"))
    assert not list(tmp_path.glob("new.*"))


@pytest.mark.parametrize("form", FORMS)
def test_refused_in_a_large_manifest(
    form: str,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large ones are indexed instead of loaded."""
    monkeypatch.setattr(index, "INDEX_ABOVE_BYTES", 0)
    canary = tmp_path / "canary"
    cuts = manifest(workspace, FORMS[form], tmp_path, canary)
    line = refused(COMMANDS["train"](workspace, cuts, tmp_path), capsys)
    assert "line 2" in line
    assert "a manifest may name audio files" in line
    assert not canary.exists()


@pytest.mark.parametrize("form", ["command", "pipe", "transform"])
@pytest.mark.parametrize("command", MORE_COMMANDS)
def test_refused_by_the_other_ways_in(
    command: str,
    form: str,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    cuts = manifest(workspace, FORMS[form], tmp_path, canary)
    line = refused(MORE_COMMANDS[command](workspace, cuts, tmp_path), capsys)
    assert "a manifest may name audio files and members of shards only" in line
    assert not canary.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", RARER)
@pytest.mark.parametrize("command", ["decode", "prepare lhotse"])
def test_rarer_ways_are_refused_too(
    command: str,
    form: str,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    canary = tmp_path / "canary"
    cuts = manifest(workspace, RARER[form], tmp_path, canary)
    line = refused(COMMANDS[command](workspace, cuts, tmp_path), capsys)
    assert str(cuts) in line
    assert "line 2: " in line
    assert "a manifest may name audio files and members of shards only" in line
    assert not canary.exists()


@pytest.mark.parametrize("form", HUGE)
def test_what_would_take_any_memory_is_malformed(
    form: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lhotse.serialization import deserialize_item

    from asr.data.store.manifest import load_waveform

    cuts = manifest(workspace, HUGE[form], tmp_path, tmp_path / "canary")
    line = refused(COMMANDS["decode"](workspace, cuts, tmp_path), capsys)
    assert f"{cuts}: line 2: not a manifest" in line
    item = json.loads(gzip.decompress(cuts.read_bytes()).splitlines()[1])
    with pytest.raises(InputError, match="malformed"):
        load_waveform(deserialize_item(item), 16000)


def test_refused_where_only_the_samples_are_loaded(workspace: Workspace, tmp_path: Path) -> None:
    """A cut that came by another way than a manifest."""
    from lhotse.serialization import deserialize_item

    from asr.data.store.gate import ForeignSource
    from asr.data.store.manifest import load_waveform

    (first, *_) = [cut.to_dict() for cut in read_cuts(workspace.cuts)]
    for form in ("command", "pipe", "address", "track", "transform", "shard of a pipe"):
        cut = deserialize_item(json.loads(json.dumps(FORMS[form](first, str(tmp_path / "canary")))))
        with pytest.raises(ForeignSource, match="audio files and members"):
            load_waveform(cut, 16000)
        assert not (tmp_path / "canary").exists()


def test_a_manifest_called_as_a_command(
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lhotse runs what a path says after ``pipe:``; here it is the name of a file."""
    monkeypatch.chdir(tmp_path)
    name = "pipe:touch canary; cat a.jsonl"
    shutil.copy(workspace.cuts, tmp_path / f"{name}.gz")
    words = ["subset", "--cuts", f"{name}.gz", "--out", tmp_path / "new.cuts.jsonl.gz"]
    assert main([str(word) for word in words]) == 0
    assert not (tmp_path / "canary").exists()


def test_shards_hold_audio_and_no_other_file(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole files are packed byte for byte, and shards are passed on."""
    secret, pipe = tmp_path / "id_rsa", tmp_path / "pipe.wav"
    secret.write_text("PRIVATE KEY")
    os.mkfifo(pipe)
    for path in (secret, pipe):
        form = with_source(
            lambda _, path=path: {"type": "file", "channels": [0], "source": str(path)}
        )
        cuts = manifest(workspace, form, tmp_path, tmp_path / "canary")
        out = tmp_path / f"out-{path.name}"
        assert main(["shard", "--cuts", str(cuts), "--out", str(out), "--jobs", "1"]) == 0
        assert str(path) in capsys.readouterr().out
        (tar,) = out.glob("*.tar")
        assert b"PRIVATE" not in tar.read_bytes()
        assert len(read_cuts(out / cuts.name)) == 1


def test_what_is_not_a_file_is_not_waited_for(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe that nobody writes to, a device that never ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "archive.tar")
    inside = str(tmp_path / "archive.tar" / "a.wav")
    sources = {
        inside: {"type": "file", "channels": [0], "source": inside},
        str(pipe): {"type": "file", "channels": [0], "source": str(pipe)},
        "/dev/zero": {"type": "file", "channels": [0], "source": "/dev/zero"},
        "shard": {"type": "url", "channels": [0], "source": f"{pipe}#offset=0&size=99"},
    }
    for source in sources.values():
        cuts = manifest(workspace, with_source(lambda _, found=source: found), tmp_path, pipe)
        line = refused(COMMANDS["decode"](workspace, cuts, tmp_path), capsys)
        assert "not a" in line.lower()


@pytest.mark.parametrize("factor", [0.0, 0.02, 1.5, 50.0])
def test_a_change_of_volume_is_no_change_of_length(workspace: Workspace, factor: float) -> None:
    cut = next(iter(read_cuts(workspace.cuts))).to_dict()
    transforms = [{"name": "Volume", "kwargs": {"factor": factor}}]
    transforms.append({"name": "Speed", "kwargs": {"factor": 0.9}})
    check_item(with_transforms(transforms)(cut, ""))
