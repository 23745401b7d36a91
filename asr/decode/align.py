"""Audio with its text -> when each word was said: forced alignment of a manifest or of one file."""

from __future__ import annotations

import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asr.data.audio.samples import read_audio
from asr.decode.decode import frames_of, open_utterances
from asr.errors import InputError
from asr.files import is_unicode, write_atomically
from asr.heads.ctc import frames_needed
from asr.model.folder import Model
from asr.search.best_alignment import align
from asr.search.hypothesis import Hypothesis
from asr.search.units import Units, units_of
from asr.search.words import words_of
from asr.text.tokenizer import UNKNOWN
from asr.text.written import WrittenWord, describe_unwritable, written_words
from asr.transcribe.formats import FORMATS, JOINABLE, SUFFIXES
from asr.transcribe.result import Segment, Transcript, Word

# A geometric mean of the words' confidences below this means another text. Packaged model: with its
# own 0 of 301 (minis) and 6 % of 239 (test-commonvoice) are below, with others' 1,196 of 1,196.
DOUBTFUL_CONFIDENCE = 0.01


@dataclass(frozen=True)
class Aligned:
    """Word times of one utterance, for its written and for its spoken words.

    Attributes:
        written: the words as the text has them, with capitals, punctuation and digits.
        spoken: the words as the model writes them: two for ``twenty-one``.
    """

    written: Transcript
    spoken: Transcript


@dataclass(frozen=True)
class NotAligned:
    """An utterance whose text and sound cannot be brought together."""

    id: str
    reason: str


def align_set(
    model: Model, cuts: Path, *, max_batch_s: float = 300.0, num_workers: int = 0
) -> list[Aligned | NotAligned]:
    """Align every utterance of a manifest, in its order.

    Raises:
        InputError: no such manifest, audio that cannot be read.
    """
    utterances = open_utterances(model, cuts)
    found: dict[int, Aligned | NotAligned] = {}
    for indices, frames_btx, lens_b in frames_of(
        model, utterances, max_batch_s, num_workers, head="ctc"
    ):
        batch = _align_batch(
            model,
            frames_btx.cpu().numpy(),
            lens_b.tolist(),
            [utterances.ids[index] for index in indices],
            [utterances.written_texts[index] for index in indices],
            [float(utterances.durations_s[index]) for index in indices],
        )
        found.update(zip(indices, batch, strict=True))
    return [found[index] for index in range(len(utterances))]


@torch.inference_mode()
def align_file(model: Model, audio: Path, text: str) -> Aligned | NotAligned:
    """Align one audio file in one pass: for minutes, not for hours.

    Args:
        text: as written; it is normalised as the model's training texts were.

    Raises:
        InputError: the audio cannot be read.
    """
    rate = model.config.features.sample_rate
    wave_n = torch.from_numpy(read_audio(audio, rate))
    device = model.net.device
    lens_b = torch.tensor([len(wave_n)], device=device)
    frames_btx, lens_b = model.net(wave_n[None].to(device), lens_b, head="ctc")
    frames = frames_btx.cpu().numpy()
    duration_s = len(wave_n) / rate
    found = _align_batch(model, frames, lens_b.tolist(), [audio.stem], [text], [duration_s])
    return next(found)


def write_alignments(
    aligned: Sequence[Aligned], out: Path, name: str, formats: Sequence[str]
) -> list[Path]:
    """Write the alignments in every format, and return the files and folders written.

    A single one of that name, and all where the format allows it, go to ``OUT/NAME.SUFFIX``; else
    each goes to ``OUT/NAME/UTTERANCE.SUFFIX``.

    CTM has the spoken words, since its readers count word by word what was recognised; every other
    format has the written ones.

    Args:
        formats: names in ``FORMATS``.

    Raises:
        InputError: a folder that cannot be written to; text that no file can hold, and nothing
            is written.
    """
    alone = [one.written.name for one in aligned] == [name]
    files: dict[Path, str] = {}
    written = []
    for one in formats:
        transcripts = [item.spoken if one == "ctm" else item.written for item in aligned]
        path = out / f"{name}{SUFFIXES[one]}"
        if alone or one in JOINABLE:
            files[path] = "".join(FORMATS[one](item) for item in transcripts)
            written.append(path)
            continue
        for item in transcripts:
            file_name = item.name.replace("/", "_") + SUFFIXES[one]
            files[out / name / file_name] = FORMATS[one](item)
        written.append(out / name)
    for path, content in files.items():
        if not is_unicode(content):
            raise InputError(f"{path}: cannot write: half a character in it (a surrogate)")
    for path, content in files.items():
        write_atomically(path, content)
    return list(dict.fromkeys(written))


