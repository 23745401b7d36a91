"""Time whole Conformer encoders, blocks only: ours beside torchaudio's, SpeechBrain's, transformers'.

    python tools/bench_encoder.py --out docs/results/encoder-cpu        # both tables, JSON and Markdown
    python tools/bench_encoder.py --measure update --lengths --out docs/results/encoder-step-cpu
    python tools/bench_encoder.py --rounds 1 --layers 2 --lengths --out /tmp/small

Table 1: one batch, forward (evaluation mode, no gradients) and forward + backward (training mode), or,
with --measure update, forward + backward + an update by fused AdamW, the same for all.
Table 2: one utterance at growing length, with the peak of memory of a forward + backward, measured in
a process of its own that may take --memory-gb. Contenders are interleaved: each runs once a round. A
ratio is taken within a round, to the peer that is fastest by its median; its quartiles over rounds
are its spread. Ratios of different runs must not be compared. What could not run is listed with the
reason.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from encoder_contenders import CONTENDERS, OURS, PEERS, Contender, Run, Size
from encoder_report import markdown
from measure import Step, environment, interleaved_ms, peak_extra_mb, quartiles, status_kb
from torch import Tensor, nn

from asr.model.recogniser import count_parameters

PACKAGES = ("torch", "torchaudio", "speechbrain", "transformers")
# by length: the fastest and the relative of everybody
LONG = (
    "torchaudio Conformer",
    "SpeechBrain RoPEMHA",
    "SpeechBrain RelPosMHAXL",
    "transformers Parakeet",
    "transformers wav2vec2-conformer relative",
    "ours softmax relative",
    "ours sigmoid rope",
    "ours sigmoid alibi",
    "ours sigmoid relative",
)


def forward_step(module: nn.Module, run: Run, x_btd: Tensor) -> Step:
    def step() -> None:
        module.eval()
        with torch.no_grad():
            run(x_btd)

    return step


def total_step(module: nn.Module, run: Run, x_btd: Tensor) -> Step:
    """Forward and backward, to all weights and to the frames that a subsampling would have made."""
    leaf_btd = x_btd.clone().requires_grad_()
    direction_btd = torch.ones_like(x_btd) / x_btd.numel()

    def step() -> None:
        module.train()
        module.zero_grad(set_to_none=True)
        leaf_btd.grad = None
        run(leaf_btd).backward(direction_btd)

    return step


def update_step(module: nn.Module, run: Run, x_btd: Tensor) -> Step:
    """As ``total_step``, and then the weights are updated."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-6, fused=True)
    gradients = total_step(module, run, x_btd)

    def step() -> None:
        gradients()
        optimizer.step()

    return step


STEPPERS: dict[str, Callable[[nn.Module, Run, Tensor], Step]] = {
    "forward": forward_step,
    "total": total_step,
    "update": update_step,
}


def frames(batch: int, length: int, dim: int) -> Tensor:
    return torch.randn(batch, length, dim, generator=torch.Generator().manual_seed(0))


def build(names: list[str], size: Size) -> tuple[dict[str, tuple[nn.Module, Run]], dict[str, str]]:
    """Those that can be made, and the reasons of the others."""
    made, missing = {}, {}
    for name in names:
        torch.manual_seed(0)
        try:
            made[name] = CONTENDERS[name].make(size)
        except ImportError as problem:
            missing[name] = str(problem)
    return made, missing


def compare(
    made: dict[str, tuple[nn.Module, Run]],
    x_btd: Tensor,
    rounds: int,
    measures: Sequence[str] = ("forward", "total"),
) -> list[dict[str, Any]]:
    """One row per contender: parameters, medians, ratios to the fastest peer, all times."""
    if not made:
        return []
    rows = {
        name: {
            "name": name,
            "position": CONTENDERS[name].position,
            "is_ours": CONTENDERS[name].is_ours,
            "parameters": count_parameters(module),
        }
        for name, (module, _) in made.items()
    }
    for what in measures:
        steps = {name: STEPPERS[what](module, run, x_btd) for name, (module, run) in made.items()}
        times = interleaved_ms(steps, rounds)
        median = {name: quartiles(values)[1] for name, values in times.items()}
        peers = [name for name in made if not CONTENDERS[name].is_ours] or list(made)
        fastest = min(peers, key=median.__getitem__)
        for name, row in rows.items():
            ratios = [a / b for a, b in zip(times[name], times[fastest], strict=True)]
            row[what] = {
                "median_ms": median[name],
                "ratio": dict(zip(("low", "median", "high"), quartiles(ratios), strict=True)),
                "to": fastest,
                "times_ms": times[name],
            }
    return list(rows.values())


