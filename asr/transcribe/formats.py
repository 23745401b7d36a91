"""Transcripts as files: text, JSON, SubRip, WebVTT, tab-separated, NIST's CTM, Praat's TextGrid."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence

from asr.files import spell_out
from asr.transcribe.result import Segment, Transcript, Word
from asr.transcribe.subtitles import make_cues


def to_txt(transcript: Transcript) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> str:
    """One object on one line, so that many files give JSON lines."""
    return _json(transcript, ensure_ascii=False)


def to_ascii_json(transcript: Transcript) -> str:
    """The same object in ASCII."""
    return _json(transcript, ensure_ascii=True)


def _json(transcript: Transcript, ensure_ascii: bool) -> str:
    content = transcript.to_dict() | {"name": spell_out(transcript.name)}
    return json.dumps(content, ensure_ascii=ensure_ascii) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip."""
    cues = make_cues(transcript.words, transcript.duration_s)
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n"
        + "\n".join(cue.lines)
        + "\n\n"
        for number, cue in enumerate(cues, start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): ``&``, ``<`` and ``>`` are escaped."""
    cues = make_cues(transcript.words, transcript.duration_s)
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        + "\n".join(html.escape(line, quote=False) for line in cue.lines)
        + "\n\n"
        for cue in cues
    )


def to_tsv(transcript: Transcript) -> str:
    """Segments: start and end in whole milliseconds, text; tabs between, a header above."""
    rows = [
        f"{_ms(segment.start_s)}\t{_ms(segment.end_s)}\t{segment.text}\n"
        for segment in transcript.segments
    ]
    return "start\tend\ttext\n" + "".join(rows)


def to_ctm(transcript: Transcript) -> str:
    """NIST's time-marked words: file, channel, start, duration (seconds), word, confidence."""
    name = "_".join(spell_out(transcript.name).split()) or "array"
    channel = 1 + (transcript.channel or 0)
    return "".join(
        f"{name} {channel} {word.start_s:.3f} {word.end_s - word.start_s:.3f} {word.text} "
        f"{word.confidence:.3f}\n"
        for word in transcript.words
    )


def to_textgrid(transcript: Transcript) -> str:
    """Praat's long text format: the tiers ``segments`` and ``words``, empty labels for silence."""
    end_s = transcript.duration_s
    tiers = [
        _tier(1, "segments", transcript.segments, end_s),
        _tier(2, "words", transcript.words, end_s),
    ]
    head = (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        f"xmin = 0\nxmax = {end_s:.6f}\ntiers? <exists>\nsize = {len(tiers)}\nitem []:\n"
    )
    return head + "".join(tiers)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "json": to_json,
    "srt": to_srt,
    "vtt": to_vtt,
    "tsv": to_tsv,
    "ctm": to_ctm,
    "textgrid": to_textgrid,
}
# What Praat and everyone else calls such a file; the others are named like their format.
SUFFIXES = {name: f".{name}" for name in FORMATS} | {"textgrid": ".TextGrid"}
# Formats in which one file after another is again a file of the format.
JOINABLE = frozenset({"txt", "json", "ctm"})


def _tier(number: int, name: str, items: Sequence[Segment | Word], end_s: float) -> str:
    intervals: list[tuple[float, float, str]] = []
    at_s = 0.0
    for item in items:
        start_s, stop_s = max(item.start_s, at_s), min(item.end_s, end_s)
        if stop_s <= start_s:
            continue
        if start_s > at_s:
            intervals.append((at_s, start_s, ""))
        intervals.append((start_s, stop_s, item.text))
        at_s = stop_s
    if at_s < end_s or not intervals:
        intervals.append((at_s, end_s, ""))
    text = (
        f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{name}"\n'
        f"        xmin = 0\n        xmax = {end_s:.6f}\n"
        f"        intervals: size = {len(intervals)}\n"
    )
    for count, (start_s, stop_s, label) in enumerate(intervals, start=1):
        quoted = label.replace('"', '""')
        text += (
            f"        intervals [{count}]:\n            xmin = {start_s:.6f}\n"
            f'            xmax = {stop_s:.6f}\n            text = "{quoted}"\n'
        )
    return text


def _clock(time_s: float, point: str) -> str:
    """hh:mm:ss,mmm"""
    seconds, ms = divmod(_ms(time_s), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{ms:03d}"


def _ms(time_s: float) -> int:
    return round(time_s * 1000)
