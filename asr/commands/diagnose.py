"""`asr diagnose`: what attention does in a model, per layer and head."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, add_examined, at_least_one, count, examined_model, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("diagnose", help="what attention does, per layer and head")
    add_examined(parser, at_least_one, utterances=4)
    parser.add_argument("--near", type=count, default=5, help="frames on both sides that are near")
    parser.add_argument("--picture", type=path, help="also draw them into this PNG file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from asr.examine.diagnose import diagnose_set, format_report, report_as_json
    from asr.examine.diagnose_picture import draw
    from asr.files import write_atomically

    report = diagnose_set(examined_model(args), args.cuts, args.utterances, args.near)
    print(format_report(report))
    if args.json:
        content = json.dumps(report_as_json(report), indent=2, allow_nan=False)
        write_atomically(args.json, content + "\n")
        print(f"written to {args.json}")
    if args.picture:
        draw(report, args.picture)
        print(f"written to {args.picture}")
    return 0
