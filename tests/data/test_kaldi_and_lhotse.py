"""Kaldi's data directories and Lhotse's manifests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from lhotse import MonoCut, SupervisionSegment
from made_corpora import RATE, Refusal, left_out, prepare, prepared, steps, tone

from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import load_waveform, read_cuts


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    folder = tmp_path / "train_a"
    folder.mkdir()
    steps(tmp_path / "rec1.wav")
    tone(tmp_path / "rec2.flac", 440)
    (folder / "wav.scp").write_text(f"rec1 {tmp_path}/rec1.wav\nrec2 {tmp_path}/rec2.flac\n")
    (folder / "text").write_text("u1 FIRST UTTERANCE\nu2 SECOND\nu3 THIRD\n")
    (folder / "utt2spk").write_text("u1 anna\nu2 anna\nu3 bert\n")
    (folder / "segments").write_text("u1 rec1 0.0 2.0\nu2 rec1 2.0 -1\nu3 rec2 0.1 0.9\n")
    return folder


def test_kaldi_with_segments_equals_lhotse(kaldi: Path, tmp_path: Path) -> None:
    (kaldi / "segments").write_text("u1 rec1 1.0 2.0\nu2 rec1 2.0 3.5\nu3 rec2 0.1 0.9\n")
    prepare("kaldi", "--corpus", kaldi, "--out", tmp_path)
    found = prepared(tmp_path, "train_a")
    assert found == {
        "u1": ("FIRST UTTERANCE", "anna", 600, 1.0),
        "u2": ("SECOND", "anna", 900, 1.5),
        "u3": ("THIRD", "bert", 440, 0.8),
    }
    from lhotse.kaldi import load_kaldi_data_dir

    recordings, supervisions, _ = load_kaldi_data_dir(kaldi, sampling_rate=RATE)
    theirs = {item.id: item for item in supervisions}
    ours = {cut.id: cut for cut in read_cuts(tmp_path / "train_a.cuts.jsonl.gz")}
    assert ours.keys() == theirs.keys()
    for key, cut in ours.items():
        other = theirs[key]
        assert (other.text, other.speaker) == found[key][:2]
        assert (cut.start, cut.duration) == pytest.approx((other.start, other.duration))
        samples = recordings[other.recording_id].load_audio(
            offset=other.start, duration=other.duration
        )
        np.testing.assert_array_equal(load_waveform(cut, RATE), samples[0])


def test_kaldi_without_segments(kaldi: Path, tmp_path: Path) -> None:
    (kaldi / "segments").unlink()
    (kaldi / "wav.scp").write_text("u1 rec1.wav\nu3 rec2.flac\nu4 rec2.flac\nu1 rec2.flac\n")
    prepare("kaldi", "--corpus", kaldi, "--out", tmp_path, "--root", tmp_path)
    assert prepared(tmp_path, "train_a") == {
        "u1": ("FIRST UTTERANCE", "anna", 300, 4.0),
        "u3": ("THIRD", "bert", 440, 1.0),
    }
    assert left_out(tmp_path, "train_a") == [
        ("u1", "duplicate id"),
        ("u2", "transcript without audio"),
        ("u4", "audio without transcript"),
    ]


def test_what_is_wrong_in_a_kaldi_directory(kaldi: Path, tmp_path: Path, refusal: Refusal) -> None:
    (kaldi / "segments").write_text("u1 rec1 1 -1\nu2 rec9 0 1\nu3 rec2 0.5\nu3 rec2 0.9 0.1\n")
    prepare("kaldi", "--corpus", kaldi, "--out", tmp_path)
    assert prepared(tmp_path, "train_a")["u1"][3] == 3.0
    assert left_out(tmp_path, "train_a") == [
        ("segments:3", "malformed line"),
        ("u2", "missing audio"),
        ("u3", "segment outside its audio"),
    ]
    (kaldi / "wav.scp").write_text("rec1 touch pwned |\n")
    message = refusal("kaldi", "--corpus", kaldi)
    assert "rec1 is a shell command (touch pwned |), which is not run" in message
    (kaldi / "wav.scp").unlink()
    assert "no wav.scp in it" in refusal("kaldi", "--corpus", kaldi)


def test_lhotse_recordings_with_supervisions(kaldi: Path, tmp_path: Path) -> None:
    from lhotse.kaldi import load_kaldi_data_dir

    (kaldi / "segments").write_text("u1 rec1 1.0 2.0\nu2 rec1 2.0 3.5\nu3 rec2 0.1 0.9\n")
    recordings, supervisions, _ = load_kaldi_data_dir(kaldi, sampling_rate=RATE)
    recordings.to_file(tmp_path / "r.jsonl.gz")
    supervisions.to_file(tmp_path / "train.jsonl.gz")
    words = ("--recordings", tmp_path / "r.jsonl.gz", "--supervisions", tmp_path / "train.jsonl.gz")
    prepare("lhotse", *words, "--out", tmp_path / "out")
    prepare("kaldi", "--corpus", kaldi, "--out", tmp_path / "out")
    assert prepared(tmp_path / "out", "train") == prepared(tmp_path / "out", "train_a")


def test_lhotse_cuts_of_any_kind(kaldi: Path, tmp_path: Path) -> None:
    """A whole recording with its supervisions, a segment, a padded cut, one without audio."""
    prepare("kaldi", "--corpus", kaldi, "--out", tmp_path / "k")
    u1, u2, u3 = read_cuts(tmp_path / "k" / "train_a.cuts.jsonl.gz")
    told = [
        SupervisionSegment(f"w{k}", u1.recording.id, start=k, duration=1.0, text=f"part {k}")
        for k in (0, 1)
    ]
    whole = MonoCut("whole", 0, 4.0, 0, supervisions=told, recording=u1.recording)
    silent = u3.with_id("silent").drop_supervisions()
    cuts = [whole, u2, u3.pad(duration=2.0).with_id("mixed"), silent, u3.with_id("bare"), u2]
    entries = [cut.to_dict() for cut in cuts]
    del entries[4]["recording"]
    with gzip.open(tmp_path / "any.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    prepare("lhotse", "--corpus", tmp_path / "any.jsonl.gz", "--out", tmp_path)
    assert prepared(tmp_path, "any") == {
        "w0": ("part 0", UNKNOWN_SPEAKER, 300, 1.0),
        "w1": ("part 1", UNKNOWN_SPEAKER, 600, 1.0),
        "u2": ("SECOND", "anna", 900, 2.0),
        "mixed": ("THIRD", "bert", 440, 2.0),
    }
    assert left_out(tmp_path, "any") == [
        ("bare", "unreadable audio"),
        ("silent", "audio without transcript"),
        ("u2", "duplicate id"),
    ]


def test_lhotse_manifests_that_are_refused(kaldi: Path, tmp_path: Path, refusal: Refusal) -> None:
    prepare("kaldi", "--corpus", kaldi, "--out", tmp_path)
    good = tmp_path / "train_a.cuts.jsonl.gz"
    lines = gzip.decompress(good.read_bytes()).decode()
    pipe = tmp_path / "pipe.jsonl"
    pipe.write_text(lines.replace('"type": "file"', '"type": "command"'))
    assert "is a shell command" in refusal("lhotse", "--corpus", pipe)
    whole, *_ = read_cuts(good)
    whole.recording = whole.recording.move_to_memory(format="wav")
    (tmp_path / "memory.yaml").write_text(yaml.safe_dump([whole.to_dict()]))
    assert "in the manifest itself" in refusal("lhotse", "--corpus", tmp_path / "memory.yaml")
    assert "--supervisions belong together" in refusal("lhotse", "--recordings", good)
    assert "name manifests" in refusal("lhotse")
    assert "no such manifest" in refusal("lhotse", "--corpus", tmp_path / "no.jsonl")
    pipe.write_text("{}\n")
    assert "not a manifest of Lhotse cuts" in refusal("lhotse", "--corpus", pipe)
    assert "not a manifest of Lhotse recordings" in refusal(
        "lhotse", "--recordings", good, "--supervisions", good
    )
