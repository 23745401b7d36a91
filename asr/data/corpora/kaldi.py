"""Kaldi data directories: ``wav.scp``, ``text``, ``utt2spk`` and, for long recordings, ``segments``.

Lhotse's own loader stops at the first thing that is wrong and runs the shell commands of a
``wav.scp``; here what is wrong is named and left out, and nothing is run.
"""

from __future__ import annotations

from pathlib import Path

from asr.data.corpora.common import line_left_out, number_or_none, read_lines
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import LeftOut
from asr.data.store.preparation import Part, Utterance
from asr.errors import InputError


def read_kaldi(folder: Path, root: Path | None = None) -> Part:
    """One data directory; the part has its name.

    Args:
        root: folder that relative paths in ``wav.scp`` start from; by default, as in Kaldi, the one
            the command runs in.

    Raises:
        InputError: no such folder, no ``wav.scp`` or ``text`` in it, or a ``wav.scp`` of pipes.
    """
    for name in ("wav.scp", "text"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: not a Kaldi data directory: no {name} in it")
    left_out: list[LeftOut] = []
    recordings = {key: (root or Path()) / path for key, path in _read_scp(folder, left_out).items()}
    texts = _read_map(folder / "text", left_out)
    speakers: dict[str, str] = {}
    if (folder / "utt2spk").is_file():
        speakers = _read_map(folder / "utt2spk", left_out)
    if (folder / "segments").is_file():
        segments = _read_segments(folder / "segments", left_out)
    else:
        segments = {key: (key, 0.0, None) for key in recordings}
    utterances = []
    for key, (recording, start_s, duration_s) in segments.items():
        if recording not in recordings:
            detail = f"{folder}: its recording {recording} is not in wav.scp"
            left_out.append(LeftOut(key, "missing audio", detail))
        elif key not in texts:
            detail = str(recordings[recording])
            left_out.append(LeftOut(key, "audio without transcript", detail))
        else:
            speaker = speakers.get(key) or UNKNOWN_SPEAKER
            path = recordings[recording]
            utterances.append(Utterance(key, path, texts[key], speaker, start_s, duration_s))
    left_out += [
        LeftOut(key, "transcript without audio", f"{folder / 'text'}")
        for key in texts
        if key not in segments
    ]
    return Part(folder.resolve().name, utterances, left_out)


def _read_scp(folder: Path, left_out: list[LeftOut]) -> dict[str, str]:
    recordings = _read_map(folder / "wav.scp", left_out)
    for key, path in recordings.items():
        if path.startswith("|") or path.endswith("|"):
            raise InputError(
                f"{folder / 'wav.scp'}: {key} is a shell command ({path[:60]}), which is not run; "
                "write its output to a file and name that"
            )
    return recordings


def _read_map(path: Path, left_out: list[LeftOut]) -> dict[str, str]:
    """Lines of a key and what belongs to it."""
    found: dict[str, str] = {}
    for number, line in read_lines(path, left_out):
        key, *rest = line.split(maxsplit=1)
        if key in found:
            left_out.append(LeftOut(key, "duplicate id", f"{path}, line {number}"))
        else:
            found[key] = rest[0].strip() if rest else ""
    return found


def _read_segments(
    path: Path, left_out: list[LeftOut]
) -> dict[str, tuple[str, float, float | None]]:
    """Utterance to (recording, start, duration); an end of -1 is the recording's own."""
    found: dict[str, tuple[str, float, float | None]] = {}
    for number, line in read_lines(path, left_out):
        words = line.split()
        times_s = [value for word in words[2:] if (value := number_or_none(word)) is not None]
        if len(words) != 4 or len(times_s) != 2:
            detail = "expected UTTERANCE RECORDING START END"
            left_out.append(line_left_out(path, number, "malformed line", detail))
        elif words[0] in found:
            left_out.append(LeftOut(words[0], "duplicate id", f"{path}, line {number}"))
        else:
            start_s, end_s = times_s
            found[words[0]] = (words[1], start_s, None if end_s == -1 else end_s - start_s)
    return found
