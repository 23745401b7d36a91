"""From what a corpus claims to what is usable: every utterance's audio and text are looked at, what
passes becomes a manifest, what does not is named with its reason in a report beside it.

A reader of a corpus (``librispeech``, ``corpora``) only says which utterances there are.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import TypeVar

from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.cut import Cut
from tqdm import tqdm

from asr.data.audio.samples import AudioError, AudioInfo, check_audio, probe
from asr.data.store.manifest import LeftOut, audio_source, cuts_path, write_cuts
from asr.errors import InputError
from asr.files import is_unicode, spell_out, write_atomically
from asr.heads.ctc import frames_needed
from asr.locks import locked

T = TypeVar("T")

# The encoder sees one frame per four hops of 10 ms.
ENCODER_FRAME_S = 0.04

# A segment may reach this far over the end of its recording and is then cut off there: what Kaldi's
# extract-segments allows (--max-overshoot).
MAX_OVERSHOOT_S = 0.5

_UTTERANCES_PER_TASK = 32
_NAMED_PER_REASON = 3


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus tells it, before its audio was looked at.

    ``start_s`` and ``duration_s`` are where it lies in its file; without a duration it goes on to
    the file's end.
    """

    id: str
    audio_path: Path
    text: str
    speaker: str
    start_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True)
class Part:
    """What a corpus' reader found: the utterances of one part, and what it could not read."""

    name: str
    utterances: list[Utterance]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class PartReport:
    """What is in one part's manifest, and what is not and why."""

    part: str
    cuts_path: str
    num_utterances: int
    duration_s: float
    num_speakers: int
    left_out: tuple[LeftOut, ...] = field(default=())

    @property
    def hours(self) -> float:
        return self.duration_s / 3600

    @property
    def report_path(self) -> Path:
        return report_path(Path(self.cuts_path).parent, self.part)

    def counts(self) -> dict[str, int]:
        """Items left out by reason, the most frequent first."""
        found = Counter(item.reason for item in self.left_out)
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    def lines(self) -> list[str]:
        """For the terminal: totals, then each reason with its count and first few items."""
        lines = [
            f"{self.part}: {self.num_utterances} utterances, {self.hours:.2f} hours, "
            f"{self.num_speakers} speakers, {len(self.left_out)} left out -> {self.cuts_path}"
        ]
        for reason, count in self.counts().items():
            lines.append(f"  left out: {count} x {reason}")
            items = [item for item in self.left_out if item.reason == reason]
            lines += [f"    {item.id}: {item.detail}" for item in items[:_NAMED_PER_REASON]]
            if count > _NAMED_PER_REASON:
                lines.append(f"    and {count - _NAMED_PER_REASON} more in {self.report_path}")
        return lines

    def to_json(self) -> str:
        content = asdict(self) | {"hours": round(self.hours, 4), "left_out_counts": self.counts()}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def report_path(out: Path, part: str) -> Path:
    return out / f"{part}.report.json"


def num_workers(num_jobs: int) -> int:
    """``num_jobs``, or for 0 as many as this process may use cores.

    Raises:
        InputError: negative.
    """
    if num_jobs < 0:
        raise InputError(f"num_jobs = {num_jobs}: must be at least 0 (0 is one per core)")
    if sys.platform == "linux":
        return num_jobs or len(os.sched_getaffinity(0))
    return num_jobs or os.cpu_count() or 1


def prepare_parts(
    parts: Sequence[Part], out: Path, *, num_jobs: int = 0, check: bool = True
) -> list[PartReport]:
    """``prepare_part`` for each.

    Raises:
        InputError: two parts of one name, or one without a usable utterance.
    """
    check_names([part.name for part in parts])
    return [
        prepare_part(
            part.name, part.utterances, out, left_out=part.left_out, num_jobs=num_jobs, check=check
        )
        for part in parts
    ]


def check_names(parts: Sequence[str]) -> None:
    """InputError where two parts have one name."""
    for name, count in Counter(parts).items():
        if count > 1:
            raise InputError(
                f"{count} parts are called {name!r}: one manifest would replace another"
            )


def prepare_part(
    part: str,
    utterances: Iterable[Utterance],
    out: Path,
    *,
    left_out: Iterable[LeftOut] = (),
    num_jobs: int = 0,
    check: bool = True,
) -> PartReport:
    """Look at every utterance's audio, write ``<out>/<part>.cuts.jsonl.gz`` and its report.

    Args:
        left_out: items that the corpus' own reader already refused.
        num_jobs: threads that decode (decoding releases Python's lock); 0 is one per core.
        check: decode every file; False believes the headers.

    Raises:
        InputError: nothing is left; then nothing is written.
    """
    by_file: dict[Path, list[Utterance]] = {}
    for utterance in sorted(utterances, key=lambda item: (item.audio_path, item.start_s, item.id)):
        by_file.setdefault(utterance.audio_path, []).append(utterance)
    found = inspect_all(
        part, list(by_file.values()), lambda items: _inspect_file(items, check), num_jobs
    )
    return write_part(part, found, out, left_out)


def inspect_all(
    part: str,
    groups: Sequence[Sequence[T]],
    inspect: Callable[[Sequence[T]], list[Cut | LeftOut]],
    num_jobs: int,
) -> Iterator[Cut | LeftOut]:
    """``inspect`` of every group, in threads, in the groups' order.

    A progress bar goes to stderr (none where that is not a terminal).
    """
    tasks: list[list[Sequence[T]]] = [[]]
    for group in groups:
        if sum(map(len, tasks[-1])) >= _UTTERANCES_PER_TASK:
            tasks.append([])
        tasks[-1].append(group)

    def run(task: list[Sequence[T]]) -> list[Cut | LeftOut]:
        return [result for group in task for result in inspect(group)]

    with (
        ThreadPoolExecutor(num_workers(num_jobs)) as pool,
        tqdm(total=sum(map(len, groups)), desc=part, unit="utt", disable=None) as bar,
    ):
        for results in pool.map(run, tasks):
            bar.update(len(results))
            yield from results


