"""Manifests: what is written is read back, what cannot be used is said in one line."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, MultiCut

from asr.data.audio.samples import AudioInfo, check_audio
from asr.data.store import manifest, preparation
from asr.data.store.preparation import Utterance
from asr.errors import InputError
from asr.heads.ctc import frames_needed

RATE = 16000


def write_noise(path: Path, duration_s: float = 2.0, rate: int = RATE, channels: int = 1) -> Path:
    shape = (int(duration_s * rate), channels)
    samples = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, shape)
    kind, subtype = {".opus": ("OGG", "OPUS"), ".mp3": ("MP3", None)}.get(
        path.suffix, (path.suffix[1:].upper(), None)
    )
    soundfile.write(path, samples, rate, format=kind, subtype=subtype)
    return path


def utterance(path: Path, text: str = "A WORD", speaker: str = "7") -> Utterance:
    return Utterance(path.stem, path, text, speaker)


def cut_of(path: Path) -> MonoCut | MultiCut:
    return preparation.make_cut(utterance(path), check_audio(path))


def test_frames_needed_by_hand() -> None:
    assert [frames_needed(text) for text in ("", "A", "AB", "AA", "AAA", "HELLO")] == [
        0, 1, 2, 3, 5, 6,
    ]  # fmt: skip
    assert frames_needed([5, 5, 9]) == 4


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 1], [2, 2, 2], [1, 2, 2, 1], [1, 1, 2, 2, 1]])
def test_frames_needed_is_where_the_ctc_loss_becomes_finite(tokens: list[int]) -> None:
    for num_frames in range(1, 12):
        loss = torch.nn.functional.ctc_loss(
            torch.zeros(num_frames, 1, 3).log_softmax(-1),
            torch.tensor([tokens]),
            torch.tensor([num_frames]),
            torch.tensor([len(tokens)]),
            reduction="sum",
        )
        assert bool(torch.isfinite(loss)) == (num_frames >= frames_needed(tokens))


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "opus", "mp3"])
def test_cuts_load_from_every_format(tmp_path: Path, suffix: str) -> None:
    path = write_noise(tmp_path / f"a.{suffix}")
    cut = cut_of(path)
    expected, _ = soundfile.read(path, dtype="float32")
    assert isinstance(cut, MonoCut)
    found = manifest.load_waveform(cut, RATE)
    assert found.dtype == np.float32
    # Two decodings of one MP3 differ in the last bit.
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(cut.load_audio()[0], expected, atol=1e-6)


def test_load_waveform_resamples_and_averages_channels(tmp_path: Path) -> None:
    rate = 44100
    wave = 0.5 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([1.5 * wave, 0.5 * wave], axis=1), rate)
    cut = cut_of(path)
    assert isinstance(cut, MultiCut)
    found = manifest.load_waveform(cut, RATE)
    assert found.shape == (RATE,)
    expected = 0.5 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)
    assert np.abs(found - expected)[500:-500].max() < 2e-3


def test_load_waveform_honours_what_lhotse_did_to_a_cut(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.flac")
    whole, _ = soundfile.read(path, dtype="float32")
    piece = cut_of(path).truncate(offset=0.5, duration=0.25)
    np.testing.assert_array_equal(manifest.load_waveform(piece, RATE), whole[8000:12000])
    faster = cut_of(path).perturb_speed(2.0)
    assert manifest.load_waveform(faster, RATE).shape == (RATE,)


def test_write_and_read_back_gives_the_same_cuts_and_bytes(tmp_path: Path) -> None:
    cuts = [cut_of(write_noise(tmp_path / f"{name}.flac")) for name in "abc"]
    first, second = tmp_path / "x" / "1.cuts.jsonl.gz", tmp_path / "x" / "2.cuts.jsonl.gz"
    manifest.write_cuts(cuts, first)
    manifest.write_cuts(cuts, second)
    assert first.read_bytes() == second.read_bytes()
    found = manifest.read_cuts(first)
    assert [cut.to_dict() for cut in found] == [cut.to_dict() for cut in cuts]
    assert list(CutSet.from_file(first)) == list(found)
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, second.name]
    source = Path(found[0].recording.sources[0].source)
    assert source.is_absolute()


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        manifest.read_cuts(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_read_cuts_says_what_is_wrong(tmp_path: Path) -> None:
    assert "no such manifest" in complaint(tmp_path / "missing.cuts.jsonl.gz")
    os.mkfifo(tmp_path / "pipe.cuts.jsonl.gz")
    for path in (tmp_path, tmp_path / "pipe.cuts.jsonl.gz"):
        assert "a folder, a pipe or a device, not a manifest" in complaint(path)
    contents = {
        "junk.jsonl": b"not json\n",
        "other.jsonl": b'{"a": 1}\n',
        "list.jsonl": b"[1, 2]\n",
        "binary.jsonl.gz": bytes(range(256)),
        "cut_off.jsonl.gz": gzip.compress(b'{"id": "x"}\n' * 500)[:30],
        "weird.xyz": b"hello",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert "manifest" in complaint(tmp_path / name), name
    (tmp_path / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    assert "no cuts" in complaint(tmp_path / "empty.jsonl.gz")
    (tmp_path / "empty.jsonl").touch()
    assert "no cuts" in complaint(tmp_path / "empty.jsonl")


def test_an_id_twice_is_refused(tmp_path: Path) -> None:
    cut = cut_of(write_noise(tmp_path / "a.flac"))
    manifest.write_cuts([cut, cut], tmp_path / "x.cuts.jsonl.gz")
    assert "two cuts have the id 'a'" in complaint(tmp_path / "x.cuts.jsonl.gz")


def test_a_manifest_of_recordings_is_not_one_of_cuts(tmp_path: Path) -> None:
    cut = cut_of(write_noise(tmp_path / "a.flac"))
    path = tmp_path / "recordings.jsonl"
    path.write_text(json.dumps(cut.recording.to_dict()) + "\n")
    assert "not a manifest of Lhotse cuts: holds Recording" in complaint(path)


def test_load_waveform_names_cut_file_and_reason(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.flac")
    cut = cut_of(path)
    whole = path.read_bytes()
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    nan_cut = preparation.make_cut(utterance(nan), AudioInfo(RATE, RATE, 1))

    def reason(cut: MonoCut | MultiCut, file: Path) -> str:
        with pytest.raises(InputError) as caught:
            manifest.load_waveform(cut, RATE)
        message = str(caught.value)
        assert "\n" not in message
        assert cut.id in message
        assert str(file) in message
        return message

    assert "NaN" in reason(nan_cut, nan)
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in reason(cut, path)
    path.unlink()
    assert "no such file" in reason(cut, path)


def test_prepare_part_keeps_the_good_and_names_the_rest(tmp_path: Path) -> None:
    good = write_noise(tmp_path / "good.flac", 2.0)
    short = write_noise(tmp_path / "short.flac", 0.2)
    (tmp_path / "empty.flac").touch()
    items = [
        utterance(good),
        Utterance("good", good, "AGAIN", "7"),
        utterance(tmp_path / "empty.flac"),
        Utterance("silent", good, "  ", "7"),
        utterance(short, "MUCH TOO LONG A TEXT"),
        # Five frames of 40 ms: five characters fit, "AAA" with its two blanks does, four A do not.
        Utterance("fits", short, "ABCDE", "8"),
        Utterance("fits3", short, "AAA", "8"),
        Utterance("fits4", short, "AAAA", "8"),
    ]
    out = tmp_path / "out"
    report = preparation.prepare_part("x", items, out, num_jobs=2)
    assert [cut.id for cut in manifest.read_cuts(out / "x.cuts.jsonl.gz")] == [
        "fits", "fits3", "good",
    ]  # fmt: skip
    assert {item.id: item.reason for item in report.left_out} == {
        "good": "duplicate id",
        "empty": "empty audio",
        "silent": "empty transcript",
        "short": "transcript too long for CTC",
        "fits4": "transcript too long for CTC",
    }
    assert (report.num_utterances, report.num_speakers) == (3, 2)
    assert report.duration_s == pytest.approx(2.4)
    stored = json.loads((out / "x.report.json").read_text())
    assert len(stored["left_out"]) == 5
    assert stored["left_out_counts"] == report.counts()


def test_report_lines_name_a_few_and_count_the_rest(tmp_path: Path) -> None:
    good = write_noise(tmp_path / "good.flac")
    left_out = [manifest.LeftOut(f"u{n}", "some reason", f"file {n}") for n in range(10)]
    report = preparation.prepare_part("x", [utterance(good)], tmp_path / "out", left_out=left_out)
    lines = report.lines()
    assert "1 utterances" in lines[0]
    assert "10 left out" in lines[0]
    assert sum("file" in line for line in lines) == 3
    assert "7 more" in lines[-1]


def test_nothing_is_written_when_nothing_is_usable(tmp_path: Path) -> None:
    (tmp_path / "empty.flac").touch()
    with pytest.raises(InputError, match="1 x empty audio"):
        preparation.prepare_part("x", [utterance(tmp_path / "empty.flac")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
