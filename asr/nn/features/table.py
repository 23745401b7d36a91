"""Every front end by its name."""

from __future__ import annotations

from asr.config import FeatureConfig
from asr.nn.features.base import FrontEnd
from asr.nn.features.kaldi import Fbank
from asr.nn.features.nemo import Nemo
from asr.nn.features.norm import Norm
from asr.nn.features.whisper import Whisper

CLASSES: dict[str, type[FrontEnd]] = {
    "kaldi": Fbank,
    "whisper": Whisper,
    "nemo": Nemo,
}


def build_front_end(config: FeatureConfig) -> FrontEnd:
    """
    Raises:
        InputError: options that make no mel bank.
    """
    return CLASSES[config.kind](config)


def build_norm(config: FeatureConfig) -> Norm:
    """Return the normalisation that stands behind the front end."""
    return CLASSES[config.kind].norm(config.num_mels)
