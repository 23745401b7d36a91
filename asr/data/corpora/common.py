"""Common parts of the readers of corpora: names for utterances, lines of text files, splitting."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import LeftOut
from asr.data.store.preparation import Part, Utterance
from asr.errors import InputError
from asr.files import read_bytes


def number_or_none(text: str) -> float | None:
    """A number; None where it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def read_lines(path: Path, left_out: list[LeftOut]) -> Iterator[tuple[int, str]]:
    """(line number, text without its end) of the lines of a UTF-8 file that are not blank.

    A line that is not UTF-8 goes to ``left_out``.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    # bytes.splitlines() knows only \n, \r and \r\n: a text may hold other separators (U+2028)
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            left_out.append(line_left_out(path, number, "unreadable transcript", "not UTF-8"))
            continue
        if text.strip():
            yield number, text


def line_left_out(path: Path, number: int, reason: str, detail: str) -> LeftOut:
    """A line of a table that is no utterance."""
    return LeftOut(f"{path.name}:{number}", reason, f"{path}, line {number}: {detail}")


def name_utterances(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The same utterances, those without an id named after their files.

    ``a/b.mp3`` becomes ``a-b``, seen from the folder that all files share; a segment's start in
    milliseconds is added: ``a-b-00012340``.
    """
    folders = [os.path.dirname(os.path.abspath(item.audio_path)) for item in utterances]
    root = os.path.commonpath(folders) if folders else ""
    named = []
    for item in utterances:
        path = os.path.relpath(os.path.abspath(item.audio_path), root)
        name = os.path.splitext(path)[0].replace(os.path.sep, "-")
        if item.start_s or item.duration_s is not None:
            name += f"-{1000 * item.start_s:08.0f}"
        named.append(item if item.id else replace(item, id=name))
    return named


def split(part: Part, dev_share: float, test_share: float) -> list[Part]:
    """One part into ``train``, ``dev`` and ``test``, the last two with these shares of the utterances.

    Speakers that are known stay whole, so nobody is in two parts. Who goes where follows from a
    hash of the names alone: the same corpus is split the same way anywhere. What the reader left out
    is reported with ``train``.

    Raises:
        InputError: too few speakers (or utterances, where speakers are unknown) for that.
    """
    if dev_share + test_share >= 1:
        raise InputError(
            f"--dev-share {dev_share:g} and --test-share {test_share:g} leave nothing to train on"
        )
    if not part.utterances:
        return [Part("train", [], part.left_out)]
    groups: dict[str, list[Utterance]] = {}
    for item in part.utterances:
        known = item.speaker != UNKNOWN_SPEAKER
        groups.setdefault(f"speaker {item.speaker}" if known else item.id, []).append(item)
    waiting = sorted(groups, key=lambda key: hashlib.sha256(key.encode()).digest())
    shares = {name: share for name, share in (("test", test_share), ("dev", dev_share)) if share}
    if len(groups) <= len(shares):
        raise InputError(
            f"{part.name}: {len(groups)} speakers are too few for train, dev and test parts "
            "without a speaker in common; prepare the parts by hand"
        )
    parts = []
    for num_done, (name, share) in enumerate(shares.items()):
        quota, chosen = share * len(part.utterances), list[str]()
        most = len(waiting) - (len(shares) - num_done)  # the parts that follow get one each
        for key in waiting:
            # as near to the quota as whole speakers allow
            size = sum(len(groups[one]) for one in chosen) + len(groups[key]) / 2
            if size <= quota and len(chosen) < most:
                chosen.append(key)
        chosen = chosen or sorted(waiting, key=lambda key: len(groups[key]))[:1]
        waiting = [key for key in waiting if key not in chosen]
        parts.append(Part(name, [item for key in chosen for item in groups[key]], []))
    rest = [item for key in waiting for item in groups[key]]
    return [Part("train", rest, part.left_out), *parts]
