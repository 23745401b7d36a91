"""Files that are taken for no raw samples."""

from __future__ import annotations

import bz2
import gzip
import io

import numpy as np
import pytest
import soundfile

from asr.transcribe.magic import HEAD_BYTES, kind_of_file

RNG = np.random.default_rng(0)
SOUND_N = (0.1 * RNG.standard_normal(48000)).astype(np.float32)


@pytest.mark.parametrize(
    ("container", "codec", "kind"),
    [
        ("ac3", "ac3", "AC-3"),
        ("tta", "tta", "TTA"),
        ("nut", "pcm_s16le", "NUT"),
        ("rm", "ac3", "RealMedia"),
        ("voc", "pcm_u8", "VOC"),
        ("sox", "pcm_s32le", "SoX"),
        ("ircam", "pcm_s16le", "IRCAM"),
        ("sbc", "sbc", "SBC"),
        ("latm", "aac", "LATM"),
        ("adts", "aac", "AAC"),
        ("mp2", "mp2", "MP3"),
        ("matroska", "pcm_s16le", "WebM or Matroska"),
        ("ipod", "aac", "MP4 or M4A"),
    ],
)
def test_a_container_of_sound(container: str, codec: str, kind: str) -> None:
    av = pytest.importorskip("av", reason="PyAV not installed")
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg without {codec}")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=16000 if codec == "sbc" else 48000, layout="mono")
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, "mono", stream.rate, size)
        frame = av.AudioFrame.from_ndarray(SOUND_N[None], format="flt", layout="mono")
        frame.rate = stream.rate
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    assert kind_of_file(file.getvalue()[:HEAD_BYTES]) == kind


@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF", "CAF", "AU", "FLAC", "MP3"])
def test_what_soundfile_writes(kind: str) -> None:
    file = io.BytesIO()
    soundfile.write(file, SOUND_N, 16000, format=kind)
    assert kind_of_file(file.getvalue()[:HEAD_BYTES]) == kind


def test_packed_files() -> None:
    assert kind_of_file(gzip.compress(SOUND_N.tobytes())) == "gzip"
    assert kind_of_file(bz2.compress(SOUND_N.tobytes())) == "bzip2"


@pytest.mark.parametrize("dtype", ["<i2", "<i4", "<f4"])
def test_raw_samples(dtype: str) -> None:
    scale = 1.0 if dtype == "<f4" else float(np.iinfo(dtype).max)
    for start in range(0, len(SOUND_N) - 4096, 1000):
        raw = (SOUND_N[start : start + 4096] * scale).astype(dtype).tobytes()
        assert kind_of_file(raw[:HEAD_BYTES]) is None
    assert kind_of_file(bytes(HEAD_BYTES)) is None
    assert kind_of_file(b"\x0bw" + SOUND_N.tobytes()[:4000]) is None
