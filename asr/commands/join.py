"""`asr join`: a manifest -> the same utterances, some of them joined to longer ones."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, above_zero, count, path, seconds, share


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("join", help="a manifest -> its utterances, some of them joined")
    parser.add_argument("--cuts", type=path, required=True, help="manifest to train on")
    parser.add_argument("--out", type=path, required=True, help="NAME.cuts.jsonl.gz to write")
    parser.add_argument("--max-s", type=above_zero, default=25.0, help="longest joined, in seconds")
    parser.add_argument("--share", type=share, default=0.5, help="of the utterances to join")
    parser.add_argument("--pause-s", type=seconds, default=0.6, help="longest pause between them")
    parser.add_argument("--seed", type=count, default=1, help="same seed, same bytes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.data.joining import join_cuts
    from asr.data.store.manifest import read_cuts, write_cuts

    cuts = list(read_cuts(args.cuts))
    rows = join_cuts(cuts, args.max_s, args.share, args.pause_s, args.seed)
    write_cuts(rows, args.out)
    hours = sum(row.duration for row in rows) / 3600
    longest_s = max(row.duration for row in rows)
    print(
        f"{len(cuts)} utterances as {len(rows)}, {hours:.2f} h, longest {longest_s:.1f} s -> "
        f"{args.out}"
    )
    return 0
