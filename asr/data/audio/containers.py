"""PyAV opens containers of sound, and nothing that names further files.

FFmpeg takes a file for whatever its first bytes look like: a playlist (HLS, DASH, ffconcat, a session
description) named ``x.wav`` would make it open other files and addresses, wait, or take any memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

# FFmpeg's names of demuxers that read the one file that they are given.
FORMATS = [
    "mov",
    "mp4",
    "m4a",
    "3gp",
    "3g2",
    "mj2",
    "matroska",
    "webm",
    "avi",
    "asf",
    "flv",
    "f4v",
    "live_flv",
    "mpeg",
    "mpegts",
    "mpegvideo",
    "mp3",
    "aac",
    "loas",
    "ac3",
    "eac3",
    "dts",
    "dtshd",
    "truehd",
    "mlp",
    "amr",
    "amrnb",
    "amrwb",
    "ogg",
    "flac",
    "wav",
    "w64",
    "aiff",
    "au",
    "caf",
    "wv",
    "tta",
    "ape",
    "mpc",
    "mpc8",
    "gsm",
    "nistsphere",
    "voc",
    "xwma",
    "wtv",
    "rm",
    "mxf",
    "nut",
    "dv",
    "tak",
    "shn",
    "oma",
    "aa",
    "aax",
    "nsv",
    "swf",
    "ivf",
    "h264",
    "hevc",
]
_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}


def open_container(source: Path | BinaryIO) -> Any:
    """Open a file with PyAV if it is a container of sound.

    Args:
        source: a path, or a binary file that can seek.

    Raises:
        av.FFmpegError: it is none, or damaged.
    """
    import av

    # an absolute path: FFmpeg takes ``concat:a|b``, the name of a file, for a protocol
    file = os.path.abspath(source) if isinstance(source, Path) else source
    return av.open(file, metadata_errors="ignore", options=_OPTIONS)
