"""Attention weights of every head in one utterance, as one small picture."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr.errors import InputError
from asr.model.folder import load_model
from asr.model.recogniser import Recogniser
from asr.nn.attention import attentions
from asr.probe.diagnostics import watch_attention

# A picture has at most so many layers and heads, and so many pixels for each map's side.
_MAX_LAYERS, _MAX_HEADS, _MAX_SIDE = 4, 4, 56


def draw_attention(folder: Path, wave_n: np.ndarray, sample_rate: int) -> tuple[np.ndarray, float]:
    """Return the picture of what a model attends to in an utterance, and the mean sum of a row.

    Raises:
        InputError: no model folder, or a model of another sample rate.
    """
    model = load_model(folder)
    if model.config.features.sample_rate != sample_rate:
        raise InputError(f"its sample rate is not {sample_rate}")
    maps_l = attention_maps(model.net, wave_n)
    return picture(maps_l), float(np.mean([p_hts.sum(-1).mean() for p_hts in maps_l]))


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


def picture(maps_l: list[Tensor]) -> np.ndarray:
    """Greyscale in [0, 1]: a row per layer, a column per head, each map over its own largest weight.

    Maps are averaged down to at most 56 x 56 and drawn as square roots, so that small weights show.
    """
    chosen = _spread(len(maps_l), _MAX_LAYERS)
    rows = []
    for layer in chosen:
        p_hts = maps_l[layer]
        heads = _spread(len(p_hts), _MAX_HEADS)
        side = min(_MAX_SIDE, *p_hts.shape[1:])
        small = nn.functional.adaptive_avg_pool2d(p_hts[heads][:, None], (side, side))[:, 0]
        peak = small.amax((1, 2), keepdim=True).clamp(min=1e-12)
        tiles = [_framed(tile) for tile in (small / peak).sqrt().numpy()]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows, axis=0)


def _spread(count: int, most: int) -> list[int]:
    """Return at most so many of 0 … count - 1, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, 2), (0, 2)), constant_values=0.25)
