"""Settings of a process that change the numbers of everything that runs in it."""

from __future__ import annotations

import torch


def process_settings() -> dict[str, object]:
    """Return the settings of PyTorch that a test may have changed, each under a name to read."""
    return {
        "default dtype": torch.get_default_dtype(),
        "precision of float32 products": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }
