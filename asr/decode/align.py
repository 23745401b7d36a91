"""Audio with its text -> when each word was said: forced alignment of a manifest or of one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asr.data.audio.samples import read_audio
from asr.decode.decode import frames_of, open_utterances
from asr.errors import InputError
from asr.files import write_atomically
from asr.heads.ctc import frames_needed
from asr.model.folder import Model
from asr.search.best_alignment import align
from asr.search.hypothesis import Hypothesis
from asr.search.units import Units, units_of
from asr.search.words import words_of
from asr.text.tokenizer import UNKNOWN, Tokenizer
from asr.transcribe.formats import FORMATS, JOINABLE, SUFFIXES
from asr.transcribe.result import Segment, Transcript

ALIGNMENT_FORMATS = ("ctm", "textgrid", "json")

DOUBTFUL_CONFIDENCE = 0.01
"""Median confidence of the words below which a text is hardly what was said."""


@dataclass(frozen=True)
class NotAligned:
    """An utterance whose text and sound cannot be brought together."""

    id: str
    reason: str


def align_set(
    model: Model, cuts: Path, *, max_batch_s: float = 300.0, num_workers: int = 0
) -> list[Transcript | NotAligned]:
    """Every utterance of a manifest, in its order.

    Raises:
        InputError: no such manifest, audio that cannot be read.
    """
    utterances = open_utterances(model, cuts)
    found: dict[int, Transcript | NotAligned] = {}
    for indices, frames_btx, lens_b in frames_of(
        model, utterances, max_batch_s, num_workers, head="ctc"
    ):
        batch = _align_batch(
            model,
            frames_btx.cpu().numpy(),
            lens_b.tolist(),
            [utterances.ids[index] for index in indices],
            [utterances.texts[index] for index in indices],
            [float(utterances.durations_s[index]) for index in indices],
        )
        found.update(zip(indices, batch, strict=True))
    return [found[index] for index in range(len(utterances))]


@torch.inference_mode()
def align_file(model: Model, audio: Path, text: str) -> Transcript | NotAligned:
    """One audio file, at once: for minutes, not for hours.

    Args:
        text: is normalised as the model's training texts were.

    Raises:
        InputError: the audio cannot be read.
    """
    rate = model.config.features.sample_rate
    wave_n = torch.from_numpy(read_audio(audio, rate))
    device = model.net.device
    lens_b = torch.tensor([len(wave_n)], device=device)
    frames_btx, lens_b = model.net(wave_n[None].to(device), lens_b, head="ctc")
    text = model.normaliser(text)
    frames = frames_btx.cpu().numpy()
    duration_s = len(wave_n) / rate
    found = _align_batch(model, frames, lens_b.tolist(), [audio.stem], [text], [duration_s])
    return next(found)


def alignment_formats(words: Sequence[str]) -> list[str]:
    """``["ctm,json", "textgrid"]`` to the names of formats.

    Raises:
        InputError: one that does not exist.
    """
    names = list(dict.fromkeys(name.strip().lower() for word in words for name in word.split(",")))
    for name in names:
        if name not in ALIGNMENT_FORMATS:
            raise InputError(f"format {name!r}: choose from {', '.join(ALIGNMENT_FORMATS)}")
    return names


def write_alignments(
    transcripts: Sequence[Transcript], out: Path, name: str, formats: Sequence[str]
) -> list[Path]:
    """One file for all where the format allows it, else ``NAME/UTTERANCE.SUFFIX`` for each.

    Args:
        formats: of ``alignment_formats``.

    Raises:
        InputError: a folder that cannot be written to.
    """
    written = []
    for one in formats:
        if one in JOINABLE:
            path = out / f"{name}{SUFFIXES[one]}"
            write_atomically(path, "".join(FORMATS[one](item) for item in transcripts))
            written.append(path)
            continue
        for item in transcripts:
            file_name = item.name.replace("/", "_") + SUFFIXES[one]
            write_atomically(out / name / file_name, FORMATS[one](item))
        written.append(out / name)
    return written


def _align_batch(
    model: Model,
    frames_btx: NDArray[np.float32],
    lens_b: Sequence[int],
    ids: Sequence[str],
    texts: Sequence[str],
    durations_s: Sequence[float],
) -> Iterator[Transcript | NotAligned]:
    units = units_of(model.tokenizer)
    tokens_b = [model.tokenizer.encode(text) for text in texts]
    reasons = [
        _reason(text, tokens, length, model.tokenizer)
        for text, tokens, length in zip(texts, tokens_b, lens_b, strict=True)
    ]
    kept = [row for row, reason in enumerate(reasons) if not reason]
    alignments = align(
        frames_btx[kept], [lens_b[row] for row in kept], [tokens_b[row] for row in kept]
    )
    by_row = dict(zip(kept, alignments, strict=True))
    for row, (name, reason) in enumerate(zip(ids, reasons, strict=True)):
        if reason:
            yield NotAligned(name, reason)
            continue
        found = by_row[row]
        hypothesis = Hypothesis(tuple(tokens_b[row]), found.log_prob, found.first_frames)
        frames_tx = frames_btx[row, : lens_b[row]]
        yield _transcript(model, name, hypothesis, frames_tx, units, durations_s[row])


def _transcript(
    model: Model,
    name: str,
    hypothesis: Hypothesis,
    frames_tx: NDArray[np.float32],
    units: Units,
    duration_s: float,
) -> Transcript:
    features = model.net.features
    frame_s = features.hop * model.net.subsampling / model.config.features.sample_rate
    words = tuple(words_of(hypothesis, frames_tx, units, frame_s))
    text = " ".join(word.text for word in words)
    segment = Segment(text, words[0].start_s, words[-1].end_s, words)
    return Transcript(name, text, (segment,), duration_s)


def doubtful(transcript: Transcript) -> str:
    """Why an alignment is hardly that of its text, or nothing."""
    confidences = [word.confidence for segment in transcript.segments for word in segment.words]
    median = float(np.median(confidences))
    if median >= DOUBTFUL_CONFIDENCE:
        return ""
    return f"median confidence of its words {median:.3f}: is this the text of this audio?"


def _reason(text: str, tokens: Sequence[int], num_frames: int, tokenizer: Tokenizer) -> str:
    """Why a text cannot be aligned, or nothing."""
    if not tokens:
        return "no text"
    if UNKNOWN in tokens:
        never = ", ".join(map(repr, sorted(tokenizer.unwritable(text))))
        return f"its text has letters that the model never writes: {never}"
    if frames_needed(tokens) > num_frames:
        return f"its text needs {frames_needed(tokens)} frames, its sound has {num_frames}"
    return ""
