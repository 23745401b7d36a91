"""`asr models`: the models that come with the package."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "models", help="models that come with the package: figures, data, licences, limits"
    )
    parser.add_argument("name", nargs="?", help="print the card of this model")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr import box
    from asr.share.boxed import describe, read_card

    if args.name is not None:
        card = read_card(args.name)
        print(f"{describe(card)}\n\n{card.text}")
        return 0
    print("\n\n".join(describe(read_card(name)) for name in box.NAMES))
    return 0