def probe(name: str, size: Size, length: int, memory_gb: float) -> None:
    """In a process of its own: print the peak of memory of one forward + backward, in MB."""
    module, run = CONTENDERS[name].make(size)
    total_step(module, run, frames(1, 16, size.dim))()  # libraries load, kernels are built
    step = total_step(module, run, frames(1, length, size.dim))
    limit = int(status_kb("VmData") * 1e3 + memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps(peak_extra_mb(step)))


def probed_mb(contender: Contender, length: int, args: argparse.Namespace) -> float | str:
    """Peak of memory, or why there is none."""
    command = [sys.executable, __file__, "--probe", contender.name]
    command += ["--lengths", str(length), "--memory-gb", str(args.memory_gb)]
    command += ["--layers", str(args.layers), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return float(json.loads(done.stdout.splitlines()[-1]))
    errors = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    if "allocate" in errors[-1] or "MemoryError" in errors[-1]:
        return f"takes more than {args.memory_gb:g} GB"
    return errors[-1]


def chosen(name: str, args: argparse.Namespace) -> bool:
    return any(words in name for words in args.only)


def by_length(args: argparse.Namespace, size: Size) -> Iterator[dict[str, Any]]:
    """One table per length."""
    names = [name for name in LONG if chosen(name, args)]
    for length in args.lengths:
        made, missing = build(names, size)
        peaks = {}
        for name in list(made):
            peak = probed_mb(CONTENDERS[name], length, args)
            if isinstance(peak, str):
                missing[name] = peak
                del made[name]
            else:
                peaks[name] = peak
        rows = compare(made, frames(1, length, size.dim), args.rounds_by_length)
        for row in rows:
            row["peak_mb"] = peaks[row["name"]]
        yield {"batch": 1, "length": length, "rows": rows, "could_not_run": missing}
        print(f"{length} frames done", file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=400, help="frames, of the first table")
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--rounds", type=int, default=9, help="0: no first table")
    parser.add_argument(
        "--measure",
        nargs="+",
        choices=STEPPERS,
        default=["forward", "total"],
        help="of the first table; update: forward, backward and the optimiser",
    )
    parser.add_argument(
        "--lengths", nargs="*", type=int, default=[200, 400, 1000, 2000, 4000, 8000]
    )
    parser.add_argument(
        "--add", action="store_true", help="put the lengths into the tables that --out has already"
    )
    parser.add_argument("--rounds-by-length", type=int, default=3)
    parser.add_argument("--memory-gb", type=float, default=12.0, help="more than this is too much")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch has it")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[contender.name for contender in PEERS + OURS],
        help="contenders whose name contains one of these, such as compiled",
    )
    parser.add_argument("--out", type=Path, help="path without suffix: .json and .md are added")
    parser.add_argument("--probe", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.add and not (args.out and args.out.with_suffix(".json").exists()):
        parser.error("--add: --out has no tables yet; run without it first")
    return args


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    size = Size(layers=args.layers)
    if args.probe:
        probe(args.probe, size, args.lengths[0], args.memory_gb)
        return
    run = environment("python tools/bench_encoder.py", PACKAGES)
    result: dict[str, Any] = {
        "environment": run,
        "size": asdict(size),
        "tables": [],
        "by_length": [],
    }
    if args.add:
        result = json.loads(args.out.with_suffix(".json").read_text())
    elif args.rounds:
        made, missing = build([name for name in CONTENDERS if chosen(name, args)], size)
        rows = compare(made, frames(args.batch, args.length, size.dim), args.rounds, args.measure)
        result["tables"].append(
            {"batch": args.batch, "length": args.length, "rows": rows, "could_not_run": missing}
        )
    save(result, args.out)
    for table in by_length(args, size):
        others = [one for one in result["by_length"] if one["length"] != table["length"]]
        table["environment"] = run
        result["by_length"] = sorted([*others, table], key=lambda one: one["length"])
        save(result, args.out)
    print(markdown(result))


def save(result: dict[str, Any], out: Path | None) -> None:
    """What is known by now: the longest lengths take long."""
    if out:
        out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
