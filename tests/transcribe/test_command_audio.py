"""`asr transcribe`: pipes, tracks, folders of rare formats, notes about the sound."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio.blocks import read_blocks
from asr.data.audio.extensions import AUDIO_EXTENSIONS

from .conftest import RATE, Run


def text_of(run: Run, *words: object) -> str:
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_pipes_read_as_their_files(run: Run, tmp_path: Path, babble: np.ndarray, kind: str) -> None:
    """A named pipe, and what <(...) gives."""
    path, pipe = tmp_path / f"a.{kind.lower()}", tmp_path / "pipe"
    soundfile.write(path, babble[: 3 * RATE], RATE, format=kind)
    expected = text_of(run, path)
    assert expected.strip()
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    assert text_of(run, pipe) == expected
    writer.join()
    reader, writer_fd = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(writer_fd, "wb").write(path.read_bytes()))
    writer.start()
    assert text_of(run, f"/dev/fd/{reader}") == expected
    writer.join()
    os.close(reader)


def write_tracks(path: Path, waves: list[np.ndarray], default: int) -> None:
    av = pytest.importorskip("av", reason="PyAV not installed")
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_f32le", rate=RATE, layout="mono") for _ in waves]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number == default else 0
        for stream, wave_n in zip(streams, waves, strict=True):
            frame = av.AudioFrame.from_ndarray(wave_n[None], format="flt", layout="mono")
            frame.rate = RATE
            container.mux([*stream.encode(frame), *stream.encode(None)])


def test_the_default_track_is_taken_or_the_one_asked_for(
    run: Run, tmp_path: Path, babble: np.ndarray
) -> None:
    path = tmp_path / "a.mka"
    waves = [babble[k * RATE : (k + 3) * RATE].astype(np.float32) for k in range(3)]
    write_tracks(path, waves, default=1)
    for track, wave_n in ((None, waves[1]), (0, waves[0]), (2, waves[2])):
        found_n = np.concatenate([*read_blocks(path, RATE, [], track=track)])
        np.testing.assert_array_equal(found_n, wave_n)
    soundfile.write(tmp_path / "third.wav", waves[2], RATE, subtype="FLOAT")
    assert text_of(run, path, "--track", 3) == text_of(run, tmp_path / "third.wav")
    code, _, err = run(path, "--track", 4)
    assert code == 2
    assert "no audio track 4: choose from 1 to 3" in err
    code, _, err = run(path, "--track", 0)
    assert code == 2
    assert "tracks count from 1" in err


def test_a_folder_says_what_it_skips(run: Run, tmp_path: Path, babble: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", babble[:RATE], RATE)
    for name in ("a.srt", ".hidden", "b.docx", "deep.xyz"):
        (tmp_path / name).write_text("no audio")
    code, _, err = run(tmp_path)
    assert code == 0
    assert "2 of 4 files skipped, by their names no audio, as b.docx" in err
    rare = ".sph .ts .mts .mpg .weba .spx .wv .aifc .ogv .mp2"
    assert set(rare.split()) <= AUDIO_EXTENSIONS


def test_notes_about_the_sound(run: Run, tmp_path: Path, babble: np.ndarray) -> None:
    wave_n = babble[: 2 * RATE].astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave_n, RATE, subtype="FLOAT")
    expected = text_of(run, path)
    soundfile.write(path, np.stack([wave_n, -wave_n], 1), RATE, subtype="FLOAT")
    code, out, err = run(path)
    assert (code, out) == (0, expected)
    assert (
        err == f"asr: note: {path}: the channels cancel one another: channel 1 is taken by itself\n"
    )
    soundfile.write(path, 32768 * wave_n, RATE, subtype="FLOAT")
    code, out, err = run(path)
    assert (code, out) == (0, expected)
    assert "taken as those of 16 bits" in err
    soundfile.write(path, 0.001 * wave_n, RATE, subtype="FLOAT")
    assert "very quiet" in run(path)[2]
