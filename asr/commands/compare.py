"""`asr compare`: decoded experiments -> one table, and a report."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from asr.commands.options import Verbs, count, path

if TYPE_CHECKING:
    from asr.compare.comparison import Comparison
    from asr.files import Files


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("compare", help="decoded experiments -> one table, and a report")
    parser.add_argument(
        "exp", type=path, nargs="+", help="experiment folders, the first is the base"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path, help="also write compare.md, compare.json, curves.png")
    output.add_argument(
        "--html", type=path, help="also write a report, one HTML file, and compare.json beside it"
    )
    output.add_argument(
        "--page",
        type=path,
        metavar="PAGE.md",
        help="also write a page to keep, with its picture, PAGE.png",
    )
    output.add_argument(
        "--length-page",
        type=path,
        metavar="PAGE.md",
        help="the same of word error rates by duration: sets that `asr join --to-s` made, decoded; "
        "of one manifest: that of the first of these folders in the alphabet",
    )
    output.add_argument("--made-by", help="the command that the pages name; default: this one")
    output.add_argument("--results", type=path, help="also add rows to this Markdown table")
    output.add_argument("--utterance", help="id of the one whose attention the report shows")
    parser.add_argument(
        "--metric",
        choices=("wer", "cer"),
        default="wer",
        help="error rate that everything is about: of words (default), or of characters, for languages "
        "without spaces",
    )
    parser.add_argument("--seed", type=count, default=1, help="of the resampling")
    parser.add_argument("--lengths", type=_no_longer, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def _no_longer(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(
        f"compare decodes nothing: `asr join --to-s {text}` and `asr decode` make a set that it reads"
    )


def run(args: argparse.Namespace) -> int:
    from asr.compare.compare import compare
    from asr.compare.tables import format_terminal
    from asr.files import write_all
    from asr.wer import METRICS

    comparison = compare(args.exp, seed=args.seed, metric=METRICS[args.metric])
    # All of it is made before any of it is written.
    files, told = _files(args, comparison)
    print(format_terminal(comparison))
    write_all(files)
    print("\n".join(told))
    return 0


def _files(args: argparse.Namespace, comparison: Comparison) -> tuple[Files, list[str]]:
    """(what was asked for, what to say when it is written)"""
    from asr.compare.report.brief import brief_files, length_brief_files
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
        from asr.examine.attention_maps import draw_attention

        files |= report_files(gather(comparison, draw_attention, args.utterance), args.html)
        told.append(f"written to {args.html}, and compare.json beside it")
    for page, make in ((args.page, brief_files), (args.length_page, length_brief_files)):
        if page:
            files |= make(comparison, page, args.made_by or args.command)
            told.append(f"written to {page}, with its picture {page.with_suffix('.png').name}")
    if args.results:
        from asr.compare.results import with_results

        files[args.results], changed = with_results(comparison, args.results)
        told.append(f"{changed} rows of {args.results} are new or changed")
    return files, told
