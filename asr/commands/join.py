"""`asr join`: a manifest -> the same utterances, joined to longer ones, to train on or to test with."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, above_zero, count, path, seconds, share
from asr.errors import InputError


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("join", help="a manifest -> its utterances joined to longer ones")
    parser.add_argument("--cuts", type=path, required=True, help="manifest to join")
    parser.add_argument("--out", type=path, required=True, help="NAME.cuts.jsonl.gz to write")
    train = parser.add_argument_group("to train on: some of the utterances, drawn")
    train.add_argument("--max-s", type=above_zero, default=25.0, help="longest joined, in seconds")
    train.add_argument("--share", type=share, default=0.5, help="of the utterances to join")
    train.add_argument("--pause-s", type=seconds, default=0.6, help="longest pause between them")
    train.add_argument("--seed", type=count, default=1, help="same seed, same bytes")
    test = parser.add_argument_group("to test with: all of them, by speaker")
    test.add_argument(
        "--to-s",
        type=above_zero,
        metavar="S",
        help="join each speaker's utterances to about so many seconds, one after the other",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.data.joining import join_cuts, join_speakers
    from asr.data.store.manifest import read_cuts, write_cuts

    cuts = list(read_cuts(args.cuts))
    if args.to_s is None:
        rows = join_cuts(cuts, args.max_s, args.share, args.pause_s, args.seed)
    else:
        _check_nothing_drawn(args)
        rows = join_speakers(cuts, args.to_s)
    write_cuts(rows, args.out)
    hours = sum(row.duration for row in rows) / 3600
    longest_s = max(row.duration for row in rows)
    print(
        f"{len(cuts)} utterances as {len(rows)}, {hours:.2f} h, longest {longest_s:.1f} s -> "
        f"{args.out}"
    )
    return 0


def _check_nothing_drawn(args: argparse.Namespace) -> None:
    for name in ("max_s", "share", "pause_s", "seed"):
        if getattr(args, name) != args.parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: means nothing with --to-s, which joins all and draws none")
