"""What a model attends to in one utterance: the weights of every head, as one small picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sigmoid_attention import Mask
from sigmoid_attention.reference import attention_weights
from torch import Tensor, nn

from asr.model import Recogniser
from asr.nn.attention import MultiHeadAttention

# A picture has at most so many layers and heads, and so many pixels for each map's side.
_MAX_LAYERS, _MAX_HEADS, _MAX_SIDE = 4, 4, 56


def attention_maps(net: Recogniser, wave_n: np.ndarray) -> list[Tensor]:
    """p_hts of each layer, in order, by the reference implementation; the keys of a Linformer are its
    mixtures, (h, t, length).

    Args:
        wave_n: float32 at the model's sample rate.
    """
    found: list[Tensor] = []
    masks: list[Mask] = []
    hooks = []

    def remember(module: nn.Module, args: tuple[Any, ...]) -> None:
        masks.append(args[1])

    def exchange(module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        masks.append(output[2])  # mixtures are seen otherwise than frames

    def weigh(attention: MultiHeadAttention, output: Any) -> None:
        q_bhtd, k_bhsd, bias = output
        p_bhts = attention_weights(
            q_bhtd,
            k_bhsd,
            weighting=attention.trained_weighting(),
            position=bias,
            mask=masks[-1],
        )
        found.append(p_bhts[0].float().cpu())

    for module in net.modules():
        if isinstance(module, MultiHeadAttention):
            hooks.append(module.register_forward_pre_hook(remember))
            if module.linformer is not None:
                hooks.append(module.linformer.register_forward_hook(exchange))
            hooks.append(
                module.position.register_forward_hook(
                    lambda _, __, output, attention=module: weigh(attention, output)
                )
            )
    try:
        with torch.no_grad():
            device = next(net.parameters()).device
            wave_bn = torch.from_numpy(wave_n)[None].to(device)
            net(wave_bn, torch.tensor([wave_bn.shape[1]], device=device))
    finally:
        for hook in hooks:
            hook.remove()
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
    """At most so many of 0 … count - 1, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / (most - 1)) for k in range(most)]


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, 2), (0, 2)), constant_values=0.25)
