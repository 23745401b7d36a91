"""Where a run on a GPU took place: versions, the card, a large product, a copy, what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
from pathlib import Path

import gpu_farm
import gpu_timing
import torch
from measure import environment

PACKAGES = ("torch", "triton", "numpy", "pytest", "triton-sigmoid", "lhotse", "transformers")
IMPORTED = ("lhotse", "omegaconf", "soundfile", "soxr", "sentencepiece", "tensorboard", "yaml", "fsspec")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    device = "cpu" if args.rehearse else "cuda"
    import sigmoid_attention

    found = environment("python tools/gpu_facts.py", PACKAGES)
    found |= {
        "cores": os.cpu_count(),
        "kernels": str(Path(sigmoid_attention.__file__).parent),
        "cannot_import": [name for name in IMPORTED if importlib.util.find_spec(name) is None],
        "roof": gpu_timing.roofs(device, 64 if args.rehearse else 8192),
    }
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": card.name,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "multiprocessors": card.multi_processor_count,
            "shared_memory_per_block": card.shared_memory_per_block_optin,
            "memory_gb": card.total_memory / 1e9,
            "clocks": query("clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"),
        }
    print(json.dumps(found))
    if args.out:
        gpu_farm.write(args.out, found)


def query(what: str) -> str:
    """What nvidia-smi says; nothing is changed."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except OSError as problem:
        return str(problem)


if __name__ == "__main__":
    main()
