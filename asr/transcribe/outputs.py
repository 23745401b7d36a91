"""Where transcripts go: standard output, or one file per source and format."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asr.errors import InputError
from asr.files import write_atomically
from asr.transcribe.formats import FORMATS, JOINABLE, SUFFIXES
from asr.transcribe.result import Transcript
from asr.transcribe.sources import Source


def parse_formats(text: str) -> list[str]:
    """``"srt,json"`` to the names of formats.

    Raises:
        InputError: one that does not exist.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise InputError(f"format {name!r}: choose from {', '.join(FORMATS)}")
    return names


class Printed:
    """Everything to standard output, in one format."""

    def __init__(self, formats: Sequence[str], num_sources: int):
        """
        Raises:
            InputError: more than one format, or files that cannot follow each other in one stream.
        """
        if len(formats) > 1:
            raise InputError(
                f"formats {', '.join(formats)}: one goes to standard output; "
                "--beside or --out FOLDER writes several"
            )
        self._format = formats[0]
        self._many = num_sources > 1
        if self._many and self._format not in JOINABLE:
            raise InputError(
                f"format {self._format!r}: {num_sources} inputs do not fit into one stream; "
                "use --beside or --out FOLDER"
            )

    def write(self, source: Source, transcript: Transcript) -> None:
        text = FORMATS[self._format](transcript)
        if self._many and self._format == "txt":
            text = f"{source.name}\t{text}"
        sys.stdout.write(text)
        sys.stdout.flush()


class Written:
    """A file for each source and format, whole or not at all."""

    def __init__(self, formats: Sequence[str], sources: Sequence[Source], folder: Path | None):
        """
        Args:
            folder: where the files go; None is beside each input.

        Raises:
            InputError: an input that is no file, with nowhere to be beside of.
        """
        self._formats = formats
        self._folder = folder
        for source in sources:
            if folder is None and source.path is None:
                raise InputError(f"{source.name}: not a file to write beside; use --out FOLDER")
        # talk.mp3 gives talk.txt; where there is talk.wav too, talk.mp3.txt and talk.wav.txt
        counts = Counter(self._target(source).with_suffix("") for source in sources)
        self._keeps_suffix = {stem for stem, number in counts.items() if number > 1}

    def write(self, source: Source, transcript: Transcript) -> None:
        """
        Raises:
            InputError: a file that cannot be written.
        """
        target = self._target(source)
        stem = target.with_suffix("")
        if stem in self._keeps_suffix:
            stem = target
        for name in self._formats:
            path = stem.with_name(stem.name + SUFFIXES[name])
            write_atomically(path, FORMATS[name](transcript))

    def _target(self, source: Source) -> Path:
        if self._folder is not None:
            return self._folder / source.out
        assert source.path is not None
        return source.path
