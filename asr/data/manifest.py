"""What all corpora share: Lhotse cuts in and out, the checks on them, the report, and loading.

A part of a corpus is one file ``<part>.cuts.jsonl.gz``: one cut per utterance, the whole recording,
one supervision with text and speaker, and the audio's absolute path. No audio is copied.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lhotse import AudioSource, CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.audio.backend import set_current_audio_backend
from lhotse.cut import Cut
from tqdm import tqdm

from asr.data.audio import AudioError, AudioInfo, check_audio, check_finite, probe, to_mono
from asr.errors import InputError
from asr.files import write_atomically

# Lhotse's own choice tries torchaudio.load, which needs an extra package since torchaudio 2.9, and
# ffmpeg. libsndfile reads everything a corpus holds. A user's own choice goes first.
if "LHOTSE_AUDIO_BACKEND" not in os.environ:
    set_current_audio_backend("LibsndfileBackend")

# The encoder sees one frame per four hops of 10 ms.
ENCODER_FRAME_S = 0.04

MANIFEST_SUFFIX = ".cuts.jsonl.gz"

_UTTERANCES_PER_TASK = 32
_NAMED_PER_REASON = 3


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus folder tells it, before its audio was looked at."""

    id: str
    audio_path: Path
    text: str
    speaker: str


@dataclass(frozen=True)
class LeftOut:
    """An item that did not make it into the manifest."""

    id: str
    reason: str
    detail: str


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


def cuts_path(out: Path, part: str) -> Path:
    return out / f"{part}{MANIFEST_SUFFIX}"


def report_path(out: Path, part: str) -> Path:
    return out / f"{part}.report.json"


def min_ctc_frames(tokens: Sequence[Any]) -> int:
    """Frames that CTC needs for ``tokens``: one each, and a blank between equal neighbours."""
    return len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))


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
    refused = list(left_out)
    kept: list[Utterance] = []
    seen: set[str] = set()
    for utterance in sorted(utterances, key=lambda item: (item.id, item.audio_path)):
        if utterance.id in seen:
            refused.append(LeftOut(utterance.id, "duplicate id", str(utterance.audio_path)))
            continue
        seen.add(utterance.id)
        kept.append(utterance)
    cuts: list[Cut] = []
    for result in _inspect_all(part, kept, num_jobs, check):
        if isinstance(result, LeftOut):
            refused.append(result)
        else:
            cuts.append(result)
    refused.sort(key=lambda item: (item.id, item.reason, item.detail))
    report = PartReport(
        part=part,
        cuts_path=str(cuts_path(out, part)),
        num_utterances=len(cuts),
        duration_s=round(sum(cut.duration for cut in cuts), 4),
        num_speakers=len({cut.supervisions[0].speaker for cut in cuts}),
        left_out=tuple(refused),
    )
    if not cuts:
        counts = ", ".join(f"{count} x {reason}" for reason, count in report.counts().items())
        first = f"; first: {refused[0].id}: {refused[0].detail}" if refused else ""
        raise InputError(f"{part}: no usable utterance ({counts or 'the part is empty'}{first})")
    write_cuts(cuts, cuts_path(out, part))
    write_atomically(report_path(out, part), report.to_json().encode())
    return report


def _inspect_all(
    part: str, utterances: Sequence[Utterance], num_jobs: int, check: bool
) -> Iterator[Cut | LeftOut]:
    """In the utterances' order, a progress bar on stderr (none where stderr is not a terminal)."""
    tasks = [
        utterances[start : start + _UTTERANCES_PER_TASK]
        for start in range(0, len(utterances), _UTTERANCES_PER_TASK)
    ]
    with (
        ThreadPoolExecutor(num_workers(num_jobs)) as pool,
        tqdm(total=len(utterances), desc=part, unit="utt", disable=None) as bar,
    ):
        for results in pool.map(lambda task: [_inspect(item, check) for item in task], tasks):
            bar.update(len(results))
            yield from results


