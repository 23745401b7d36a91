"""The configuration: what there is to choose, how it is loaded, which combinations exist."""

from asr.config.load import allowed, dump, explain, load
from asr.config.schema import (
    CONTENT,
    FIXED,
    FREE,
    REPORTED,
    AttentionConfig,
    AugmentConfig,
    Config,
    DataConfig,
    EncoderConfig,
    FeatureConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
    option,
    walk,
)

__all__ = [
    "CONTENT",
    "FIXED",
    "FREE",
    "REPORTED",
    "AttentionConfig",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "EncoderConfig",
    "FeatureConfig",
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
