"""Every head by its name."""

from __future__ import annotations

from collections.abc import Callable

from asr.config import Config
from asr.heads.attention_decoder import AttentionDecoder
from asr.heads.base import Head
from asr.heads.ctc import Ctc

HEADS: dict[str, Callable[[Config, int], Head]] = {
    "ctc": lambda config, vocab_size: Ctc(config.ctc, config.encoder.dim, vocab_size),
    "attention": AttentionDecoder,
}


def build_heads(config: Config, vocab_size: int) -> dict[str, Head]:
    """Return a model's heads by name; the first one is read where no other is asked for."""
    return {name: HEADS[name](config, vocab_size) for name in config.model.heads}
