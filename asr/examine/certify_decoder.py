"""Trials of an attention decoder: its log-probabilities of a transcript depend on the utterance's frames
and the tokens before alone, not on padding, on batch, on steps or on who computes attention.

Shapes: b utterance, n transcript (as many for each utterance), s encoder frame, u token, v vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.examine.trials import Run, Trial, backend_trials
from asr.heads.attention_decoder import EDGE, AttentionDecoder
from asr.model.recogniser import Recogniser
from asr.nn.attention import MultiHeadAttention, attentions
from asr.nn.decoder import CrossAttention
from asr.nn.frames import Memory, Source

# Tokens that stand for the transcript of an utterance without one.
_MOST_TOKENS = 32

Transcripts = Sequence[Sequence[int]]


def decoder_trials(net: Recogniser, frames: Run, references: Transcripts) -> Iterator[Trial]:
    """
    Args:
        frames: each utterance's by the decoder's head, computed alone.
        references: the tokens of each utterance; where there are none, those of the vocabulary in
            order are taken.
    """
    frames = cache(frames)
    any_tokens = range(EDGE + 1, net.vocab_size)[:_MOST_TOKENS]
    said = [[*tokens] or [*any_tokens] for tokens in references]
    # in a search an utterance has several hypotheses, which change their places
    both = [tokens for one in said for tokens in (one, one[::-1])]

    def alone(net: Recogniser, transcripts: Transcripts = said) -> list[Tensor]:
        frames_bsx, width = frames(net), len(transcripts) // len(references)
        return [
            _whole(net, [frames_bsx[place // width]], [tokens])[0]
            for place, tokens in enumerate(transcripts)
        ]

    def together(net: Recogniser) -> list[Tensor]:
        return _whole(net, frames(net), said)

    alone_once = cache(alone)
    for property, what, run, expected in (
        (
            *("padding", "decoder: frames of NaN and other tokens behind each"),
            lambda net: _whole(net, frames(net), said, num_behind=5),
            alone_once,
        ),
        ("batch", "decoder: all in one against each alone", together, alone_once),
        (
            *("steps", "decoder: token by token against all tokens at once"),
            lambda net: _stepped(net, frames(net), said),
            alone_once,
        ),
        (
            *("steps", "decoder: two transcripts each, reversed at every step"),
            lambda net: _stepped(net, frames(net), both, moving=True),
            lambda net: alone(net, both),
        ),
    ):
        yield Trial(property, what, run, expected, read=_likeliest)
    for name, modules in (("self", _self_attentions), ("cross", _cross_attentions)):
        yield from backend_trials(
            f"decoder's {name}-attention: ", modules, net, together, _likeliest
        )


def _whole(
    net: Recogniser, frames_bsx: Sequence[Tensor], said: Transcripts, num_behind: int = 0
) -> list[Tensor]:
    """Return log-probabilities (u, v) of each transcript, all tokens at once.

    Args:
        num_behind: frames of NaN, and tokens, behind the longest.
    """
    source, tokens_nu = _padded(net, frames_bsx, said, num_behind)
    return _cut(_head(net).log_probs(tokens_nu, source), said)


def _stepped(
    net: Recogniser, frames_bsx: Sequence[Tensor], said: Transcripts, moving: bool = False
) -> list[Tensor]:
    """Return the same token by token, as searches compute it, with keys and values kept.

    Args:
        moving: reverse the utterances, and the transcripts of each, before every step.
    """
    source, tokens_nu = _padded(net, frames_bsx, said)
    source, memory = source._replace(memory=Memory()), Memory()
    order_n = torch.arange(len(said), device=net.device)
    steps = []
    for step in range(tokens_nu.shape[1]):
        if moving and step:
            memory.select(torch.arange(len(said), device=net.device).flip(0))
            source = source.select(torch.arange(len(frames_bsx), device=net.device).flip(0))
            order_n = order_n.flip(0)
        last_n1 = tokens_nu[order_n, step : step + 1]
        steps.append(_head(net).log_probs(last_n1, source, memory)[order_n.argsort()])
    return _cut(torch.cat(steps, 1), said)


def _padded(
    net: Recogniser, frames_bsx: Sequence[Tensor], said: Transcripts, num_behind: int = 0
) -> tuple[Source, Tensor]:
    """Return the frames of a batch, and its transcripts (n, u) behind their first edge."""
    fill = math.nan if num_behind else 0.0
    lens_b = torch.tensor([len(frames_sx) for frames_sx in frames_bsx], device=net.device)
    frames_bsd = pad_sequence([*frames_bsx], batch_first=True, padding_value=fill)
    frames_bsd = torch.nn.functional.pad(frames_bsd, (0, 0, 0, num_behind), value=fill)
    rows = [torch.tensor([EDGE, *tokens], device=net.device) for tokens in said]
    tokens_nu = pad_sequence(rows, batch_first=True, padding_value=net.vocab_size - 1)
    tokens_nu = torch.nn.functional.pad(tokens_nu, (0, num_behind), value=net.vocab_size - 1)
    return Source(frames_bsd, lens_b), tokens_nu


def _cut(log_probs_nuv: Tensor, said: Transcripts) -> list[Tensor]:
    return [row_uv[: len(tokens) + 1] for row_uv, tokens in zip(log_probs_nuv, said, strict=True)]


def _likeliest(net: Recogniser, log_probs_nuv: Sequence[Tensor]) -> list[object]:
    """Return the likeliest token after each of a transcript."""
    return [log_probs_uv.argmax(1).tolist() for log_probs_uv in log_probs_nuv]


def _head(net: Recogniser) -> AttentionDecoder:
    return cast(AttentionDecoder, net.head("attention"))


def _self_attentions(net: Recogniser) -> list[MultiHeadAttention]:
    return attentions(_head(net).decoder)


def _cross_attentions(net: Recogniser) -> list[CrossAttention]:
    return [one for one in _head(net).decoder.modules() if isinstance(one, CrossAttention)]
