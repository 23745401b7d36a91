"""Attention weights of every head in one utterance, as one small picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from asr.errors import InputError
from asr.heads.attention_decoder import EDGE, AttentionDecoder
from asr.model.folder import Model, load_model
from asr.model.recogniser import Recogniser
from asr.nn.attention import attentions
from asr.nn.frames import Source
from asr.probe.watching import watch_attention
from asr.search.factory import build_search
from asr.search.options import SearchOptions

# A picture has at most so many layers and heads, and so many pixels for each map's side.
_MAX_LAYERS, _MAX_HEADS, _MAX_SIDE = 4, 4, 56


@dataclass(frozen=True)
class CrossMaps:
    """Weights of a decoder's cross-attention in one utterance.

    Attributes:
        pieces: what each row predicts: the tokens of a transcript, and its end.
        p_lhus: (h, u, s) of each layer.
    """

    pieces: list[str]
    p_lhus: list[Tensor]


def draw_attention(folder: Path, wave_n: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
    """Return the picture of what a model attends to in an utterance, and the mean sum of a row of the
    encoder's. A decoder's cross-attention is that of the transcript which its greedy search finds.

    Raises:
        InputError: no model folder, a model of another sample rate, or one whose outputs are NaN.
    """
    model = load_model(folder)
    if model.config.features.sample_rate != sample_rate:
        raise InputError(f"its sample rate is not {sample_rate}")
    maps_l, across = attention_maps(model.net, wave_n), cross_maps(model, wave_n)
    drawn = picture(maps_l, [] if across is None else across.p_lhus)
    return drawn, float(np.mean([p_hts.sum(-1).mean() for p_hts in maps_l]))


def attention_maps(net: Recogniser, wave_n: np.ndarray) -> list[Tensor]:
    """p_hts of each layer, in order, by the reference implementation; the keys of a Linformer are its
    mixtures, (h, t, length).

    Args:
        wave_n: float32 at the model's sample rate.
    """
    found: list[Tensor] = []
    with torch.no_grad(), ExitStack() as stack:
        for attention in attentions(net.encoder):
            stack.enter_context(
                watch_attention(
                    attention, lambda seen: found.append(seen.weights()[0].float().cpu())
                )
            )
        device = net.device
        wave_bn = torch.from_numpy(wave_n)[None].to(device)
        net(wave_bn, torch.tensor([wave_bn.shape[1]], device=device))
    return found


@torch.no_grad()
def cross_maps(
    model: Model, wave_n: np.ndarray, tokens: Sequence[int] | None = None
) -> CrossMaps | None:
    """Return what an attention decoder looks at while it is given a transcript; None: there is none.

    Args:
        tokens: the transcript; None: the one that greedy search finds.

    Raises:
        InputError: the model's outputs are NaN.
    """
    net = model.net
    if "attention" not in net.heads:
        return None
    head, device = cast(AttentionDecoder, net.head("attention")), net.device
    wave_bn = torch.from_numpy(wave_n)[None].to(device)
    lens_b = torch.tensor([wave_bn.shape[1]], device=device)
    frames_bsd, lens_b = net(wave_bn, lens_b, head="attention")
    if tokens is None:
        search = build_search(SearchOptions(head="attention"), model)
        tokens = search(frames_bsd, lens_b)[0][0].tokens
    given_1u = torch.tensor([[EDGE, *tokens]], device=device)
    _, weights_1hus = head.decoder.with_weights(given_1u, Source(frames_bsd, lens_b))
    pieces = model.tokenizer.pieces
    p_lhus = [*weights_1hus[0].float().cpu().chunk(len(head.decoder.layers))]
    return CrossMaps([*(pieces[token] for token in tokens), "end"], p_lhus)


def picture(maps_l: list[Tensor], across_l: Sequence[Tensor] = ()) -> np.ndarray:
    """Greyscale in [0, 1]: a row per layer, a column per head, each map over its own largest weight.

    Maps are averaged down to at most 56 x 56 and drawn as square roots, so that small weights show.

    Args:
        across_l: a decoder's, which follow below a black line as squares of the same size.
    """
    side = min(_MAX_SIDE, *maps_l[0].shape[1:])
    rows: list[np.ndarray] = []
    for group_l in (maps_l, across_l):
        if rows and group_l:
            rows.append(np.ones((3, max(row.shape[1] for row in rows)), np.float32))
        for layer in _spread(len(group_l), _MAX_LAYERS):
            p_hts = group_l[layer]
            heads = _spread(len(p_hts), _MAX_HEADS)
            small = nn.functional.adaptive_avg_pool2d(p_hts[heads][:, None], (side, side))[:, 0]
            small = small.abs()  # of an odd power some are below 0
            peak = small.amax((1, 2), keepdim=True).clamp(min=1e-12)
            tiles = [_framed(tile) for tile in (small / peak).sqrt().numpy()]
            rows.append(np.concatenate(tiles, axis=1))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows])


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many of 0 … count - 1, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, 2), (0, 2)), constant_values=0.25)
