"""Speech to text from Python: ``asr.load("exp/sigmoid-alibi").transcribe("talk.flac").text``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from typing import TypeAlias, cast

import numpy as np
import torch

from asr import box
from asr.errors import InputError
from asr.model.folder import Model, load_model
from asr.model.stream import choose_chunk
from asr.runtime import choose_device
from asr.search.factory import build_search
from asr.search.options import SearchOptions, carried_search
from asr.search.options_checks import number, path, positive, shown, switch, whole, word
from asr.search.units import units_of
from asr.transcribe.assemble import Reader
from asr.transcribe.live import StreamResult, TextStream
from asr.transcribe.pipeline import Failure, Outcome, Pipeline, Progress
from asr.transcribe.precision import check_precision, quantise
from asr.transcribe.result import Alternative, Gap, Segment, Transcript, Word
from asr.transcribe.sources import (
    Source,
    array_source,
    failing_source,
    file_source,
    find_sources,
)
from asr.transcribe.speech import LONG_SILENCE_S, Vad
from asr.transcribe.usual_settings import each_in_usual_settings, usual_settings
from asr.transcribe.voice_activity import load_voice_activity
from asr.transcribe.windows import make_grid

__all__ = [
    "Alternative",
    "Failure",
    "Gap",
    "Outcome",
    "SearchOptions",
    "Segment",
    "StreamResult",
    "TextStream",
    "Transcriber",
    "Transcript",
    "Word",
    "load",
]

Audio: TypeAlias = "str | PathLike[str] | tuple[np.ndarray, int]"
"""What ``Transcriber.transcribe_all`` takes: a path, or samples and their rate."""

WINDOW_S, OVERLAP_S = 30.0, 4.0
MAX_BATCH_S = 120.0


class Transcriber:
    """A model that turns audio of any length into text with times."""

    def __init__(
        self,
        model: Model,
        search: SearchOptions | None = None,
        window_s: float | None = None,
        overlap_s: float | None = None,
        max_batch_s: float = MAX_BATCH_S,
        precision: str = "fp32",
        vad: bool = False,
        vad_silence_s: float = LONG_SILENCE_S,
    ):
        """
        Args:
            search: None: beam search with the language model that the model's folder carries, greedy
                search where it carries none.
            window_s: what is longer is computed in windows of this length; None: ``WINDOW_S``, or what
                the model has positions for,
            overlap_s: of which neighbours share this much; None: ``OVERLAP_S``, or a quarter of a
                shorter window.
            max_batch_s: seconds of audio computed at once: memory grows with it.
            precision: fp32; int8 (CPU; the model's linear layers are replaced), bf16 (CUDA).
            vad: skip audio in which silero-vad finds no speech; such stretches become gaps.
            vad_silence_s: a silence of this length ends a stretch of speech, which is then computed
                by itself; one of 0.5 s does as soon as a stretch is half a window long.

        Raises:
            InputError: a window and an overlap that do not fit together, a precision that the
                device does not have, no silero-vad, a silence shorter than words have inside; a
                search that is not ``SearchOptions``, or anything else of another type.
        """
        if not isinstance(model, Model):
            raise InputError(f"model = {shown(model)}: must be a Model; asr.load(folder) reads one")
        if search is None:
            search = carried_search(model.folder)
        if not isinstance(search, SearchOptions):
            raise InputError(
                f"search = {shown(search)}: must be SearchOptions, as SearchOptions('beam')"
            )
        max_batch_s = positive("max_batch_s", max_batch_s)
        vad_silence_s = number("vad_silence_s", vad_silence_s)
        self.model = model
        with usual_settings():
            self._build(search, window_s, overlap_s, max_batch_s, precision, vad, vad_silence_s)

    def _build(
        self,
        search: SearchOptions,
        window_s: float | None,
        overlap_s: float | None,
        max_batch_s: float,
        precision: str,
        vad: bool,
        vad_silence_s: float,
    ) -> None:
        model = self.model
        check_precision(precision, model.net.device)
        features = model.net.features
        frame_samples = features.hop * model.net.subsampling
        rate = model.config.features.sample_rate
        # all that may be refused comes before the model is changed
        most_frames = model.net.encoder.max_frames
        most_s = math.inf if most_frames is None else most_frames * frame_samples / rate
        window_s = min(WINDOW_S, most_s) if window_s is None else number("window_s", window_s)
        if window_s > most_s:
            raise InputError(
                f"window_s = {window_s:g}: this model has positions for {most_s:g} s "
                "(attention.num_positions); choose at most these"
            )
        overlap_s = min(OVERLAP_S, window_s / 4) if overlap_s is None else overlap_s
        grid = make_grid(frame_samples, rate, window_s, overlap_s)
        detector = Vad(load_voice_activity(), vad_silence_s) if switch("vad", vad) else None
        built = build_search(search, model)
        self._reader = Reader(
            built,
            units_of(model.tokenizer),
            frame_samples / rate,
        )
        if precision == "int8":
            quantise(model.net.encoder)
        self._in_bf16 = precision == "bf16"
        self._pipeline = Pipeline(
            model.net,
            self._reader,
            grid,
            rate,
            max_batch_s,
            self._in_bf16,
            detector,
        )

    def transcribe(
        self,
        audio: str | PathLike[str] | np.ndarray,
        sample_rate: int | None = None,
        channel: int | None = None,
    ) -> Transcript:
        """The text of an audio file (any rate, length and number of channels) or of samples.

        Args:
            audio: a path, or samples of shape (n,) or (channels, n): floats in [-1, 1] or signed
                integers of their type's range.
            sample_rate: of the samples, per second; for a path it is read from the file.
            channel: the one to transcribe, from 0; None is the mean of all.

        Returns:
            Text, segments and words with times in seconds from the first sample; what could not be
            read or used is among its gaps.

        Raises:
            InputError: nothing of it can be read, or there is no such channel; samples without a
                rate, with an absurd one, of another type or shape; neither path nor array; the
                model's outputs are NaN.
        """
        channel = _checked_channel(channel)
        if sample_rate is not None:
            number("sample_rate", sample_rate)
        source: Source
        if isinstance(audio, np.ndarray):
            if sample_rate is None:
                raise InputError("transcribe(array) needs sample_rate, in samples per second")
            source = _samples_source(audio, sample_rate, channel)
        elif isinstance(audio, (str, PathLike)):
            source = file_source(path("audio", audio), channel)
        else:
            raise InputError(
                f"transcribe({type(audio).__name__}): expected a path or a NumPy array of samples"
            )
        (outcome,) = self._pipeline.run([source])
        if isinstance(outcome.result, Failure):
            raise outcome.result.error
        return outcome.result

    def transcribe_all(
        self, inputs: Audio | Iterable[Audio], channel: int | None = None
    ) -> Iterator[Outcome]:
        """Files and samples in shared batches, in their order, each as soon as it is done; what cannot
        be read costs the others nothing.

        Args:
            inputs: paths, or samples with their rate as ``(array, sample_rate)``, or one of them. A
                folder, a glob pattern and a manifest give as many results as they hold.
            channel: as in ``transcribe``.

        Returns:
            For each input, also where it is there twice, its transcript, or a ``Failure`` with the
            reason why there is none.

        Raises:
            InputError: inputs that are neither one nor several, a channel that is no number; while
                they are computed, outputs of the model that are NaN.
        """
        channel = _checked_channel(channel)
        if not _is_one(inputs) and not isinstance(inputs, Iterable):
            raise InputError(
                f"transcribe_all({shown(inputs)}): expected paths, or samples as (array, "
                "sample_rate), or one of them"
            )
        several: Iterable[object] = [inputs] if _is_one(inputs) else cast(Iterable[object], inputs)
        sources = (
            source
            for one in several
            for source in each_in_usual_settings(_sources_of(one, channel))
        )
        return self.transcribe_sources(sources)

    def transcribe_sources(
        self, sources: Iterable[Source], progress: Progress | None = None
    ) -> Iterator[Outcome]:
        """Do as ``transcribe_all``, of sources that were found before; ``progress`` is told how many
        seconds of sound were computed since the last time."""
        return self._pipeline.run(sources, progress)

    def stream(
        self,
        sample_rate: int | None = None,
        chunk: int | None = None,
        left_chunks: int | None = None,
        channel: int | None = None,
        num_channels: int | None = None,
    ) -> TextStream:
        """A new stream, for samples that still come: ``feed`` them, take results, ``finish``.

        Any number of streams share the model, each with a memory of its own.

        Args:
            sample_rate: of the samples; None: the model's.
            chunk: encoder frames computed at once, one of those the model was trained with; the
                fewer, the sooner and the worse the text. None: the most. A model that sees the past
                only (attention.causal) takes any, with the same text.
            left_chunks: chunks before that they see. None: the most of training.
            channel: as in ``transcribe``.
            num_channels: of what is fed; None is what the first block shows.

        Raises:
            InputError: the model was not trained with chunks, or not with these; an absurd rate;
                a channel or a number of them that is none.
        """
        config = self.model.config
        if chunk is not None:
            chunk = whole("chunk", chunk)
        if left_chunks is not None:
            left_chunks = whole("left_chunks", left_chunks)
        with usual_settings():
            self._reader.search.quick()  # a model without places for words cannot be helped by chunks
            return TextStream(
                self.model,
                self._reader,
                choose_chunk(config, chunk, left_chunks),
                config.features.sample_rate if sample_rate is None else sample_rate,
                channel,
                self._in_bf16,
                num_channels,
            )


def _is_one(inputs: object) -> bool:
    """Return whether it is one input and not several."""
    if isinstance(inputs, tuple) and len(inputs) == 2 and isinstance(inputs[0], np.ndarray):
        return not isinstance(inputs[1], (np.ndarray, tuple, str, PathLike))
    # of bytes and tensors, which are none, each element would be told to be none
    return isinstance(inputs, (str, PathLike, np.ndarray, bytes, torch.Tensor))


def _checked_channel(channel: int | None) -> int | None:
    return None if channel is None else whole("channel", channel)


def _samples_source(samples: np.ndarray, sample_rate: object, channel: int | None) -> Source:
    """A source of samples in memory.

    Raises:
        InputError: a rate that is no number; see ``array_source``.
    """
    rate = number("sample_rate", sample_rate)
    if not rate.is_integer():
        raise InputError(f"sample_rate = {shown(sample_rate)}: must be a whole number per second")
    with usual_settings():
        return array_source(np.atleast_2d(samples), int(rate), channel)


def _sources_of(audio: object, channel: int | None) -> Iterator[Source]:
    """Yield what one input of ``transcribe_all`` gives; at least one source, also where it is none."""
    if isinstance(audio, (str, PathLike)):
        yield from find_sources([str(fspath(audio))], channel)
        return
    try:
        if not (isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[0], np.ndarray)):
            kind = type(audio).__name__
            raise InputError(f"input {kind}: expected a path, or samples as (array, sample_rate)")
        yield _samples_source(audio[0], audio[1], channel)
    except InputError as error:
        yield failing_source("", error)


def load(
    folder: str | PathLike[str] | None = None,
    device: str = "auto",
    search: SearchOptions | None = None,
    window_s: float | None = None,
    overlap_s: float | None = None,
    max_batch_s: float = MAX_BATCH_S,
    precision: str = "fp32",
    vad: bool = False,
    vad_silence_s: float = LONG_SILENCE_S,
) -> Transcriber:
    """Read a model, ready to transcribe; see ``Transcriber``.

    Args:
        folder: a model folder, an experiment that has one, or the name of a model in the package
            where no path of that name exists. None: the package's default, ``real-en``.

    Raises:
        InputError: it is none, or a file in it is damaged, its weights are not finite; no such
            device; wrong windows; no silero-vad, or too short a silence for it; anything of another
            type.
    """
    # a wrong number is told at once, not after the model was read
    for name, value in (("window_s", window_s), ("overlap_s", overlap_s)):
        if value is not None:
            number(name, value)
    where = box.folder(box.DEFAULT) if folder is None else path("folder", folder)
    chosen = choose_device(
        str(device) if isinstance(device, torch.device) else word("device", device)
    )
    try:
        with usual_settings():
            model = load_model(where, chosen)
    except OSError as error:  # of a name that is too long, or a folder that may not be looked into
        raise InputError(f"{where}: cannot read: {error.strerror}") from None
    return Transcriber(
        model, search, window_s, overlap_s, max_batch_s, precision, vad, vad_silence_s
    )
