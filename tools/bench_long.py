"""Time and memory of one pass over long audio, with attention windows and without: waveform to
log-probabilities of a small Conformer, untrained, on noise.

    python tools/bench_long.py --out docs/results/long-cpu          # JSON and Markdown
    python tools/bench_long.py --minutes 1 2 --rounds 1 --layers 1

Each measurement is a process of its own, so that its peak of memory is its own: one short pass first,
then the one that is measured. Time is CPU time, which other work on the machine changes least. A round
measures every length with every window; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import environment, peak_extra_mb, quartiles

from asr import config
from asr.model.recogniser import Recogniser

RATE = 16000
Row = dict[str, Any]


def probe(minutes: float, window: int, options: list[str]) -> None:
    """Run in a process of its own: print CPU seconds and peak of memory of one pass."""
    cfg = config.load([], [*options, f"attention.window={window}"])
    torch.manual_seed(0)
    net = Recogniser(cfg, 500).eval()
    found: Row = {"minutes": minutes, "window": window, "backend": net.attention_backend()}

    @torch.inference_mode()
    def run(num_samples: int) -> None:
        net(0.1 * torch.randn(1, num_samples), torch.tensor([num_samples]))

    run(10 * RATE)  # libraries load, kernels are built

    def step() -> None:
        start_s = time.process_time()
        run(round(60 * minutes * RATE))
        found["s"] = time.process_time() - start_s

    found["peak_mb"] = peak_extra_mb(step)
    print(json.dumps(found))


def measure(args: argparse.Namespace, options: list[str]) -> list[list[Row]]:
    """One list of measurements per round."""
    rounds = []
    for number in range(args.rounds):
        rows = []
        for minutes in args.minutes:
            for window in args.windows:
                command = [sys.executable, __file__, "--probe", str(minutes), str(window)]
                done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
                rows.append(json.loads(done.stdout))
                print(number, rows[-1], file=sys.stderr)
        rounds.append(rows)
    return rounds


def markdown(result: Row) -> str:
    """One row per length and window: medians, and ratios within rounds."""
    run, rounds = result["environment"], result["rounds"]
    shortest = min(row["minutes"] for row in rounds[0])

    def ratios(what: str, row: Row, minutes: float, window: int) -> str:
        """This row's figure over that of another length or window, median and range over rounds."""
        found = []
        for rows in rounds:
            by_key = {(one["minutes"], one["window"]): one[what] for one in rows}
            found.append(by_key[row["minutes"], row["window"]] / by_key[minutes, window])
        middle = f"{quartiles(found)[1]:.2f}"
        return middle if len(found) == 1 else f"{middle} [{min(found):.2f}, {max(found):.2f}]"

    lines = [
        "# Long audio in one pass",
        f"    {run['command']}",
        f"Commit {run['commit']}, {run['date']}; {run['processor']}, {run['threads']} threads; Python "
        f"{run['python']}, torch {run['versions']['torch']}; load average before the run "
        f"{run['load_average']}. Waveform to log-probabilities, evaluation mode, "
        f"{len(rounds)} round(s): medians, and [least, most] of ratios within a round. Options: "
        f"`{' '.join(result['options'])}`. Backend: {rounds[0][0]['backend']}.",
        f"| audio, min | window, frames | CPU time, s | over {shortest:g} min | over no window | peak "
        f"memory, MB | over {shortest:g} min | over no window |\n" + "|" + "---:|" * 8,
    ]
    for row in rounds[0]:
        alike = [
            one
            for rows in rounds
            for one in rows
            if (one["minutes"], one["window"]) == (row["minutes"], row["window"])
        ]
        cells = [f"{row['minutes']:g}", str(row["window"] or "none")]
        for what, digits in (("s", 1), ("peak_mb", 0)):
            cells.append(f"{quartiles([one[what] for one in alike])[1]:.{digits}f}")
            cells.append(ratios(what, row, shortest, row["window"]))
            cells.append(ratios(what, row, row["minutes"], 0) if 0 in result["windows"] else "-")
        lines[-1] += "\n| " + " | ".join(cells) + " |"
    return "\n\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", nargs="+", type=float, default=[7.5, 15, 30, 60])
    parser.add_argument(
        "--windows", nargs="+", type=int, default=[0, 128], help="attention.window, 0: none"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--out", type=Path, help="path without suffix: .json and .md are added")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    args, more = parser.parse_known_args()
    if args.probe:
        probe(float(args.probe[0]), int(args.probe[1]), more)
        return
    size = [f"encoder.num_layers={args.layers}", f"encoder.dim={args.dim}"]
    options = [*size, f"encoder.ff_dim={4 * args.dim}", *more]
    result: Row = {
        "environment": environment("python tools/bench_long.py", ["torch"]),
        "options": options,
        "windows": args.windows,
        "rounds": measure(args, options),
    }
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
