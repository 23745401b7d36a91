"""Inputs that people name on a command line: files, folders, globs, manifests, standard input."""

from __future__ import annotations

import glob
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from asr.data.audio.blocks import convert, read_blocks
from asr.data.audio.extensions import is_audio_name, is_unknown_name, walk_files
from asr.data.audio.gaps import Gap, Remark
from asr.data.audio.levels import narrowed, to_floats
from asr.data.audio.reader import spooled
from asr.data.store.cut_blocks import read_cut_blocks
from asr.data.store.manifest import read_cuts
from asr.errors import InputError

STDIN = "-"
_MANIFEST_SUFFIXES = (".jsonl", ".jsonl.gz")

Open = Callable[[int, list[Gap]], Iterator[np.ndarray]]
"""(sample rate, gaps to append to) -> mono float32 blocks; raises InputError."""


@dataclass(frozen=True)
class Source:
    """One thing to transcribe.

    Attributes:
        name: for people: the path, a cut's id, ``-``.
        open: reads it; whatever is wrong with it shows only here.
        path: of the file, where it is one.
        out: where its results go within a folder of results, with the input's own suffix; None where
            there is nothing to open.
        channel: the one that is read, from 0; None: the mean, or the cut itself says it.
        home: the folder (of a cut, the manifest) that ``out`` lies in, without its root.
    """

    name: str
    open: Open
    path: Path | None
    out: Path | None
    home: Path = Path()
    channel: int | None = None

    @property
    def key(self) -> Path | tuple[Path, str]:
        """A key that tells it from all others: a file's place, a cut's manifest and id."""
        if self.path is None or self.out is None:
            return self.home, self.name
        return self.home / self.out


def find_sources(
    inputs: Iterable[str],
    channel: int | None = None,
    track: int | None = None,
    notes: list[str] | None = None,
) -> Iterator[Source]:
    """Find all that ``inputs`` name, in order; what is not there fails when opened.

    Args:
        inputs: files, folders (searched for audio and video, at any depth), globs, manifests of
            Lhotse cuts, ``-`` for standard input.
        channel: the one to read, from 0; None is the mean.
        track: the audio track of containers to read, from 0; None is their default one.
        notes: how many files of a folder are skipped is appended here.
    """
    what = _What(channel, track, [] if notes is None else notes)
    for text in inputs:
        try:
            yield from _expand(text, what)
        except InputError as error:
            yield failing_source(text, error)
        except OSError as error:
            yield failing_source(text, InputError(f"{text}: {error.strerror}"))


def without_repeats(sources: Iterable[Source]) -> list[Source]:
    """The first of all sources that are the same file, or the same cut of a manifest."""
    found: dict[Path | tuple[Path, str], Source] = {}
    for source in sources:
        found.setdefault(source.key, source)
    return list(found.values())


def failing_source(name: str, error: InputError) -> Source:
    """A source that cannot be opened, and why."""
    return Source(name, partial(_fail, error), None, None)


def array_source(samples_cn: np.ndarray, sample_rate: int, channel: int | None) -> Source:
    """Samples (channels, n) in memory.

    Raises:
        InputError: see ``to_floats``; more channels than samples; a rate that is no number.
    """
    if samples_cn.ndim == 2 and samples_cn.shape[0] > samples_cn.shape[1] > 0:
        num_channels, num_samples = samples_cn.shape
        raise InputError(
            f"samples of shape ({num_channels}, {num_samples}): expected (n,) or (channels, n); "
            "what soundfile reads is (n, channels): give its .T"
        )
    if samples_cn.ndim == 2 and not len(samples_cn):
        raise InputError(f"samples of shape {samples_cn.shape}: no channel; expected (channels, n)")
    if not isinstance(sample_rate, numbers.Real):
        raise InputError(f"sample_rate = {sample_rate!r}: must be a number of samples per second")
    samples_cn, note = narrowed(samples_cn)
    blocks_nc = [np.ascontiguousarray(to_floats(samples_cn).T)]

    def open_array(rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
        if note is not None:
            gaps.append(Remark(0.0, None, note))
        return convert(blocks_nc, sample_rate, rate, gaps, channel)

    return Source(
        "",
        open_array,
        None,
        Path("array"),
        channel=channel,
    )


@dataclass(frozen=True)
class _What:
    """A choice of what to read of each input, and where to say what is skipped."""

    channel: int | None
    track: int | None
    notes: list[str]


def file_source(
    path: Path,
    channel: int | None = None,
    folder: Path | None = None,
    track: int | None = None,
) -> Source:
    """A file; ``folder`` is the one given, where it was found in one."""

    def open_file(sample_rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
        return read_blocks(path, sample_rate, gaps, channel, track)

    home = path.parent if folder is None else folder
    return Source(str(path), open_file, path, path.relative_to(home), _without_root(home), channel)


def _expand(text: str, what: _What) -> Iterator[Source]:
    if not text:
        raise InputError("an empty file name: expected a file, a folder or - for standard input")
    if text == STDIN:
        yield Source(STDIN, partial(_read_stdin, what), None, Path("stdin"), channel=what.channel)
    elif glob.has_magic(text) and not os.path.lexists(text):
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise InputError(f"{text}: no file matches")
        for match in matches:  # a name from here on, whatever characters are in it
            yield from _expand_name(match, what)
    else:
        yield from _expand_name(text, what)


def _expand_name(text: str, what: _What) -> Iterator[Source]:
    path, channel = Path(text), what.channel
    if os.path.isdir(path):  # unlike Path's, no error for too long a name
        for file in _audio_files(path, what.notes):
            yield file_source(file, channel, path, what.track)
    elif text.endswith(_MANIFEST_SUFFIXES):
        if channel is not None or what.track is not None:
            raise InputError(f"{path}: the cuts of a manifest say their channels themselves")
        yield from (_cut_source(cut, _without_root(path)) for cut in read_cuts(path))
    else:
        yield file_source(path, channel, track=what.track)


def _audio_files(folder: Path, notes: list[str]) -> list[Path]:
    """The audio and video files at any depth, by their names.

    Raises:
        InputError: none.
    """
    # a link to nothing, as of audio that git-annex has not fetched, fails when it is opened
    files = [path for path in walk_files(folder) if path.is_file() or not path.exists()]
    found = sorted(path for path in files if is_audio_name(path))
    if not found:
        raise InputError(f"{folder}: no audio or video file in this folder")
    skipped = sorted(path for path in files if is_unknown_name(path))
    if skipped:
        notes.append(
            f"{folder}: {len(skipped)} of {len(files)} files skipped, by their names no audio, as "
            f"{skipped[0].name}; name them to have them read"
        )
    return found


def _cut_source(cut: Cut, home: Path) -> Source:
    def open_cut(sample_rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
        return read_cut_blocks(cut, sample_rate, gaps)

    return Source(cut.id, open_cut, None, Path(cut.id.replace("/", "_") + ".cut"), home)


def _without_root(folder: Path) -> Path:
    """The whole path, as names that can be put into another folder."""
    whole = Path(os.path.abspath(folder))
    return whole.relative_to(whole.anchor)


def _read_stdin(what: _What, sample_rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
    if sys.stdin is None:
        raise InputError("standard input is closed")
    with spooled(sys.stdin.buffer) as file:
        name = "standard input"
        yield from read_blocks(file, sample_rate, gaps, what.channel, what.track, name)


def _fail(error: InputError, sample_rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
    raise error
