"""`asr compare`: decoded experiments -> one table, and a report."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from asr.commands.options import Verbs, count


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("compare", help="decoded experiments -> one table, and a report")
    parser.add_argument(
        "exp", type=Path, nargs="+", help="experiment folders, the first is the base"
    )
    parser.add_argument("--out", type=Path, help="also write compare.md, compare.json, curves.png")
    parser.add_argument(
        "--html", type=Path, help="also write a report, one HTML file, and compare.json beside it"
    )
    parser.add_argument("--utterance", help="whose attention the report shows")
    parser.add_argument(
        "--lengths",
        type=float,
        nargs="+",
        default=[],
        metavar="S",
        help="also decode each speaker's utterances joined to these seconds",
    )
    parser.add_argument("--results", type=Path, help="also add rows to this Markdown table")
    parser.add_argument("--seed", type=count, default=1, help="of the resampling")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.evaluate.compare import compare, format_terminal, write_comparison
    from asr.evaluate.curves import plot_curves

    comparison = compare(args.exp, seed=args.seed)
    if args.lengths:
        from asr.evaluate.lengths import compare_lengths

        lengths = compare_lengths(comparison, args.lengths)
        comparison = dataclasses.replace(comparison, lengths=lengths)
    print(format_terminal(comparison))
    if args.out:
        write_comparison(comparison, args.out)
        plot_curves(args.exp, args.out / "curves.png")
        print(f"written to {args.out}: compare.md, compare.json, curves.png")
    if args.html:
        from asr.evaluate.report.gather import gather
        from asr.evaluate.report.page import write_report

        write_report(gather(comparison, args.utterance), args.html)
        print(f"written to {args.html}, and compare.json beside it")
    if args.results:
        from asr.evaluate.results import add_results

        print(f"{add_results(comparison, args.results)} rows of {args.results} are new or changed")
    return 0
