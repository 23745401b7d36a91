"""Folders of audio with texts beside them, and splitting them by speakers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_corpora import RATE, left_out, prepare, prepared, tone

from asr.data.corpora.common import split
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import LeftOut
from asr.data.store.preparation import Part, Utterance
from asr.errors import InputError


def test_a_folder_of_any_depth_and_format(tmp_path: Path) -> None:
    corpus = tmp_path / "talks"
    tone(corpus / "a.mp3", 400).with_suffix(".txt").write_text("first\n  talk ", encoding="utf-8")
    tone(corpus / "kim" / "x" / "a.flac", 500).with_suffix(".txt").write_text("ÜBER", "utf-8-sig")
    tone(corpus / "kim" / "b.WAV", 600).with_suffix(".txt").write_text("third")
    (corpus / ".hidden.wav").write_bytes(b"")
    (corpus / "notes.pdf").write_bytes(b"")
    prepare("folder", "--corpus", corpus, "--out", tmp_path)
    found = prepared(tmp_path, "talks")
    assert {key: value[:3] for key, value in found.items()} == {
        "a": ("first talk", UNKNOWN_SPEAKER, 400),
        "kim-x-a": ("ÜBER", UNKNOWN_SPEAKER, 500),
        "kim-b": ("third", UNKNOWN_SPEAKER, 600),
    }
    assert left_out(tmp_path, "talks") == [("notes.pdf", "not audio by its name")]


def test_what_is_wrong_in_a_folder_is_named(tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    tone(corpus / "s1" / "good.wav", 400).with_suffix(".txt").write_text("good")
    tone(corpus / "s1" / "bytes.wav", 400).with_suffix(".txt").write_bytes(b"\xff\xfe caf\xe9")
    tone(corpus / "s1" / "empty.wav", 400).with_suffix(".txt").write_text(" \n")
    tone(corpus / "s1" / "long.wav", 400).with_suffix(".txt").write_text("many words " * 10_000)
    tone(corpus / "s1" / "alone.wav", 400)
    (corpus / "s1" / "silent.txt").write_text("no audio")
    tone(corpus / "s1" / "good.flac", 900)  # the same name, the same text, twice
    (corpus / "s1" / "text.mp3").write_text("no sound")
    (corpus / "s1" / "text.txt").write_text("words")
    nan = corpus / "s1" / "nan.wav"
    soundfile.write(nan, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    nan.with_suffix(".txt").write_text("nan")
    prepare("folder", "--corpus", corpus, "--out", tmp_path, "--speaker-level", 1)
    assert {key: value[1] for key, value in prepared(tmp_path, "c").items()} == {"good": "s1"}
    assert left_out(tmp_path, "c") == [
        ("alone", "audio without transcript"),
        ("bytes", "unreadable transcript"),
        ("empty", "empty transcript"),
        ("good", "duplicate id"),
        ("long", "transcript too long for CTC"),
        ("nan", "NaN or infinite samples"),
        ("silent", "transcript without audio"),
        ("text", "unreadable audio"),
    ]


def test_a_file_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    tone(corpus / "good.wav", 400).with_suffix(".txt").write_text("good")
    bad = os.path.join(os.fsencode(corpus), b"caf\xe9.wav")
    try:
        os.rename(tone(corpus / "x.wav", 400), bad)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    Path(os.fsdecode(bad)).with_suffix(".txt").write_text("coffee")
    prepare("folder", "--corpus", corpus, "--out", tmp_path)
    assert [*prepared(tmp_path, "c")] == ["good"]
    assert left_out(tmp_path, "c") == [("caf\\udce9", "file name is not UTF-8")]


def test_a_linked_folder_is_followed_once(tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    tone(tmp_path / "elsewhere" / "a.wav", 400).with_suffix(".txt").write_text("linked")
    corpus.mkdir()
    (corpus / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(corpus)
    prepare("folder", "--corpus", corpus, "--out", tmp_path)
    assert [*prepared(tmp_path, "c")] == ["a"]


def test_m4a_files_are_prepared_and_loaded(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV not installed")
    path = tmp_path / "c" / "a.m4a"
    path.parent.mkdir()
    wave = (0.5 * np.sin(2 * np.pi * 500 * np.arange(2 * RATE) / RATE)).astype("f4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    path.with_suffix(".txt").write_text("from a phone")
    prepare("folder", "--corpus", path.parent, "--out", tmp_path)
    assert prepared(tmp_path, "c")["a"][:3] == ("from a phone", UNKNOWN_SPEAKER, 500)


def part_of(speakers: dict[str, int]) -> Part:
    items = [
        Utterance(f"{name}-{k}", Path(f"{name}/{k}.wav"), "text", name)
        for name, number in speakers.items()
        for k in range(number)
    ]
    return Part("all", items, [LeftOut("x", "reason", "")])


@pytest.mark.parametrize("num_speakers", [3, 10, 100])
def test_a_split_keeps_speakers_whole_and_shares_about_right(num_speakers: int) -> None:
    part = part_of({f"s{k}": 5 + k % 7 for k in range(num_speakers)})
    parts = {one.name: one for one in split(part, 0.1, 0.2)}
    speakers = {name: {item.speaker for item in one.utterances} for name, one in parts.items()}
    assert sum(map(len, speakers.values())) == num_speakers  # nobody twice, nobody lost
    every = [item.id for one in parts.values() for item in one.utterances]
    assert sorted(every) == sorted(item.id for item in part.utterances)
    assert all(speakers.values())
    if num_speakers == 100:
        total = len(part.utterances)
        assert len(parts["dev"].utterances) == pytest.approx(0.1 * total, abs=8)
        assert len(parts["test"].utterances) == pytest.approx(0.2 * total, abs=8)
    shuffled = Part("all", part.utterances[::-1], [])
    again = {one.name: {item.id for item in one.utterances} for one in split(shuffled, 0.1, 0.2)}
    assert again == {name: {item.id for item in one.utterances} for name, one in parts.items()}
    assert parts["train"].left_out == part.left_out


def test_unknown_speakers_are_split_by_utterance() -> None:
    parts = split(part_of({UNKNOWN_SPEAKER: 50}), 0.1, 0.0)
    assert {one.name: len(one.utterances) for one in parts} == {"train": 45, "dev": 5}


def test_too_few_speakers_to_split() -> None:
    with pytest.raises(InputError, match="2 speakers are too few"):
        split(part_of({"a": 10, "b": 10}), 0.1, 0.1)
    with pytest.raises(InputError, match="leave nothing to train on"):
        split(part_of({"a": 10, "b": 10}), 0.5, 0.5)


def test_a_folder_is_split_on_the_command_line(tmp_path: Path) -> None:
    for k in range(6):
        path = tone(tmp_path / "c" / f"s{k // 2}" / f"{k}.wav", 400)
        path.with_suffix(".txt").write_text("words")
    words = ("--out", tmp_path, "--speaker-level", 1, "--dev-share", 0.3, "--test-share", 0.3)
    prepare("folder", "--corpus", tmp_path / "c", *words)
    parts = [
        {value[1] for value in prepared(tmp_path, part).values()}
        for part in ("train", "dev", "test")
    ]
    assert sorted(name for part in parts for name in part) == ["s0", "s1", "s2"]
