"""`asr decode`: a manifest -> hypotheses, scored."""

from __future__ import annotations

import argparse
from contextlib import nullcontext

from asr.commands.options import (
    Verbs,
    above_zero,
    add_model,
    add_model_options,
    count,
    path,
    search_options,
)

# How long the processes of torchrun wait for the slowest of them.
TIMEOUT_MINUTES = 60.0


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("decode", help="a manifest -> hypotheses, scored")
    add_model(parser)
    parser.add_argument("--cuts", type=path, required=True, help="manifest to decode")
    parser.add_argument(
        "--out", type=path, help="folder to write to; default: EXP/decode/NAME OF THE MANIFEST"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="also where that folder holds another set"
    )
    parser.add_argument(
        "--max-batch-s", type=above_zero, default=300.0, help="padded seconds at once"
    )
    parser.add_argument("--workers", type=count, default=0, help="processes that read audio")
    parser.add_argument(
        "--chunk",
        type=int,
        metavar="FRAMES",
        help="decode as a stream with chunks of so many encoder frames would",
    )
    parser.add_argument(
        "--left-chunks",
        type=int,
        metavar="N",
        help="chunks seen before each (default: most of training)",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.box import check_not_boxed
    from asr.decode.decode import decode_set, set_name
    from asr.decode.score import format_score, score_folder
    from asr.locks import locked
    from asr.model.folder import find_model, load_model
    from asr.model.stream import choose_chunk
    from asr.processes import join
    from asr.run_folder import RunFolder
    from asr.runtime import prepare_cpu

    prepare_cpu(args.threads)
    if args.out is None:
        check_not_boxed(find_model(args.model), "name a folder for the results with --out")
    out = args.out or RunFolder(args.model).decode / set_name(args.cuts)
    with join(args.device, TIMEOUT_MINUTES) as processes:
        model = load_model(args.model, processes.device)
        chunk = None
        if args.chunk is not None or args.left_chunks is not None:
            chunk = choose_chunk(model.config, args.chunk, args.left_chunks)
        with locked(out) if processes.first else nullcontext():
            summary = decode_set(
                model,
                args.cuts,
                out,
                options=search_options(args),
                max_batch_s=args.max_batch_s,
                num_workers=args.workers,
                processes=processes,
                chunk=chunk,
                replace=args.overwrite,
            )
            if not processes.first:
                return 0
            print(format_score(score_folder(out)))
    print(
        f"{summary['num_utterances']} utterances, {summary['audio_s']:.0f} s of audio in "
        f"{summary['wall_s']:.1f} s: real-time factor {summary['rtf']:.4f}; written to {out}"
    )
    return 0