def write_part(
    part: str, found: Iterable[Cut | LeftOut], out: Path, left_out: Iterable[LeftOut] = ()
) -> PartReport:
    """The manifest and the report of what was inspected, in the order of the ids.

    Raises:
        InputError: not one cut among ``found``, then nothing is written; or another process prepares
            this part there.
    """
    with locked(out, part):
        return _write_part(part, found, out, left_out)


def _write_part(
    part: str, found: Iterable[Cut | LeftOut], out: Path, left_out: Iterable[LeftOut]
) -> PartReport:
    refused = list(left_out)
    cuts: dict[str, Cut] = {}
    for result in found:
        if isinstance(result, LeftOut):
            refused.append(result)
        elif result.id in cuts:
            refused.append(LeftOut(result.id, "duplicate id", audio_source(result)))
        else:
            cuts[result.id] = result
    refused = [LeftOut(*map(spell_out, astuple(item))) for item in refused]
    refused.sort(key=lambda item: (item.id, item.reason, item.detail))
    report = PartReport(
        part=part,
        cuts_path=str(cuts_path(out, part)),
        num_utterances=len(cuts),
        duration_s=round(math.fsum(cut.duration for cut in cuts.values()), 4),
        num_speakers=len({cut.supervisions[0].speaker for cut in cuts.values()}),
        left_out=tuple(refused),
    )
    if not cuts:
        counts = ", ".join(f"{count} x {reason}" for reason, count in report.counts().items())
        first = f"; first: {refused[0].id}: {refused[0].detail}" if refused else ""
        raise InputError(f"{part}: no usable utterance ({counts or 'the part is empty'}{first})")
    write_cuts([cuts[key] for key in sorted(cuts)], cuts_path(out, part))
    write_atomically(report_path(out, part), report.to_json())
    return report


def check_text(text: str, duration_s: float) -> tuple[str, str] | None:
    """(reason, detail) where a transcript is empty or cannot be aligned to that much audio."""
    if not text.strip():
        return "empty transcript", "no text"
    if not is_unicode(text):
        return "unreadable transcript", "half a character in it (a surrogate)"
    if "\0" in text:
        return "unreadable transcript", "a NUL byte in it"
    num_frames = int(duration_s / ENCODER_FRAME_S)
    needed = frames_needed(text)
    if needed > num_frames:
        return (
            "transcript too long for CTC",
            f"{duration_s:.2f} s are {num_frames} frames, "
            f"the text needs {needed} (characters and repeats)",
        )
    return None


def _inspect_file(utterances: Sequence[Utterance], check: bool) -> list[Cut | LeftOut]:
    """Utterances of one file, which is decoded once."""
    path = utterances[0].audio_path
    if not any(item.text.strip() for item in utterances):
        return [LeftOut(item.id, "empty transcript", str(path)) for item in utterances]
    try:
        info = check_audio(path) if check else AudioInfo(*probe(path))
    except AudioError as error:
        return [LeftOut(item.id, error.reason, str(error)) for item in utterances]
    if info.silent:
        return [LeftOut(item.id, "silent audio", str(path)) for item in utterances]
    return [_inspect(item, info) for item in utterances]


def _inspect(utterance: Utterance, info: AudioInfo) -> Cut | LeftOut:
    path, file_s = utterance.audio_path, info.num_samples / info.sample_rate
    for name, value in (
        ("file name", str(path)),
        ("id", utterance.id),
        ("speaker", utterance.speaker),
    ):
        if reason := check_name(name, value):
            return LeftOut(utterance.id, reason, str(path))
    if utterance.duration_s is None:
        end_s = file_s
    else:
        end_s = utterance.start_s + utterance.duration_s
    inside = 0 <= utterance.start_s < end_s <= file_s + MAX_OVERSHOOT_S  # false for NaN too
    if not inside or utterance.start_s >= file_s:
        return LeftOut(
            utterance.id,
            "segment outside its audio",
            f"{path}: {utterance.start_s:.2f} to {end_s:.2f} s of {file_s:.2f} s",
        )
    cut = make_cut(utterance, info)
    if problem := check_text(utterance.text, cut.duration):
        reason, detail = problem
        return LeftOut(utterance.id, reason, f"{path}: {detail}")
    return cut


def make_cut(utterance: Utterance, info: AudioInfo) -> Cut:
    """The utterance's segment of its recording, on whole samples, with one supervision."""
    rate, channels = info.sample_rate, list(range(info.num_channels))
    first = round(utterance.start_s * rate)
    last = info.num_samples
    if utterance.duration_s is not None:
        last = min(last, round((utterance.start_s + utterance.duration_s) * rate))
    duration_s = (last - first) / rate
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource("file", channels, os.path.abspath(utterance.audio_path))],
        sampling_rate=rate,
        num_samples=info.num_samples,
        duration=info.num_samples / rate,
        channel_ids=channels,
    )
    channel: int | list[int] = 0 if len(channels) == 1 else channels
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration_s,
        channel=channel,
        text=utterance.text,
        speaker=utterance.speaker,
    )
    kind = MonoCut if len(channels) == 1 else MultiCut
    return kind(
        id=utterance.id,
        start=first / rate,
        duration=duration_s,
        channel=channel,
        supervisions=[supervision],
        recording=recording,
    )


def check_name(name: str, value: str) -> str:
    """Why a value cannot name a thing, or nothing."""
    if not is_unicode(value):
        return f"{name} is not UTF-8"
    return f"{name} has a NUL byte" if "\0" in value else ""
