"""Silent files teach nothing: `asr prepare` leaves them out and says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment

from asr.cli import main
from asr.data.store.manifest import read_cuts

RATE = 16000
STEP = 1 / 32768


def sounds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    times_n = np.arange(2 * RATE) / RATE
    late = np.zeros(2 * RATE)
    late[-100:] = 0.1
    return {
        "zeros": np.zeros(2 * RATE),
        "offset": np.full(2 * RATE, 0.25),
        "dither": rng.integers(-1, 2, 2 * RATE) * STEP,
        "quiet": 10 ** (-60 / 20) * np.sin(440 * times_n),
        "late": late,
    }


def cuts_of(corpus: Path) -> Path:
    """The files as a Lhotse manifest."""
    cuts = []
    for path in sorted(corpus.glob("*.wav")):
        cut = Recording.from_file(path).to_cut().with_id(path.stem)
        cut.supervisions = [SupervisionSegment(path.stem, path.stem, 0.0, 2.0, text="some words")]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(corpus / "some.jsonl")
    return corpus / "some.jsonl"


@pytest.mark.parametrize("form", ["folder", "lhotse"])
def test_silent_files_are_left_out(form: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, samples_n in sounds().items():
        soundfile.write(corpus / f"{name}.wav", samples_n, RATE)
        (corpus / f"{name}.txt").write_text("some words")
    source = corpus if form == "folder" else cuts_of(corpus)
    out = tmp_path / "out"
    words = ["prepare", form, "--corpus", str(source), "--out", str(out), "--jobs", "1"]
    assert main(words) == 0
    (path,) = out.glob("*.cuts.jsonl.gz")
    assert {cut.id for cut in read_cuts(path)} == {"quiet", "late"}
    report = json.loads(next(path.parent.glob("*.report.json")).read_text())
    left_out = {item["id"]: item["reason"] for item in report["left_out"]}
    assert left_out == dict.fromkeys(("dither", "offset", "zeros"), "silent audio")
