"""`asr pull`: the Hugging Face hub -> a model."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("pull", help="the Hugging Face hub, or a shared folder -> a model")
    parser.add_argument("source", help="OWNER/NAME on the hub, or a folder (/… or ./…)")
    parser.add_argument("--out", type=path, required=True, help="model folder to make")
    parser.add_argument("--revision", help="branch, tag or commit; default: the newest")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.share.hub import pull

    folder = pull(args.source, args.out, args.revision)
    print(f"a model of {', '.join(sorted(path.name for path in folder.iterdir()))} in {folder}")
    return 0
