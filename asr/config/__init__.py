"""The configuration: what there is to choose, how it is loaded, which combinations exist."""

from asr.config.load import allowed, dump, explain, load
from asr.config.option import CONTENT, FIXED, FREE, REPORTED, option
from asr.config.schema import (
    AttentionConfig,
    AugmentConfig,
    Config,
    CtcConfig,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    ModelConfig,
    TokenizerConfig,
    walk,
)
from asr.config.training import OptimizerConfig, TrainConfig

__all__ = [
    "CONTENT",
    "FIXED",
    "FREE",
    "REPORTED",
    "AttentionConfig",
    "AugmentConfig",
    "Config",
    "CtcConfig",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "FeatureConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TokenizerConfig",
    "TrainConfig",
    "allowed",
    "dump",
    "explain",
    "load",
    "option",
    "walk",
]
