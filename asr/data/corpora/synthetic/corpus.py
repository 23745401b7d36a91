"""A corpus of synthetic speech in LibriSpeech's layout: made once, then prepared like any other.

``<out>/corpus/{train,dev,test}/<speaker>/<chapter>/*.flac`` with transcripts, ``SPEAKERS.TXT``
(which voice is whose), ``<part>.words.txt`` (when each word starts) and ``complete.json`` (the
parameters).
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from asr.data.corpora.librispeech import prepare_librispeech
from asr.data.corpora.synthetic.espeak import Espeak
from asr.data.corpora.synthetic.grammar import CLASSES, RULES, entropy
from asr.data.corpora.synthetic.render import PARTS, SAMPLE_RATE, Plan, Rendered, render_range
from asr.data.corpora.synthetic.voices import VOICES
from asr.data.store.preparation import PartReport, num_workers
from asr.errors import InputError
from asr.files import read_bytes

# Raise it when the same parameters would give other audio.
GENERATOR_VERSION = 3

MARKER = "complete.json"
_UTTERANCES_PER_TASK = 16
_TASKS_AHEAD = 3  # per process


def prepare_synthetic(
    out: Path,
    hours: float,
    seed: int,
    num_jobs: int = 0,
    num_dev: int = 150,
    num_test: int = 400,
) -> list[PartReport]:
    """Make ``<out>/corpus`` unless it is there, and write ``<out>/{train,dev,test}.cuts.jsonl.gz``.

    The same (hours, seed, num_dev, num_test) give the same bytes whatever ``num_jobs``. A corpus
    that this function made with other parameters is replaced, once the new one is complete; any
    other folder of that name is refused. What an interrupted run left is thrown away.

    Args:
        hours: of training speech; the last utterance goes over it.
        num_jobs: processes that synthesise; 0 is one per core.

    Raises:
        InputError: espeakng-loader is not installed, a value out of range, ``<out>/corpus`` is
            something else.
    """
    if not 0 < hours <= 1000:
        raise InputError(f"hours = {hours:g}: must be above 0 and at most 1000")
    if seed < 0:
        raise InputError(f"seed = {seed}: must be at least 0")
    for name, count in (("num_dev", num_dev), ("num_test", num_test)):
        if count < 1:
            raise InputError(f"{name} = {count}: must be at least 1")
    out = Path(out)
    corpus = out / "corpus"
    parameters = {
        "generator": _fingerprint(),
        "hours": float(hours),
        "seed": seed,
        "num_dev": num_dev,
        "num_test": num_test,
    }
    found = read_marker(corpus)
    if corpus.exists() and found is None:
        raise InputError(f"{corpus}: exists and was not made by this command; name another --out")
    if found is None or found["parameters"] != parameters:
        _make(corpus, parameters, num_workers(num_jobs))
    return prepare_librispeech(corpus, out, PARTS, num_jobs)


def describe() -> list[str]:
    """Describe what a corpus is made of, for the terminal."""
    counts = ", ".join(
        f"{part} {len(voices)} ({len({voice.variant for voice in voices})} timbres)"
        for part, voices in VOICES.items()
    )
    return [
        entropy().line(),
        f"voices: {counts}; no timbre and no sentence of dev or test in train",
    ]


def read_marker(corpus: Path) -> dict[str, Any] | None:
    """Return what ``complete.json`` says, None if this is no corpus of ours."""
    try:
        content = json.loads(read_bytes(corpus / MARKER))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "parameters" in content else None


def _fingerprint() -> str:
    """Hash everything besides the parameters that decides the audio and is ours."""
    content = repr((GENERATOR_VERSION, CLASSES, RULES, VOICES))
    return f"{GENERATOR_VERSION}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _make(corpus: Path, parameters: dict[str, Any], num_processes: int) -> None:
    Espeak()  # complains here rather than in a worker
    # always of the same name: what a killed run left is removed by the next
    partial = corpus.with_name(f".{corpus.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _fill(partial, parameters, num_processes)
        if corpus.exists():
            shutil.rmtree(corpus)
        partial.rename(corpus)
    except OSError as error:
        raise InputError(f"{corpus}: cannot write: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(partial: Path, parameters: dict[str, Any], num_processes: int) -> None:
    plan = Plan(parameters["seed"], parameters["num_dev"], parameters["num_test"])
    seconds: dict[int, float] = {}
    words: set[str] = set()
    with _Renderer(num_processes) as renderer:
        for part in PARTS:
            utterances = renderer.stream(plan, part)
            limit = {"dev": plan.num_dev, "test": plan.num_test}.get(part)
            target_s = parameters["hours"] * 3600 if limit is None else None
            chosen = _until(utterances, target_s, limit, part)
            _write_part(partial, part, chosen, seconds, words)
    _write_speakers(partial / "SPEAKERS.TXT", seconds)
    numbers = entropy()
    marker = {
        "parameters": parameters,
        "seconds": round(sum(seconds.values()), 2),
        "words_spoken": len(words),
        "grammar": {
            "vocabulary": numbers.vocabulary,
            "bits_per_sentence": round(numbers.bits_per_sentence, 4),
            "words_per_sentence": round(numbers.words_per_sentence, 4),
            "bits_per_word": round(numbers.bits_per_word, 4),
            "perplexity": round(numbers.perplexity, 4),
        },
    }
    (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _until(
    utterances: Iterator[Rendered], target_s: float | None, limit: int | None, part: str
) -> Iterator[Rendered]:
    """The first ``limit`` utterances, or the first that together last ``target_s``."""
    total = limit if limit is not None else target_s
    unit = "utt" if limit is not None else "s"
    with tqdm(total=total, desc=f"speak {part}", unit=unit, disable=None) as bar:
        done = 0.0
        while total is not None and done < total:
            utterance = next(utterances)
            step = 1 if limit is not None else utterance.num_samples / SAMPLE_RATE
            done += step
            bar.update(step)
            yield utterance


def _write_part(
    corpus: Path,
    part: str,
    utterances: Iterator[Rendered],
    seconds: dict[int, float],
    words: set[str],
) -> None:
    """Also adds to the seconds per speaker and to the words spoken."""
    chapters: dict[str, list[str]] = {}
    timings: list[str] = []
    for item in utterances:
        folder = corpus / part / item.folder
        if item.folder not in chapters:
            folder.mkdir(parents=True)
        (folder / f"{item.id}.flac").write_bytes(item.flac)
        chapters.setdefault(item.folder, []).append(f"{item.id} {' '.join(item.words).upper()}\n")
        starts = " ".join("-" if at_s is None else f"{at_s:.4f}" for at_s in item.word_starts_s)
        timings.append(f"{item.id} {starts}\n")
        speaker = item.voice.speaker
        seconds[speaker] = seconds.get(speaker, 0.0) + item.num_samples / SAMPLE_RATE
        words.update(item.words)
    for name, lines in chapters.items():
        path = corpus / part / name / f"{name.replace('/', '-')}.trans.txt"
        path.write_text("".join(lines), encoding="utf-8")
    (corpus / f"{part}.words.txt").write_text("".join(sorted(timings)), encoding="utf-8")


def _write_speakers(path: Path, seconds: dict[int, float]) -> None:
    lines = ["; speakers of synthetic speech: the name is espeak-ng's <accent>+<variant>\n"]
    lines.append(";ID  |SEX| SUBSET           |MINUTES| NAME\n")
    for part, voices in VOICES.items():
        for voice in voices:
            minutes = seconds.get(voice.speaker, 0.0) / 60
            lines.append(
                f"{voice.speaker:<4} | {voice.sex} | {part:<16} | {minutes:5.2f} | {voice.name}\n"
            )
    path.write_text("".join(lines), encoding="utf-8")


class _Renderer:
    """Utterances in order of their index, made by several processes or by this one."""

    def __init__(self, num_processes: int) -> None:
        # Spawned, not forked: the caller may hold torch's threads.
        self._pool = (
            ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))
            if num_processes > 1
            else None
        )
        self._num_ahead = num_processes * _TASKS_AHEAD

    def __enter__(self) -> _Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def stream(self, plan: Plan, part: str) -> Iterator[Rendered]:
        """Yield those of "train" without end, of the others all there are."""
        stop = {"dev": plan.num_dev, "test": plan.num_test}.get(part)
        start = 0
        ahead: deque[Future[list[Rendered]]] = deque()
        while stop is None or start < stop or ahead:
            while self._pool and len(ahead) < self._num_ahead and (stop is None or start < stop):
                end = start + _UTTERANCES_PER_TASK
                end = end if stop is None else min(end, stop)
                ahead.append(self._pool.submit(render_range, plan, part, start, end))
                start = end
            if self._pool is not None:
                yield from ahead.popleft().result()
            else:
                yield from render_range(plan, part, start, start + 1)
                start += 1
        # A caller that stops early leaves tasks behind; they are cancelled with the pool.
