"""`asr compare`: decoded experiments -> one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.commands.options import Verbs, count


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("compare", help="decoded experiments -> one table")
    parser.add_argument(
        "exp", type=Path, nargs="+", help="experiment folders, the first is the base"
    )
    parser.add_argument("--out", type=Path, help="also write compare.md, compare.json, curves.png")
    parser.add_argument("--seed", type=count, default=1, help="of the bootstrap")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.evaluate.compare import compare, format_terminal, write_comparison
    from asr.evaluate.curves import plot_curves

    comparison = compare(args.exp, seed=args.seed)
    print(format_terminal(comparison))
    if args.out:
        write_comparison(comparison, args.out)
        plot_curves(args.exp, args.out / "curves.png")
        print(f"written to {args.out}: compare.md, compare.json, curves.png")
    return 0
