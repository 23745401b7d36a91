"""Supervisions that fill, leave or miss their audio: each utterance by itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import (
    AudioSource,
    CutSet,
    MonoCut,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
)
from lhotse.cut import Cut

from asr.data.corpora.lhotse import prepare_lhotse
from asr.data.store.manifest import load_samples, read_cuts

RATE = 8000
SECONDS = 20


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    """Each sample says when it is: sample n is n / 2**18."""
    path = tmp_path / "long.wav"
    samples_n = np.arange(SECONDS * RATE, dtype=np.float32) / 2**18
    soundfile.write(path, samples_n, RATE, subtype="FLOAT")
    source = AudioSource("file", [0], str(path))
    return Recording("rec", [source], RATE, SECONDS * RATE, float(SECONDS))


def cut(
    recording: Recording, name: str, *spans: tuple[float, float], start: float = 0.0
) -> MonoCut:
    """From ``start`` to the recording's end; spans are (start, duration) from the cut's start."""
    told = [
        SupervisionSegment(f"{name}-{k}", "rec", at, length, text="some words", speaker="s")
        for k, (at, length) in enumerate(spans)
    ]
    return MonoCut(name, start, SECONDS - start, 0, supervisions=told, recording=recording)


def prepared(cuts: list[Cut], tmp_path: Path) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """(from, to) in the recording of what was kept, by its samples; ids of what was left out."""
    CutSet.from_cuts(cuts).to_file(tmp_path / "some.jsonl")
    (report,) = prepare_lhotse(tmp_path / "out", [tmp_path / "some.jsonl"], num_jobs=1)
    found = {}
    for one in read_cuts(tmp_path / "out" / "some.cuts.jsonl.gz"):
        (samples_n,) = load_samples(one)
        at_n = samples_n * 2**18 / RATE
        assert len(at_n) == round(one.duration * RATE)
        (told,) = one.supervisions
        assert (told.start, told.duration) == (pytest.approx(0.0), pytest.approx(one.duration))
        found[one.id] = (float(at_n[0]), float(at_n[-1]) + 1 / RATE)
    reasons = {item.reason for item in report.left_out}
    assert reasons <= {"segment outside its audio"}
    return found, sorted(item.id for item in report.left_out)


def test_each_supervision_is_cut_out_or_left_out(recording: Recording, tmp_path: Path) -> None:
    cuts = [
        cut(recording, "one", (3.0, 2.5)),
        cut(recording, "late", (3.0, 2.5), start=4.0),
        cut(recording, "full", (0.0, 20.0)),
        cut(recording, "over", (17.0, 3.01)),  # 10 ms beyond
        cut(recording, "early", (-0.05, 2.05)),
        cut(recording, "before", (-3.0, 5.0)),
        cut(recording, "after", (18.0, 4.0)),
        cut(recording, "beyond", (25.0, 2.0)),
        cut(recording, "two", (1.0, 1.5), (18.0, 2.02)),
        cut(recording, "half", (1.0, 1.5), (18.0, 3.0)),
        cut(recording, "nowhere", (math.nan, 2.0)),
    ]
    found, left_out = prepared(cuts, tmp_path)
    assert found == {
        name: (pytest.approx(begin, abs=1e-3), pytest.approx(end, abs=1e-3))
        for name, (begin, end) in {
            "one": (3, 5.5),
            "late": (7, 9.5),
            "full": (0, 20),
            "over": (17, 20),
            "early": (0, 2),
            "two-0": (1, 2.5),
            "two-1": (18, 20),
            "half-0": (1, 2.5),
        }.items()
    }
    assert left_out == ["after", "before", "beyond", "half-1", "nowhere"]


def test_padding_stays_and_other_audio_goes(recording: Recording, tmp_path: Path) -> None:
    short = cut(recording, "short", (0.0, 2.0)).truncate(duration=2.0)
    padded = short.pad(duration=3.0).with_id("padded")
    appended = short.append(cut(recording, "rest").truncate(offset=5.0)).with_id("appended")
    path = tmp_path / "some.jsonl"
    CutSet.from_cuts([padded, appended]).to_file(path)
    prepare_lhotse(tmp_path / "out", [path], num_jobs=1)
    kept = read_cuts(tmp_path / "out" / "some.cuts.jsonl.gz")
    assert {one.id: one.duration for one in kept} == {"padded": 3.0, "appended": 2.0}


def test_recordings_with_supervisions(recording: Recording, tmp_path: Path) -> None:
    spans = {
        "in": (3, 2),
        "over": (17, 3.01),
        "early": (-0.05, 2.05),
        "before": (-3, 5),
        "out": (18, 4),
    }
    told = [
        SupervisionSegment(name, "rec", at, length, text="some words")
        for name, (at, length) in spans.items()
    ]
    RecordingSet.from_recordings([recording]).to_file(tmp_path / "r.jsonl")
    SupervisionSet.from_segments(told).to_file(tmp_path / "s.jsonl")
    prepare_lhotse(
        tmp_path, recordings=tmp_path / "r.jsonl", supervisions=tmp_path / "s.jsonl", num_jobs=1
    )
    kept = {one.id: (one.start, one.duration) for one in read_cuts(tmp_path / "s.cuts.jsonl.gz")}
    assert kept == {
        "in": (3.0, 2.0),
        "over": (17.0, 3.0),
        "early": (0.0, pytest.approx(2.0)),
    }
