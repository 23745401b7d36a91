"""`asr config`: every option."""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.commands.options import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("config", help="every option: value, meaning, allowed values")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="yaml files, later wins")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr import config

    for key, value, item in config.walk(config.load(args.config, args.overrides)):
        print(f"{key} = {value!r}  # {config.explain(item)}")
    return 0
