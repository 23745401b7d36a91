"""`asr doctor`: what works on this machine."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("doctor", help="what works on this machine, and why not")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.doctor import report

    print("\n".join(report()))
    return 0
