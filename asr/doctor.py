"""``asr doctor``: versions, devices, and which attention backends work here and why others do not."""

from __future__ import annotations

import os
import platform
from importlib import util

import torch
from sigmoid_attention import PositionBias, attend
from sigmoid_attention.cpp_build import engine
from sigmoid_attention.dispatch import BACKENDS
from sigmoid_attention.weightings import MAPS

from asr.config import AttentionConfig
from asr.distributions import PACKAGES, describe, mixed
from asr.nn.attention import build_weighting
from asr.provenance import commit, versions

EXTRAS = {
    "synthetic": ("espeakng_loader", "asr prepare synthetic"),
    "plot": ("matplotlib", "pictures of curves"),
}


def report() -> list[str]:
    """Lines for a person, and for a bug report."""
    revision, dirty = commit()
    lines = [f"commit      {revision}{' with changes' if dirty else ''}"]
    lines += [f"{name:11s} {version}" for name, version in versions().items()]
    lines.append(f"machine     {platform.platform()}, {os.cpu_count()} CPUs")
    lines.append(f"threads     {torch.get_num_threads()}")
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    lines.append(f"CUDA        {names or 'no device'}")
    for extra, (module, purpose) in EXTRAS.items():
        state = (
            "installed"
            if util.find_spec(module)
            else f"missing: pip install 'sigmoid-asr[{extra}]'"
        )
        lines.append(f"[{extra}]".ljust(12) + f"{state}; for {purpose}")
    lines.append(f"engine      {engine().state}")
    lines += [line for package in PACKAGES for line in describe(package)] + mixed()
    devices = ["cpu", *(["cuda"] if count else [])]
    for device in devices:
        for weighting in MAPS:
            for backend in BACKENDS:
                if backend != "auto":
                    works = _try_backend(device, weighting, backend)
                    lines.append(f"attention   {device} {weighting:10s} {backend:10s} {works}")
    return lines


def _try_backend(device: str, weighting: str, backend: str) -> str:
    """Runs a small problem forward and backward, so that "works" means it ran."""
    q_bhtd = torch.randn(1, 2, 17, 32, device=device, requires_grad=True)
    alibi = PositionBias.alibi(torch.tensor([0.5, 0.25], device=device))
    try:
        chosen = build_weighting(AttentionConfig(weighting=weighting))
        attend(
            q_bhtd, q_bhtd, q_bhtd, weighting=chosen, position=alibi, backend=backend
        ).sum().backward()
    except (ValueError, RuntimeError, ImportError) as error:
        return f"no: {str(error).splitlines()[0]}"
    return "works"
