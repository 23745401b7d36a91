"""One's own data in five forms: the same speech comes out, and what is wrong is named."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from lhotse import MonoCut, SupervisionSegment

from asr.cli import main
from asr.data.corpora.common import split
from asr.data.manifest import LeftOut, load_waveform, read_cuts
from asr.data.preparation import UNKNOWN_SPEAKER, Part, Utterance
from asr.errors import InputError

RATE = 16000


def tone(path: Path, hz: float, duration_s: float = 1.0) -> Path:
    """Its frequency tells one file from another, whatever the codec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(int(duration_s * RATE)) / RATE)
    soundfile.write(path, wave, RATE)
    return path


def steps(path: Path) -> Path:
    """Four seconds: 300, 600, 900 and 1200 Hz, a second each; the first is the loudest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.arange(RATE) / RATE
    wave = [np.sin(2 * np.pi * 300 * k * seconds) / (2 + k) for k in (1, 2, 3, 4)]
    soundfile.write(path, np.concatenate(wave), RATE)
    return path


def pitch_hz(wave_n: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave_n))) * RATE / len(wave_n))


def prepared(out: Path, part: str) -> dict[str, tuple[str, str, float, float]]:
    """Utterance -> (text, speaker, pitch, seconds), by loading as training does."""
    found = {}
    for cut in read_cuts(out / f"{part}.cuts.jsonl.gz"):
        (supervision,) = cut.supervisions
        wave_n = load_waveform(cut, RATE)
        assert supervision.start == 0
        assert len(wave_n) == cut.num_samples
        found[cut.id] = (
            supervision.text,
            supervision.speaker,
            round(pitch_hz(wave_n) / 10) * 10.0,
            cut.duration,
        )
    return found


def left_out(out: Path, part: str) -> list[tuple[str, str]]:
    report = json.loads((out / f"{part}.report.json").read_text())
    return sorted((item["id"], item["reason"]) for item in report["left_out"])


def prepare(*words: object) -> None:
    assert main(["prepare", *map(str, words)]) == 0


Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refusal:
    def call(*words: object) -> str:
        out = tmp_path / "refused"
        assert main(["prepare", *map(str, words), "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1
        assert not out.exists()
        return captured.err

    return call


# --- folder -------------------------------------------------------------------------------------


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
    assert left_out(tmp_path, "talks") == []


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
    av = pytest.importorskip("av", reason="extra `media` not installed")
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


# --- splitting ----------------------------------------------------------------------------------


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


# --- tsv ----------------------------------------------------------------------------------------


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


# --- jsonl --------------------------------------------------------------------------------------


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


# --- kaldi --------------------------------------------------------------------------------------


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


# --- lhotse -------------------------------------------------------------------------------------


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
