"""Names that audio files go by, wherever a folder is searched for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Files that only PyAV can open: the hint to install it is given for these.
# fmt: off
MEDIA_EXTENSIONS = frozenset(
    f".{name}" for name in (
        "3g2", "3gp", "aac", "ac3", "adts", "amr", "ape", "asf", "avi", "dts", "eac3", "f4v",
        "flv", "m2ts", "m4a", "m4b", "m4v", "mka", "mkv", "mov", "mp4", "mpc", "mpeg", "mpg",
        "mts", "ogv", "qt", "ra", "rm", "spx", "ts", "tta", "vob", "weba", "webm", "wma", "wmv",
        "wv"
    )
)

# Files that libsndfile opens.
_SOUND_EXTENSIONS = frozenset(
    f".{name}" for name in (
        "aif", "aifc", "aiff", "au", "avr", "caf", "flac", "htk", "iff", "mp1", "mp2", "mp3",
        "mpga", "nist", "oga", "ogg", "opus", "paf", "pvf", "rf64", "sd2", "sds", "sf", "snd",
        "sph", "svx", "voc", "w64", "wav", "wave", "wve", "xi"
    )
)
# fmt: on

AUDIO_EXTENSIONS = MEDIA_EXTENSIONS | _SOUND_EXTENSIONS

# What lies beside audio and is not missed: transcripts, subtitles, what this program writes.
_COMPANIONS = frozenset((".txt", ".json", ".srt", ".vtt", ".tsv", ".ctm", ".textgrid"))


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth, sorted; links to folders are followed once, hidden files and
    folders are not looked at."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def is_audio_name(path: Path) -> bool:
    """Return whether a file counts as audio when a folder is searched for it."""
    return path.suffix.lower() in AUDIO_EXTENSIONS


def is_unknown_name(path: Path) -> bool:
    """Return whether a file is neither audio nor what lies beside audio, nor hidden."""
    is_known = is_audio_name(path) or path.suffix.lower() in _COMPANIONS
    return not is_known and not path.name.startswith(".")