def _inspect(utterance: Utterance, check: bool) -> Cut | LeftOut:
    if not utterance.text.strip():
        return LeftOut(utterance.id, "empty transcript", str(utterance.audio_path))
    try:
        if check:
            info = check_audio(utterance.audio_path)
        else:
            info = AudioInfo(*probe(utterance.audio_path))
    except AudioError as error:
        return LeftOut(utterance.id, error.reason, str(error))
    duration_s = info.num_samples / info.sample_rate
    num_frames = int(duration_s / ENCODER_FRAME_S)
    needed = min_ctc_frames(utterance.text)
    if needed > num_frames:
        return LeftOut(
            utterance.id,
            "transcript too long for CTC",
            f"{utterance.audio_path}: {duration_s:.2f} s are {num_frames} frames, "
            f"the text needs {needed} (characters and repeats)",
        )
    return make_cut(utterance, info)


def make_cut(utterance: Utterance, info: AudioInfo) -> Cut:
    """The whole recording with one supervision; its id is the utterance's."""
    duration_s = info.num_samples / info.sample_rate
    channels = list(range(info.num_channels))
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource("file", channels, os.path.abspath(utterance.audio_path))],
        sampling_rate=info.sample_rate,
        num_samples=info.num_samples,
        duration=duration_s,
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
        start=0.0,
        duration=duration_s,
        channel=channel,
        supervisions=[supervision],
        recording=recording,
    )


def write_cuts(cuts: Iterable[Cut], path: Path) -> None:
    """JSON lines, gzipped; the same cuts give the same bytes (no time stamp inside)."""
    lines = "".join(json.dumps(cut.to_dict(), ensure_ascii=False) + "\n" for cut in cuts)
    write_atomically(path, gzip.compress(lines.encode(), compresslevel=6, mtime=0))


def read_cuts(path: str | os.PathLike[str]) -> CutSet:
    """An eager CutSet from any manifest of cuts that Lhotse reads.

    Raises:
        InputError: no such file, not a manifest of cuts, one without cuts, or with an id twice.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such manifest")
    try:
        loaded = CutSet.from_file(path)  # None for a file without a line
        cuts = CutSet() if loaded is None else loaded.to_eager()
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a manifest: {_one_line(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, EOFError) as error:
        raise InputError(
            f"{path}: not a manifest of Lhotse cuts ({type(error).__name__}: {_one_line(error)})"
        ) from None
    if len(cuts) == 0:
        raise InputError(f"{path}: an empty manifest: no cuts in it")
    seen: set[str] = set()
    for cut in cuts:
        if not isinstance(cut, Cut):
            raise InputError(f"{path}: not a manifest of Lhotse cuts: holds {type(cut).__name__}")
        if cut.id in seen:
            raise InputError(f"{path}: two cuts have the id {cut.id!r}")
        seen.add(cut.id)
    return cuts


def load_waveform(cut: Cut, sample_rate: int) -> np.ndarray:
    """float32 (n,): the cut's audio, channels averaged, resampled to ``sample_rate``.

    Always through Lhotse, so that offsets, other storage and a manifest's own transforms count. Its
    overhead over bare decoding is some 0.4 ms per cut.

    Raises:
        InputError: names the cut, the file and the reason.
    """
    try:
        samples_cn = cut.load_audio()
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise _explain(cut, error) from None
    if samples_cn is None:
        raise InputError(f"cut {cut.id}: has no recording, so there is no audio to load")
    if samples_cn.shape[-1] == 0:
        raise AudioError(f"cut {cut.id}: {_source(cut)}: no audio: zero samples", "empty audio")
    check_finite(samples_cn, f"cut {cut.id}: {_source(cut)}")
    return to_mono(samples_cn, cut.sampling_rate, sample_rate)


def _explain(cut: Cut, error: Exception) -> InputError:
    """Lhotse's messages are pages long: ask the file itself what is wrong with it."""
    source = _source(cut)
    if source and os.path.sep in source:
        try:
            check_audio(source)
        except AudioError as reason:
            return AudioError(f"cut {cut.id}: {reason}", reason.reason)
    return InputError(f"cut {cut.id}: {source or 'audio'} cannot be loaded: {type(error).__name__}")


def _source(cut: Cut) -> str:
    recording = getattr(cut, "recording", None)
    if recording is None or not recording.sources:
        return ""
    source = recording.sources[0]
    return str(source.source) if source.type == "file" else f"<{source.type}>"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."
