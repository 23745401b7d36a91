"""`asr score`: hypotheses -> word error rates."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("score", help="hypotheses -> word error rates")
    parser.add_argument("folder", type=path, nargs="+", help="folder that `asr decode` wrote")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.decode.score import format_score, score_folder

    for folder in args.folder:
        print(format_score(score_folder(folder)))
    return 0
