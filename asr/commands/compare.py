"""`asr compare`: decoded experiments -> one table, and a report."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from asr.commands.options import Verbs, count, path

if TYPE_CHECKING:
    from asr.compare.comparison import Comparison
    from asr.files import Files


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("compare", help="decoded experiments -> one table, and a report")
    parser.add_argument(
        "exp", type=path, nargs="+", help="experiment folders, the first is the base"
    )
    parser.add_argument("--out", type=path, help="also write compare.md, compare.json, curves.png")
    parser.add_argument(
        "--html", type=path, help="also write a report, one HTML file, and compare.json beside it"
    )
    parser.add_argument(
        "--page",
        type=path,
        metavar="PAGE.md",
        help="also write a page to keep, with its picture, PAGE.png; with --lengths, of these",
    )
    parser.add_argument("--made-by", help="the command that the page names; default: this one")
    parser.add_argument("--utterance", help="whose attention the report shows")
    parser.add_argument(
        "--lengths",
        type=float,
        nargs="+",
        default=[],
        metavar="S",
        help="also decode each speaker's utterances joined to about these seconds; durations that make "
        "recordings hardly longer than the one before are left out",
    )
    parser.add_argument(
        "--device", default="auto", help="that decodes --lengths: auto, cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--metric",
        choices=("wer", "cer"),
        default="wer",
        help="error rate that everything is about: of words (default), or of characters, for languages "
        "without spaces",
    )
    parser.add_argument("--results", type=path, help="also add rows to this Markdown table")
    parser.add_argument("--seed", type=count, default=1, help="of the resampling")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.compare.compare import compare
    from asr.compare.tables import format_terminal
    from asr.errors import InputError
    from asr.files import write_all
    from asr.wer import METRICS, WER

    metric = METRICS[args.metric]
    if args.lengths and metric is not WER:
        raise InputError("--lengths: joined utterances are compared by words; leave out --metric")
    comparison = compare(args.exp, seed=args.seed, metric=metric)
    if args.lengths:
        from asr.compare.lengths import compare_lengths
        from asr.runtime import choose_device

        comparison = compare_lengths(comparison, args.lengths, choose_device(args.device))
    # All of it is made before any of it is written.
    files, told = _files(args, comparison)
    print(format_terminal(comparison))
    write_all(files)
    print("\n".join(told))
    return 0


def _files(args: argparse.Namespace, comparison: Comparison) -> tuple[Files, list[str]]:
    """(what was asked for, what to say when it is written)"""
    from asr.compare.tables import comparison_files

    files: Files = {}
    told = []
    if args.out:
        from asr.compare.curves_picture import draw_curves, gather_curves

        curves, missing = gather_curves(comparison)
        picture, named = draw_curves(comparison, curves)
        notes = [*comparison.notes, *missing, *named]
        files |= comparison_files(replace(comparison, notes=notes), args.out)
        files[args.out / "curves.png"] = picture
        told += [*missing, f"written to {args.out}: compare.md, compare.json, curves.png"]
    if args.html:
        from asr.compare.report.gather import gather
        from asr.compare.report.page import report_files

        files |= report_files(gather(comparison, args.utterance), args.html)
        told.append(f"written to {args.html}, and compare.json beside it")
    if args.page:
        from asr.compare.report.brief import brief_files

        files |= brief_files(comparison, args.page, args.made_by or args.command)
        told.append(
            f"written to {args.page}, with its picture {args.page.with_suffix('.png').name}"
        )
    if args.results:
        from asr.compare.results import with_results

        files[args.results], changed = with_results(comparison, args.results)
        told.append(f"{changed} rows of {args.results} are new or changed")
    return files, told
