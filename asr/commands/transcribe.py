"""`asr transcribe`: audio files -> text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.commands.options import Verbs, add_model_options
from asr.errors import InputError


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("transcribe", help="audio files -> text")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--model", type=Path, required=True, help="model or experiment folder")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.api import load
    from asr.runtime import prepare_cpu

    prepare_cpu(args.threads)
    transcriber = load(args.model, args.device, args.search, args.beam)
    num_failed = 0
    for file in args.files:
        try:
            text = transcriber.transcribe(file)
        except InputError as error:
            # one bad file does not cost the others their text
            print(f"asr: error: {' '.join(str(error).split())}", file=sys.stderr)
            num_failed += 1
            continue
        print(text if len(args.files) == 1 else f"{file}\t{text}", flush=True)
    return 2 if num_failed == len(args.files) else 0
