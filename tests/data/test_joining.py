"""Joined utterances: each once, the right lengths, and audio equal to the utterances' own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut

from asr.cli import main
from asr.data.joining import join_cuts, join_speakers, joined_from
from asr.data.store.index import CutIndex, CutList, build_index, cut_text
from asr.data.store.manifest import load_waveform, read_cuts, write_cuts
from asr.errors import InputError

RATE = 8000


def silent(count: int, rng: np.random.Generator) -> list[Cut]:
    """Utterances without audio, of 1 to 9 s."""
    cuts = []
    for number, num_samples in enumerate(rng.integers(RATE, 9 * RATE, count).tolist()):
        recording = Recording(f"u{number}", [], RATE, num_samples, num_samples / RATE)
        said = SupervisionSegment(
            f"u{number}", f"u{number}", 0, num_samples / RATE, text=f"t{number}"
        )
        cuts.append(MonoCut(f"u{number}", 0, num_samples / RATE, 0, [said], recording=recording))
    return cuts


def members(row: Cut) -> list[Cut]:
    return [track.cut for track in row.tracks] if isinstance(row, MixedCut) else [row]


@pytest.mark.parametrize(("max_s", "share", "pause_s"), [(30.0, 0.5, 1.0), (12.0, 0.9, 0.0)])
def test_every_utterance_once_and_the_lengths_asked_for(
    max_s: float, share: float, pause_s: float
) -> None:
    cuts = silent(4000, np.random.default_rng(0))
    rows = join_cuts(cuts, max_s, share, pause_s, seed=1)
    assert sorted(c.id for row in rows for c in members(row)) == sorted(c.id for c in cuts)
    joined = [row for row in rows if isinstance(row, MixedCut)]
    durations_s = np.array([row.duration for row in joined])
    assert durations_s.max() <= max_s
    # every length occurs, up to the longest
    assert np.all(np.histogram(durations_s, bins=8, range=(4, max_s))[0] > 0)
    in_joined = sum(len(members(row)) for row in joined)
    assert in_joined < share * len(cuts) * 1.05
    pauses_s = np.array(
        [
            later.offset - before.offset - before.cut.duration
            for row in joined
            for before, later in zip(row.tracks, row.tracks[1:], strict=False)
        ]
    )
    assert pauses_s.min() >= -1e-9
    assert pauses_s.max() <= pause_s + 1 / RATE
    assert pauses_s.mean() == pytest.approx(pause_s / 4, rel=0.1)
    if pause_s:
        assert (pauses_s < 1 / RATE).mean() == pytest.approx(0.5, abs=0.05)
    # in random order: what follows is not what follows in the manifest
    places = [[int(cut.id[1:]) for cut in members(row)] for row in joined]
    steps = np.concatenate([np.diff(place) for place in places])
    assert (np.abs(steps) < 5).mean() < 0.02
    first = [int(members(row)[0].id[1:]) for row in rows]
    assert first == sorted(first)
    assert [row.id for row in rows] == [row.id for row in join_cuts(cuts, max_s, share, pause_s, 1)]
    assert [row.id for row in rows] != [row.id for row in join_cuts(cuts, max_s, share, pause_s, 2)]


def test_nothing_to_join() -> None:
    cuts = silent(20, np.random.default_rng(1))
    assert join_cuts(cuts, 30.0, 0.0, 1.0, seed=1) == cuts
    assert join_cuts(cuts, 0.5, 0.9, 1.0, seed=1) == cuts


def spoken(folder: Path, count: int) -> list[Cut]:
    """Utterances of noise; the second half of each file."""
    cuts = []
    for number in range(count):
        rng = np.random.default_rng(number)
        path = folder / f"u{number}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, 2 * (700 + number)), RATE, subtype="PCM_16")
        cut = Recording.from_file(path).to_cut().truncate(offset=(700 + number) / RATE)
        said = SupervisionSegment(
            f"u{number}", cut.recording_id, 0, cut.duration, text=f"T{number}"
        )
        cuts.append(cut.with_id(f"u{number}"))
        cuts[-1].supervisions = [said]
    return cuts


def test_joined_audio_is_the_utterances_with_silence_between(tmp_path: Path) -> None:
    cuts = spoken(tmp_path, 12)
    path = tmp_path / "joined.cuts.jsonl.gz"
    write_cuts(join_cuts(cuts, 2.0, 0.99, 0.05, seed=3), path)
    index = CutIndex(build_index(path, tmp_path))
    rows = list(read_cuts(path))
    assert any(len(members(row)) > 3 for row in rows)
    for number, row in enumerate(rows):
        wave_n, at = load_waveform(row, RATE), 0
        assert len(wave_n) == row.num_samples == round(index.durations_s[number] * RATE)
        for cut in members(row):
            own_n = load_waveform(cut, RATE)
            start = at
            while not np.array_equal(wave_n[start : start + len(own_n)], own_n):
                start += 1
            assert not wave_n[at:start].any()
            assert start - at <= 0.05 * RATE + 1
            at = start + len(own_n)
        assert at == len(wave_n)
        texts = " ".join(f"T{cut.id[1:]}" for cut in members(row))
        assert cut_text(row) == index.text(number) == texts


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    row = next(
        row
        for row in join_cuts(spoken(tmp_path, 8), 5.0, 0.99, 0.0, seed=1)
        if len(members(row)) > 1
    )
    gone = tmp_path / f"{members(row)[-1].id}.wav"
    gone.unlink()
    with pytest.raises(InputError, match=rf"{row.id.replace('+', '.')}: .*{gone.name}"):
        load_waveform(row, RATE)


def test_unlike_cuts_are_refused(tmp_path: Path) -> None:
    cuts = spoken(tmp_path, 3)
    with pytest.raises(InputError, match="u1: sampling rate 4000, and cut u0: 8000: only like"):
        join_cuts([cuts[0], cuts[1].resample(4000)], 9.0, 0.5, 0.0, seed=1)
    with pytest.raises(InputError, match="MixedCut cannot be joined"):
        join_cuts([cuts[0], cuts[1].append(cuts[2])], 9.0, 0.5, 0.0, seed=1)


def of_speakers(cuts: list[Cut], speakers: list[str]) -> list[Cut]:
    for cut, speaker in zip(cuts, speakers, strict=True):
        cut.supervisions[0].speaker = speaker
    return cuts


def test_speakers_are_joined_by_themselves_and_whole() -> None:
    rng = np.random.default_rng(2)
    cuts = of_speakers(silent(40, rng), [f"s{number % 3}" for number in range(40)])
    rng.shuffle(cuts)  # type: ignore[arg-type]
    for to_s in (0.5, 7.5, 20.0, 1000.0):
        rows = join_speakers(cuts, to_s)
        assert sorted(c.id for row in rows for c in members(row)) == sorted(c.id for c in cuts)
        for row in rows:
            own = members(row)
            assert len({cut.supervisions[0].speaker for cut in own}) == 1
            assert [cut.id for cut in own] == sorted(cut.id for cut in own)
            assert row.duration == pytest.approx(sum(cut.duration for cut in own))
        note = joined_from(rows)
        assert note == {"of": CutList(cuts).fingerprint(), "to_s": to_s}
    assert len(join_speakers(cuts, 0.5)) == len(cuts)
    assert len(join_speakers(cuts, 1000.0)) == 3
    assert joined_from(cuts) is None
    assert joined_from([*join_speakers(cuts, 20.0), *cuts]) is None
    assert all(cut.custom is None for cut in cuts)


def test_a_part_of_a_joined_set_is_no_joined_set(tmp_path: Path) -> None:
    cuts = of_speakers(silent(9, np.random.default_rng(0)), [f"s{n % 3}" for n in range(9)])
    path, part = tmp_path / "long.cuts.jsonl.gz", tmp_path / "part.cuts.jsonl.gz"
    write_cuts(join_speakers(cuts, 5.0), path)
    assert joined_from(read_cuts(path)) is not None
    words = ["subset", "--cuts", str(path), "--out", str(part)]
    assert main(words) == 0
    assert joined_from(read_cuts(part)) == joined_from(read_cuts(path))
    assert main([*words, "--every", "2"]) == 0
    assert joined_from(read_cuts(part)) is None


def test_a_manifests_own_field_is_no_note() -> None:
    (cut,) = silent(1, np.random.default_rng(0))
    (good,) = join_speakers(of_speakers([cut], ["s"]), 5.0)
    assert joined_from([good]) is not None
    note = good.custom["joined"]
    wrongs = ({"foo": 1}, "x", {}, {**note, "more": 1}, {**note, "of": 3}, {**note, "to_s": -1.0})
    for wrong in (*wrongs, {**note, "to_s": True}, {**note, "to_s": 1e12}, {"to_s": 1.0}):
        cut.custom = {"joined": wrong}
        assert joined_from([cut]) is None


def test_shares_of_a_speakers_time_are_even() -> None:
    """133 s: once whole, in halves, in quarters and in ninths, each within half an utterance."""
    cuts = of_speakers(silent(30, np.random.default_rng(0)), ["s"] * 30)
    whole_s = sum(cut.duration for cut in cuts)
    for number in (1, 2, 4, 9):
        lengths_s = [row.duration for row in join_speakers(cuts, 0.98 * whole_s / number)]
        assert len(lengths_s) == number
        longest_s = max(cut.duration for cut in cuts)
        assert max(abs(one - whole_s / number) for one in lengths_s) < longest_s
    assert len(join_speakers(cuts, 1e-300)) == 30


def test_joined_speakers_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = of_speakers(spoken(tmp_path, 6), ["a", "a", "a", "b", "b", "b"])
    path, out = tmp_path / "test.cuts.jsonl.gz", tmp_path / "long.cuts.jsonl.gz"
    write_cuts(cuts, path)
    words = ["join", "--cuts", str(path), "--out", str(out), "--to-s", "60"]
    assert main(words) == 0
    rows = list(read_cuts(out))
    assert [row.id for row in rows] == ["u0+2", "u3+2"]
    for row, own in zip(rows, (cuts[:3], cuts[3:]), strict=True):
        expected = np.concatenate([load_waveform(cut, RATE) for cut in own])
        np.testing.assert_array_equal(load_waveform(row, RATE), expected)
    assert joined_from(rows) == {"of": CutList(read_cuts(path)).fingerprint(), "to_s": 60.0}
    before = out.read_bytes()
    assert main([*words, "--share", "0.7"]) == 2
    write_cuts(of_speakers(cuts, ["a"] * 5 + ["unknown"]), path)
    assert main(words) == 2
    assert out.read_bytes() == before
    drawn, unknown = capsys.readouterr().err.splitlines()
    assert "--share: means nothing with --to-s" in drawn
    assert "cut u5: of no known speaker" in unknown
