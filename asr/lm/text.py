"""Sentences for language models: from text files and from the transcripts of manifests."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from asr.data.index import cut_text
from asr.data.manifest import MANIFEST_SUFFIX, read_cuts
from asr.errors import InputError
from asr.text.normalise import Normaliser


def read_sentences(
    paths: Iterable[Path], normaliser: Normaliser, with_ids: bool = False
) -> Iterator[list[str]]:
    """The words of every sentence that has any, in the files' order.

    Args:
        paths: text with a sentence per line (``.gz``: gzipped), or manifests (``.cuts.jsonl.gz``),
            whose utterances are the sentences.
        with_ids: the first word of each line is an utterance's id, as in LibriSpeech's transcripts.

    Raises:
        InputError: a file that cannot be read.
    """
    for path in paths:
        for line in _manifest(path) if path.name.endswith(MANIFEST_SUFFIX) else _lines(path):
            text = line.partition(" ")[2] if with_ids else line
            if words := normaliser(text).split():
                yield words


def _manifest(path: Path) -> Iterator[str]:
    return (cut_text(cut) for cut in read_cuts(path))


def _lines(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                yield from file
        else:
            with path.open(encoding="utf-8") as file:
                yield from file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
