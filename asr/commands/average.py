"""`asr average`: the checkpoints of a run -> a model of their mean."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, count, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("average", help="the checkpoints of a run -> a model of their mean")
    parser.add_argument("--exp", type=path, required=True, help="folder of the run")
    parser.add_argument("--out", type=path, required=True, help="experiment folder to write")
    parser.add_argument("--last", type=count, default=1, help="checkpoints, of those that are kept")
    parser.add_argument(
        "--own", action="store_true", help="the weights, not their moving average (train.ema_decay)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.locks import locked
    from asr.train.run import average

    with locked(args.out):
        steps = average(args.exp, args.out, args.last, args.own)
    print(f"mean of the weights after steps {steps}: {args.out}")
    return 0
