"""`asr shard`: a manifest's audio -> tar shards and their manifest."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, above_zero, count, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("shard", help="a manifest's audio -> tar shards and their manifest")
    parser.add_argument("--cuts", type=path, required=True, help="manifest to pack")
    parser.add_argument("--out", type=path, required=True, help="folder for shards and manifest")
    parser.add_argument(
        "--format",
        choices=("keep", "flac", "opus"),
        default="keep",
        help="keep: files as they are, FLAC for parts of files",
    )
    parser.add_argument("--shard-mb", type=above_zero, default=512.0, help="largest shard")
    parser.add_argument(
        "--url", default="", help="where the shards will lie, such as s3://bucket/folder"
    )
    parser.add_argument("--jobs", type=count, default=0, help="parallel readers; 0: one per core")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.data.store.shards import write_shards
    from asr.locks import locked

    with locked(args.out):
        report = write_shards(
            args.cuts,
            args.out,
            audio_format=args.format,
            shard_bytes=int(args.shard_mb * 1e6),
            url=args.url,
            num_jobs=args.jobs,
        )
    print("\n".join(report.lines()))
    return 0
