"""Write a subset of a manifest: `asr subset`."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, count, path, seconds
from asr.errors import InputError


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("subset", help="write a subset of a manifest")
    parser.add_argument("--cuts", type=path, required=True, help="manifest to choose from")
    parser.add_argument("--out", type=path, required=True, help="NAME.cuts.jsonl.gz to write")
    parser.add_argument("--min-s", type=seconds, default=0.0, help="shortest, in seconds")
    parser.add_argument("--max-s", type=seconds, default=float("inf"), help="longest, in seconds")
    parser.add_argument("--every", type=count, default=1, help="every N-th utterance, 1: all")
    parser.add_argument("--first", type=count, default=0, help="that many at most; 0: all")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.data.store.manifest import read_cuts, write_cuts

    if args.every < 1:
        raise InputError(f"--every {args.every}: must be at least 1")
    chosen = [cut for cut in read_cuts(args.cuts) if args.min_s <= cut.duration <= args.max_s]
    chosen = chosen[:: args.every][: args.first or None]
    if not chosen:
        raise InputError(f"{args.cuts}: no utterance of {args.min_s:g} to {args.max_s:g} s")
    write_cuts(chosen, args.out)
    print(f"{len(chosen)} utterances, {sum(cut.duration for cut in chosen):.1f} s -> {args.out}")
    return 0
