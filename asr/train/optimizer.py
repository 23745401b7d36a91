"""AdamW with weight-decay groups, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from asr.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Weight decay on matrices and kernels; none on biases, norms and position vectors."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            matrix = parameter.ndim >= 2 and name == "weight"
            (decayed if matrix else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    beta1, beta2 = config.betas
    return torch.optim.AdamW(groups, lr=config.lr, betas=(beta1, beta2), eps=config.eps, fused=True)


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": lambda progress: 1.0 - progress,
    "constant": lambda progress: 1.0,
}


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Of optimiser step ``step`` (from 0) out of ``num_steps``: linear warm-up to the peak, then decay.

    A pure function of the step, so there is no schedule state to save.
    """
    warmup = max(round(config.warmup_fraction * num_steps), 1)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = min((step - warmup) / max(num_steps - warmup, 1), 1.0)
    floor = config.final_lr_fraction
    return config.lr * (floor + (1.0 - floor) * SCHEDULES[config.schedule](progress))
