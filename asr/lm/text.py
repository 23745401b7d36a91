"""Sentences for language models: from text files and from the transcripts of manifests."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from asr.data.index import cut_text
from asr.data.manifest import MANIFEST_SUFFIX, read_cuts
from asr.errors import InputError
from asr.text.normalise import Normaliser

_MANIFEST_SUFFIXES = (MANIFEST_SUFFIX, ".yaml", ".yml", ".yaml.gz", ".yml.gz")


def read_sentences(
    paths: Iterable[Path], normaliser: Normaliser, with_ids: bool = False
) -> Iterator[list[str]]:
    """The words of every sentence that has any, in the files' order.

    Args:
        paths: text with a sentence per line (``.gz``: gzipped), or manifests of cuts, known by their
            content, whose utterances are the sentences.
        with_ids: the first word of each line of a text is an utterance's id, as in LibriSpeech's
            transcripts; a space or a tab follows it.

    Raises:
        InputError: a file that cannot be read, or JSON that is no manifest of cuts.
    """
    for path in paths:
        for text in _texts(path, with_ids):
            if words := normaliser(text).split():
                yield words


def _texts(path: Path, with_ids: bool) -> Iterator[str]:
    lines = (line for line in _lines(path) if line.strip())
    first = "{" if path.name.endswith(_MANIFEST_SUFFIXES) else next(lines, "")
    if _is_json(first):
        yield from (cut_text(cut) for cut in read_cuts(path))
        return
    for line in itertools.chain([first], lines):
        if with_ids:
            yield from line.split(maxsplit=1)[1:]
        else:
            yield line


def _is_json(line: str) -> bool:
    """Whether a file that begins with this line is JSON, of one object per line or of many lines."""
    line = line.strip()
    if line in ("{", "[") or line.startswith(("[{", "[ {")):
        return True
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig") as file:
                yield from file
        else:
            with path.open(encoding="utf-8-sig") as file:
                yield from file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
