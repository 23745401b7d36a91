"""Speech to text from Python: ``asr.api.load("exp/sigmoid-alibi").transcribe("talk.flac")``."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import torch

from asr.data.audio import check_finite, read_audio, to_mono
from asr.errors import InputError
from asr.model_folder import Model, load_model
from asr.runtime import choose_device
from asr.search.factory import SearchOptions, build_search


class Transcriber:
    """A model that turns audio into text."""

    def __init__(self, model: Model, search: str = "greedy", beam: int = 8):
        self.model = model
        options = SearchOptions(search=search, beam=beam)
        self._search = build_search(options, model.tokenizer, model.folder)

    @torch.inference_mode()
    def transcribe(
        self, audio: str | PathLike[str] | np.ndarray, sample_rate: int | None = None
    ) -> str:
        """The text of an audio file (any rate, any number of channels), or of samples.

        Args:
            audio: a path, or samples in [-1, 1] of shape (n,) or (channels, n).
            sample_rate: of the samples; for a path it is read from the file.

        Raises:
            InputError: the file cannot be read, holds no audio, or NaN; or samples without a rate.
        """
        rate = self.model.config.features.sample_rate
        if isinstance(audio, np.ndarray):
            if sample_rate is None:
                raise InputError("transcribe(array) needs sample_rate, in samples per second")
            samples_cn = np.atleast_2d(np.asarray(audio, dtype=np.float32))
            check_finite(samples_cn, "array")
            wave_n = to_mono(samples_cn, sample_rate, rate)
        else:
            wave_n = read_audio(audio, rate)
        device = next(self.model.net.parameters()).device
        wave_bn = torch.from_numpy(wave_n)[None].to(device)
        lens_b = torch.tensor([wave_bn.shape[1]], device=device)
        best = self._search(*self.model.net(wave_bn, lens_b))[0][0]
        return self.model.tokenizer.decode(best.tokens)


def load(
    folder: str | PathLike[str], device: str = "auto", search: str = "greedy", beam: int = 8
) -> Transcriber:
    """Reads a model folder, or an experiment that has one.

    Raises:
        InputError: it is none, or a file in it is damaged; no such device or search.
    """
    return Transcriber(load_model(Path(folder), choose_device(device)), search, beam)
