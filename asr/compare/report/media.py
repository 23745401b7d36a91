"""Audio and pictures as data URIs, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from asr.data.store.gate import ForeignSource
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError

SAMPLE_RATE = 16000
# What one clip may hold; longer audio is cut there, and the page says so.
MAX_CLIP_S = 20.0


def waveforms(cuts: str | None, ids: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(float32 waveforms at 16 kHz, why there is none) by utterance; each is in one of the two.

    Raises:
        ForeignSource: the manifest would run or download something.
    """
    if cuts is None or not Path(cuts).is_file():
        return {}, dict.fromkeys(ids, _why_no_manifest(cuts))
    found: dict[str, np.ndarray] = {}
    missing = dict.fromkeys(ids, f"not in {cuts}")
    try:
        for cut in read_cuts(cuts):
            if cut.id in missing:
                try:
                    found[cut.id] = load_waveform(cut, SAMPLE_RATE)
                    del missing[cut.id]
                except ForeignSource:
                    raise
                except InputError as error:
                    missing[cut.id] = str(error)
    except ForeignSource:
        raise
    except InputError as error:
        missing = {id_: str(error) for id_ in missing}
    return found, missing


def _why_no_manifest(cuts: str | None) -> str:
    if cuts is None:
        return "decode.json names no manifest"
    if not Path(cuts).is_absolute():
        return f"decode.json names its manifest relative to where it was decoded: {cuts}"
    return f"the manifest that decode.json names is not there: {cuts}"


def mp3_uri(wave: np.ndarray) -> str:
    """At most ``MAX_CLIP_S`` as MP3, which every browser plays: some 6 kB per second."""
    file = io.BytesIO()
    clip = wave[: int(MAX_CLIP_S * SAMPLE_RATE)]
    soundfile.write(
        file, clip, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.9
    )
    return _data_uri("audio/mpeg", file.getvalue())


def png_uri(grey_yx: np.ndarray) -> str:
    """A greyscale picture of values in [0, 1]; 1 is black."""
    bytes_yx = np.round(255 * (1 - np.clip(grey_yx, 0, 1))).astype(np.uint8)
    height, width = bytes_yx.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), bytes_yx], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)
    return _data_uri("image/png", content)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
