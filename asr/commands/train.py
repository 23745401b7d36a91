"""`asr train`: manifests -> a model."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from asr.commands.options import Verbs


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("train", help="manifests -> a model")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="yaml files, later wins")
    parser.add_argument("--exp", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on after the newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr import config
    from asr.train.loop import train

    command = shlex.join(["asr", *sys.argv[1:]])
    train(config.load(args.config, args.overrides), args.exp, args.resume, command)
    return 0
