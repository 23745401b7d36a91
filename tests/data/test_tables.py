"""Common Voice and other tables, NeMo's manifests: the same speech comes out, errors are named."""

from __future__ import annotations

import json
from pathlib import Path

from made_corpora import Refusal, left_out, prepare, prepared, steps, tone

from asr.data.speakers import UNKNOWN_SPEAKER

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\n"


def test_common_voice(tmp_path: Path) -> None:
    corpus = tmp_path / "cv" / "en"
    for k, part in enumerate(("train", "dev", "test")):
        tone(corpus / "clips" / f"c{k}.mp3", 400 + 100 * k)
        rows = f'spk{k}\tc{k}.mp3\tx\tShe said: "Yes\t2\n'
        (corpus / f"{part}.tsv").write_text(HEADER + rows)
    (corpus / "validated.tsv").write_text(HEADER)
    prepare("tsv", "--corpus", corpus, "--out", tmp_path)
    for k, part in enumerate(("train", "dev", "test")):
        found = prepared(tmp_path, part)
        assert found[f"c{k}"][:3] == ('She said: "Yes', f"spk{k}", 400 + 100 * k)
    assert not (tmp_path / "validated.cuts.jsonl.gz").exists()


def test_a_table_with_other_columns_and_segments(tmp_path: Path) -> None:
    steps(tmp_path / "wav" / "long.flac")
    table = tmp_path / "mine.tsv"
    rows = ["file\twords\tfrom\tfor", "long.flac\tsix\t1.0\t1.0", "long.flac\tnine\t2.1\t0.8"]
    rows += ["long.flac\tover\t3.5\t1.7", "long.flac\twhat\tsoon\t1.0", "long.flac\tall\t\t"]
    table.write_bytes("\r\n".join(rows).encode() + b"\r\nlong.flac\tcaf\xe9\t0\t1\nlong.flac\n")
    names = ("--audio-column", "file", "--text-column", "words", "--start-column", "from")
    names += ("--duration-column", "for", "--clips", str(tmp_path / "wav"))
    prepare("tsv", "--corpus", table, "--out", tmp_path, *names)
    assert prepared(tmp_path, "mine") == {
        "long": ("all", UNKNOWN_SPEAKER, 300, 4.0),
        "long-00001000": ("six", UNKNOWN_SPEAKER, 600, 1.0),
        "long-00002100": ("nine", UNKNOWN_SPEAKER, 900, 0.8),
    }
    assert [reason for _, reason in left_out(tmp_path, "mine")] == [
        "segment outside its audio",
        "segment outside its audio",
        "unreadable transcript",
        "malformed line",
    ]


def test_tables_that_cannot_be_read(tmp_path: Path, refusal: Refusal) -> None:
    table = tmp_path / "t.tsv"
    assert "cannot read" in refusal("tsv", "--corpus", table)
    table.write_text("")
    assert "not even a header" in refusal("tsv", "--corpus", table)
    table.write_text("file\tsentences\n")
    assert "no column 'path'" in refusal("tsv", "--corpus", table)
    message = refusal("tsv", "--corpus", table, "--audio-column", "file")
    assert "did you mean 'sentences'?" in message
    table.write_text("path\tsentence\nno.mp3\twords\n")
    assert "1 x missing audio" in refusal("tsv", "--corpus", table)
    assert "no such folder" in refusal("tsv", "--corpus", table, "--clips", tmp_path / "no")
    assert "train.tsv, dev.tsv or test.tsv" in refusal("tsv", "--corpus", tmp_path)
    assert "2 parts are called 't'" in refusal("tsv", "--corpus", table, table)


def test_nemo_manifests(tmp_path: Path) -> None:
    steps(tmp_path / "wav" / "long.wav")
    tone(tmp_path / "other" / "b.wav", 440)
    entries: list[object] = [
        {"audio_filepath": "wav/long.wav", "text": "two", "offset": 1.0, "duration": 1.0},
        {"audio_filepath": "wav/long.wav", "text": "four", "offset": 3.0, "duration": 1.4},
        {"audio_filepath": str(tmp_path / "other" / "b.wav"), "text": "b", "duration": 1.0, "id": "n1"},
        {"audio_filepath": "other/b.wav", "text": "c", "speaker": 17, "lang": "en"},
        {"audio_filepath": "wav/long.wav", "text": "past", "offset": 9.0, "duration": 1.0},
        {"audio_filepath": "wav/long.wav", "text": "before", "offset": -1.0},
        {"audio_filepath": "wav/long.wav", "text": 5},
        {"audio_filepath": "wav/long.wav"},
        {"audio_filepath": "wav/long.wav", "text": "x", "duration": "long"},
        ["no object"],
        {"audio_filepath": "other/b.wav", "text": "half \ud800"},
    ]  # fmt: skip
    lines = [json.dumps(entry) for entry in entries] + ["{broken", "", '{"text": "no file"}']
    (tmp_path / "train.json").write_text("\n".join(lines))
    prepare("jsonl", "--corpus", tmp_path / "train.json", "--out", tmp_path)
    assert prepared(tmp_path, "train") == {
        "wav-long-00001000": ("two", UNKNOWN_SPEAKER, 600, 1.0),
        "wav-long-00003000": ("four", UNKNOWN_SPEAKER, 1200, 1.0),
        "n1": ("b", UNKNOWN_SPEAKER, 440, 1.0),
        "other-b": ("c", "17", 440, 1.0),
    }
    assert left_out(tmp_path, "train") == [
        *((f"train.json:{line}", "malformed line") for line in (10, 11, 12, 14, 7, 8, 9)),
        ("wav-long--0001000", "segment outside its audio"),
        ("wav-long-00009000", "segment outside its audio"),
    ]
