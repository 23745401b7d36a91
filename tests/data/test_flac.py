"""The places where one FLAC stream ends and the next begins."""

from __future__ import annotations

import io
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, Recording

from asr.data.audio import flac
from asr.data.audio.blocks import read_blocks
from asr.data.audio.gaps import Gap
from asr.data.store.manifest import load_waveform
from asr.errors import InputError


def stream(num_samples: int, padding: int = 0) -> bytes:
    """A FLAC of noise, with so many bytes of zeros in a block of metadata."""
    file = io.BytesIO()
    samples = np.random.default_rng(num_samples).uniform(-0.5, 0.5, num_samples)
    soundfile.write(file, samples, 16000, format="FLAC", subtype="PCM_16")
    content = file.getvalue()
    block = b"\1" + padding.to_bytes(3, "big") + bytes(padding)
    return content[:42] + block + content[42:]


@pytest.mark.parametrize("search_bytes", [64, 1000, 1 << 18])
def test_streams_are_found_wherever_a_search_ends(
    search_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flac, "_SEARCH_BYTES", search_bytes)
    monkeypatch.setattr(flac, "_memory", flac.threading.local())
    rng = random.Random(search_bytes)
    for count in (1, 2, 3, 4):
        parts = [stream(rng.randrange(1, 3000), rng.randrange(300)) for _ in range(count)]
        content = b"".join(parts)
        found = flac.plan_flac(io.BytesIO(content), float("inf"))
        if count == 1:
            assert found is flac.WHOLE
            continue
        ends = np.cumsum([0, *map(len, parts)]).tolist()
        spans = [part.spans for part in found.stretches]
        assert spans == [[span] for span in pairwise(ends)]


def test_all_streams_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(stream(5000, 8192) + stream(3000, 70_000) + stream(1))
    gaps: list[Gap] = []
    assert sum(map(len, read_blocks(path, 16000, gaps))) == 8001
    assert gaps == []


@pytest.mark.parametrize("num_samples", [5000, 8000, 8001])
def test_a_cut_is_as_long_as_its_manifest_says(tmp_path: Path, num_samples: int) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(stream(5000, 8192) + stream(3000, 70_000) + stream(1))
    whole = np.concatenate([soundfile.read(io.BytesIO(stream(n)))[0] for n in (5000, 3000, 1)])
    source = AudioSource("file", [0], str(path))
    cut = Recording("a", [source], 16000, num_samples, num_samples / 16000).to_cut()
    if num_samples == 8000:  # neither the first stream nor all: Lhotse cuts one sample off
        assert load_waveform(cut, 16000).tolist() == whole[:8000].tolist()
        cut = cut.truncate(offset=0.4, duration=0.1)  # in the second
        assert load_waveform(cut, 16000).tolist() == whole[6400:8000].tolist()
    else:
        assert load_waveform(cut, 16000).tolist() == whole[:num_samples].tolist()


def test_a_file_that_is_longer_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(stream(20_000))
    cut = Recording("a", [AudioSource("file", [0], str(path))], 16000, 5000, 5000 / 16000).to_cut()
    with pytest.raises(InputError, match=r"cut a: .*cannot be loaded"):
        load_waveform(cut, 16000)