def _align_batch(
    model: Model,
    frames_btx: NDArray[np.float32],
    lens_b: Sequence[int],
    ids: Sequence[str],
    texts: Sequence[str],
    durations_s: Sequence[float],
) -> Iterator[Aligned | NotAligned]:
    units = units_of(model.tokenizer)
    # one space between words: a line's end is nothing that a normaliser must know
    texts = [" ".join(text.split()) for text in texts]
    tokens_b = [model.tokenizer.encode(model.normaliser(text)) for text in texts]
    reasons = [
        _reason(model, text, tokens, length)
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
        words = _spoken_words(model, hypothesis, frames_tx, units)
        spoken = _transcript(name, words, durations_s[row])
        pairs = written_words(texts[row], model.normaliser)
        if [part for pair in pairs for part in pair.spoken] != [word.text for word in words]:
            note = "words are the normalised ones: the normaliser does not work word by word"
            yield Aligned(replace(spoken, notes=(note,)), spoken)
            continue
        yield Aligned(_transcript(name, _as_written(words, pairs), durations_s[row]), spoken)


def _spoken_words(
    model: Model, hypothesis: Hypothesis, frames_tx: NDArray[np.float32], units: Units
) -> list[Word]:
    features = model.net.features
    frame_s = features.hop * model.net.subsampling / model.config.features.sample_rate
    return words_of(hypothesis, frames_tx, units, frame_s)


def _as_written(words: Sequence[Word], pairs: Sequence[WrittenWord]) -> list[Word]:
    """Return the written words with times and confidences.

    Each lasts from its first spoken word to its last; its confidence is their geometric mean.
    """
    rest = iter(words)
    groups = [list(itertools.islice(rest, len(pair.spoken))) for pair in pairs]
    return [
        Word(pair.text, group[0].start_s, group[-1].end_s, _mean_confidence(group))
        for pair, group in zip(pairs, groups, strict=True)
    ]


def _transcript(name: str, words: Sequence[Word], duration_s: float) -> Transcript:
    text = " ".join(word.text for word in words)
    segment = Segment(text, words[0].start_s, words[-1].end_s, tuple(words))
    return Transcript(name, text, (segment,), duration_s)


def _mean_confidence(words: Sequence[Word]) -> float:
    """Return the geometric mean."""
    tiny = sys.float_info.min  # also of a word that the model gives no chance
    return math.exp(statistics.fmean(math.log(max(word.confidence, tiny)) for word in words))


def doubtful(aligned: Aligned) -> str:
    """Return a warning if the alignment's confidence is too low for its text; empty otherwise."""
    mean = _mean_confidence(aligned.spoken.words)
    if mean >= DOUBTFUL_CONFIDENCE:
        return ""
    return f"mean confidence of its words {mean:.4f}: is this the text of this audio?"


def _reason(model: Model, text: str, tokens: Sequence[int], num_frames: int) -> str:
    """Return why a text cannot be aligned; empty if it can."""
    if not tokens:
        return "no text"
    if UNKNOWN in tokens:
        letters = describe_unwritable(text, model.normaliser, model.tokenizer)
        return f"its text has letters that the model never writes: {letters}"
    if frames_needed(tokens) > num_frames:
        return f"its text needs {frames_needed(tokens)} frames, its sound has {num_frames}"
    return ""
