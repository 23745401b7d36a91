"""`asr transcribe`: audio of any kind and length -> text, subtitles, word times."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.commands.options import Verbs, above_zero, add_model_options, search_options, seconds
from asr.errors import InputError


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("transcribe", help="audio files -> text, subtitles, word times")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders, globs, manifests of Lhotse cuts, - for standard input",
    )
    parser.add_argument("--model", type=Path, required=True, help="model or experiment folder")
    parser.add_argument(
        "--format",
        default="txt",
        help="txt, json, srt, vtt, tsv, ctm, textgrid; several with commas (default: txt)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FOLDER", help="write files into this folder")
    where.add_argument("--beside", action="store_true", help="write files beside the inputs")
    parser.add_argument(
        "--channel", type=int, metavar="N", help="take channel N, from 1 (default: the mean)"
    )
    parser.add_argument(
        "--window-s", type=above_zero, default=30.0, help="longer audio is cut into such windows"
    )
    parser.add_argument("--overlap-s", type=seconds, default=4.0, help="what neighbours share")
    parser.add_argument(
        "--max-batch-s", type=above_zero, default=120.0, help="padded seconds at once"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, int8 (CPU) or bf16 (CUDA)")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.api import load
    from asr.runtime import prepare_cpu
    from asr.transcribe.outputs import Printed, Written, parse_formats
    from asr.transcribe.pipeline import Failure
    from asr.transcribe.sources import find_sources

    if args.channel is not None and args.channel < 1:
        raise InputError(f"--channel {args.channel}: channels count from 1")
    channel = None if args.channel is None else args.channel - 1
    sources = find_sources(args.inputs, channel)
    formats = parse_formats(args.format)
    output: Printed | Written
    if args.beside or args.out:
        output = Written(formats, sources, args.out)
    else:
        output = Printed(formats, len(sources))
    prepare_cpu(args.threads)
    transcriber = load(
        args.model,
        args.device,
        search_options(args),
        args.window_s,
        args.overlap_s,
        args.max_batch_s,
        args.precision,
    )
    num_done = 0
    for outcome in transcriber.transcribe_sources(sources):
        # one bad file does not cost the others their text
        if isinstance(outcome.result, Failure):
            _complain("error", str(outcome.result.error))
            continue
        for gap in outcome.result.gaps:
            _complain("warning", gap.describe(outcome.source.name))
        try:
            output.write(outcome.source, outcome.result)
        except InputError as error:
            _complain("error", str(error))
            continue
        num_done += 1
    return 0 if num_done else 2


def _complain(kind: str, message: str) -> None:
    print(f"asr: {kind}: {' '.join(message.split())}", file=sys.stderr, flush=True)
