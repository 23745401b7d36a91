"""Joined utterances: each once, the right lengths, and audio equal to the utterances' own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut

from asr.data.joining import join_cuts
from asr.data.store.index import CutIndex, build_index, cut_text
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
