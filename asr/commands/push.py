"""`asr push`: a model -> the Hugging Face hub."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("push", help="a model -> the Hugging Face hub, or a shared folder")
    parser.add_argument("model", type=path, help="model or experiment folder")
    parser.add_argument("target", help="OWNER/NAME on the hub, or a folder (/… or ./…)")
    parser.add_argument("--license", help="for the model card, the hub's word: cc-by-4.0, mit, …")
    parser.add_argument("--language", help="for the model card: en, de, …")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.share.card import CardOptions
    from asr.share.hub import push

    options = CardOptions(license=args.license, language=args.language)
    print(f"pushed to {push(args.model, args.target, options, args.private)}")
    return 0
