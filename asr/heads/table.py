"""Every head by its name."""

from __future__ import annotations

from collections.abc import Callable

from asr.config import Config
from asr.errors import InputError
from asr.heads.attention_decoder import AttentionDecoder
from asr.heads.base import Head
from asr.heads.ctc import Ctc

HEADS: dict[str, Callable[[Config, int], Head]] = {
    "ctc": lambda config, vocab_size: Ctc(config.ctc, config.encoder.dim, vocab_size),
    "attention": AttentionDecoder,
}


def build_heads(config: Config, vocab_size: int) -> dict[str, Head]:
    """Return a model's heads by name; the first one is read where no other is asked for.

    Raises:
        InputError: no such head.
    """
    for name in config.model.heads:
        if name not in HEADS:
            raise InputError(f"model.heads = {name!r}: choose one of {', '.join(HEADS)}")
    return {name: HEADS[name](config, vocab_size) for name in config.model.heads}
