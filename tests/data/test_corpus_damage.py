"""One malformed item of a corpus costs itself, whatever is wrong with it."""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, SupervisionSegment
from lhotse.cut import Cut

from asr.cli import main
from asr.data.store import index
from asr.data.store.index import open_cuts
from asr.data.store.manifest import load_waveform, read_cuts, write_cuts
from asr.data.store.preparation import Utterance, prepare_part
from asr.errors import InputError

NAN = float("nan")
WRONG = [
    *(None, "", "x", "\0", "\ud800", 0, 5, -1, 2.01, NAN, float("inf"), 1e300, 10**400),
    *(True, [], [1], {}, {"a": 1}),
]
GOOD = {"a", "b"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two good utterances, a and b, and one to damage, c; two seconds each."""
    rng = np.random.default_rng(0)
    for name in "abc":
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.3, 0.3, 32000), 16000)
    utterances = [Utterance(name, tmp_path / f"{name}.wav", "some words", "s") for name in "abc"]
    prepare_part("good", utterances, tmp_path, num_jobs=1)
    return tmp_path


def cuts_of(corpus: Path) -> list[Cut]:
    return list(read_cuts(corpus / "good.cuts.jsonl.gz"))


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field of nested objects and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def damaged(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """``content`` with each of its fields missing, or something else in its place."""
    for path in places(content):
        for value in [*WRONG, KeyError]:
            changed = copy.deepcopy(content)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if value is KeyError:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            yield changed


def write_lines(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def prepare(*words: object) -> tuple[set[str], dict[str, int]]:
    """Ids in the manifest, all of whose audio loads, and the counts of the report."""
    out = Path(str(words[-1]))
    assert main(["prepare", *map(str, words), "--jobs", "1"]) == 0
    (manifest,) = out.glob("*.cuts.jsonl.gz")
    cuts = list(read_cuts(manifest))
    assert all(len(load_waveform(cut, 16000)) for cut in cuts)
    (report,) = out.glob("*.report.json")
    return {cut.id for cut in cuts}, json.loads(report.read_text())["left_out_counts"]


def test_lhotse_cuts_with_any_field_damaged(corpus: Path, tmp_path: Path) -> None:
    a, b, c = (cut.to_dict() for cut in cuts_of(corpus))
    bad = list(damaged(c))
    assert len(bad) > 400
    manifest = write_lines(tmp_path / "m.jsonl", [a, *bad, b])
    found, counts = prepare("lhotse", "--corpus", manifest, "--out", tmp_path / "out")
    assert found >= GOOD
    assert sum(counts.values()) > 300


def test_lhotse_recordings_and_supervisions_with_any_field_damaged(
    corpus: Path, tmp_path: Path
) -> None:
    cuts = cuts_of(corpus)
    recordings = [cut.recording.to_dict() for cut in cuts]
    told = [cut.supervisions[0].to_dict() for cut in cuts]
    write_lines(tmp_path / "r.jsonl", [*damaged(recordings[2]), *recordings[:2]])
    write_lines(tmp_path / "s.jsonl", [*damaged(told[2]), *told[:2]])
    words = ["--recordings", tmp_path / "r.jsonl", "--supervisions", tmp_path / "s.jsonl"]
    found, counts = prepare("lhotse", *words, "--out", tmp_path / "out")
    assert found >= GOOD
    assert counts["malformed line"] > 30


def test_supervisions_that_reach_out_of_their_cut(corpus: Path, tmp_path: Path) -> None:
    """Clipped to the cut, within a tolerance; others are skipped by themselves."""
    *good, c = cuts_of(corpus)
    rows = [(0.5, 1.51, "a little"), (0.0, 1.0, "inside"), (-0.01, 1.0, "before")]
    rows += [(1.0, 1.6, "too far"), (5.0, 1.0, "outside"), (0.5, 0.0, "empty")]
    told = [
        SupervisionSegment(name, c.recording.id, start, duration, text="words", speaker="s")
        for start, duration, name in rows
    ]
    write_cuts([*good, MonoCut("whole", 0, 2.0, 0, supervisions=told, recording=c.recording)],
               tmp_path / "m.cuts.jsonl.gz")  # fmt: skip
    out = tmp_path / "out"
    found, counts = prepare("lhotse", "--corpus", tmp_path / "m.cuts.jsonl.gz", "--out", out)
    assert found == {*GOOD, "a little", "inside", "before"}
    assert counts == {"segment outside its audio": 3}
    durations = {cut.id: cut.duration for cut in read_cuts(out / "m.cuts.jsonl.gz")}
    assert durations["a little"] == pytest.approx(1.5)
    assert durations["before"] == pytest.approx(0.99)


def test_a_cut_that_cannot_be_computed_here(corpus: Path, tmp_path: Path) -> None:
    """Tempo needs sox, which torchaudio has no more; with an older one it can be loaded."""
    *good, c = cuts_of(corpus)
    write_cuts([*good, c.perturb_tempo(1.1)], tmp_path / "m.cuts.jsonl.gz")
    words = ["--corpus", tmp_path / "m.cuts.jsonl.gz", "--out", tmp_path / "out"]
    found, _ = prepare("lhotse", *words)
    assert found >= GOOD


def test_json_lines_with_any_field_damaged(corpus: Path, tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": f"{name}.wav", "text": "words", "duration": 1.0, "offset": 0.1}
        | {"speaker": "s", "id": name}
        for name in "abc"
    ]
    manifest = write_lines(tmp_path / "n.json", [lines[0], *damaged(lines[2]), lines[1]])
    found, counts = prepare("jsonl", "--corpus", manifest, "--out", tmp_path / "out")
    assert found >= GOOD
    assert sum(counts.values()) > 30


CELLS = [b"", b"\0", b"x\0y", b"\xff", b"nan", b"-1", b"1e999", "½\u2028".encode(), b"\x1f", b"/"]


def test_tables_with_any_cell_damaged(corpus: Path, tmp_path: Path) -> None:
    rows = [[b"%c.wav" % name, b"words", b"s", b"0.1", b"1.0"] for name in b"abc"]
    bad = []
    for place in range(5):
        for cell in CELLS:
            bad.append([*rows[2][:place], cell, *rows[2][place + 1 :]])
    header = [b"path", b"sentence", b"client_id", b"start", b"seconds"]
    content = b"".join(b"\t".join(row) + b"\n" for row in [header, rows[0], *bad, rows[1]])
    (tmp_path / "t.tsv").write_bytes(content)
    columns = ["--start-column", "start", "--duration-column", "seconds"]
    words = ["--corpus", tmp_path / "t.tsv", *columns, "--out", tmp_path / "out"]
    found, _ = prepare("tsv", *words)
    assert len(found) >= 3  # a, b and what is not damaged by its cell


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("file", ["wav.scp", "text", "utt2spk", "segments"])
def test_kaldi_lines_with_any_word_damaged(
    file: str, cell: bytes, corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kaldi"
    folder.mkdir()
    lines = {
        "wav.scp": lambda name: [name, b"%s/%s.wav" % (str(corpus).encode(), name)],
        "text": lambda name: [name, b"some", b"words"],
        "utt2spk": lambda name: [name, b"s"],
        "segments": lambda name: [name, name, b"0.1", b"1.9"],
    }
    for key, words_of in lines.items():
        words = [words_of(name) for name in (b"a", b"c", b"b")]
        bad = [[*words[1][:k], cell, *words[1][k + 1 :]] for k in range(len(words[1]))]
        rows = [words[0], *(bad if key == file else [words[1]]), words[2]]
        (folder / key).write_bytes(b"".join(b" ".join(row) + b"\n" for row in rows))
    found, _ = prepare("kaldi", "--corpus", folder, "--out", tmp_path / "out")
    assert found >= GOOD


@pytest.mark.parametrize("text", [b"\0", b"one \0 two", b"caf\xe9"])
def test_transcripts_in_files_that_are_damaged(text: bytes, corpus: Path, tmp_path: Path) -> None:
    for name in "abc":
        (corpus / f"{name}.txt").write_bytes(text if name == "c" else b"some words")
    found, counts = prepare("folder", "--corpus", corpus, "--out", tmp_path / "out")
    assert found == GOOD
    assert counts["unreadable transcript"] == 1
    chapter = tmp_path / "libri" / "part" / "1" / "2"
    chapter.mkdir(parents=True)
    for name in "abc":
        (corpus / f"{name}.wav").rename(chapter / f"{name}.wav")
    lines = [b"a SOME WORDS", b"c " + text, b"\0 x", b"b SOME WORDS"]
    (chapter / "1-2.trans.txt").write_bytes(b"\n".join(lines))
    words = ["--corpus", tmp_path / "libri", "--out", tmp_path / "out2"]
    found, _ = prepare("librispeech", *words)
    assert found == GOOD


@pytest.mark.parametrize("large", [False, True])
def test_manifests_with_malformed_cuts_are_refused(
    large: bool, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest is what preparation leaves: whatever else is in it is an error with a name."""
    if large:
        monkeypatch.setattr(index, "INDEX_ABOVE_BYTES", 0)
    content = cuts_of(corpus)[2].to_dict()
    for path in [
        ("id",),
        ("duration",),
        ("supervisions", 0, "text"),
        ("supervisions", 0, "speaker"),
    ]:
        for value in (5, True, [1], {"a": 1}, NAN, "\ud800", "\udc80 half"):
            if path == ("duration",) and value in (5, True):
                continue
            changed = copy.deepcopy(content)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            manifest = write_lines(tmp_path / "m.jsonl", [changed])
            with pytest.raises(InputError, match=r"m\.jsonl"):
                open_cuts([manifest], tmp_path / "index")


@pytest.mark.parametrize("depth", [120, 900, 5000, 100_000])
@pytest.mark.parametrize("place", ["custom", "text", "language", "start"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_deep_values_are_refused(
    depth: int, place: str, suffix: str, corpus: Path, tmp_path: Path
) -> None:
    content = cuts_of(corpus)[2].to_dict()
    parts = {"custom": content, "start": content}
    parts.get(place, content["supervisions"][0])[place] = (
        {"a": "DEEP"} if place == "custom" else "DEEP"
    )
    line = json.dumps(content).replace('"DEEP"', "[" * depth + "]" * depth)
    manifest = tmp_path / f"m{suffix}"
    manifest.write_text(line if suffix == ".jsonl" else f"[{line}]")
    with pytest.raises(InputError, match=r"deep|recursion"):
        open_cuts([manifest], tmp_path / "index")


def test_a_damaged_compressed_manifest_is_one_line(corpus: Path, tmp_path: Path) -> None:
    good = (corpus / "good.cuts.jsonl.gz").read_bytes()
    rng = np.random.default_rng(1)
    manifest = tmp_path / "m.cuts.jsonl.gz"
    for place in rng.integers(0, len(good), 150):
        changed = bytearray(good)
        changed[place] ^= 1 << int(rng.integers(8))
        manifest.write_bytes(changed)
        try:
            assert gzip.decompress(changed)
        except (OSError, EOFError, zlib.error):
            with pytest.raises(InputError, match=r"m\.cuts\.jsonl\.gz: "):
                read_cuts(manifest)
