"""`asr prepare`: a corpus -> manifests."""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.commands.options import Verbs, above_zero, count
from asr.errors import InputError


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("prepare", help="a corpus folder -> manifests")
    corpora = parser.add_subparsers(required=True, metavar="CORPUS")
    libri = corpora.add_parser("librispeech", help="LibriSpeech, or anything in its layout")
    libri.add_argument("--corpus", type=Path, required=True, help="folder that holds the parts")
    libri.add_argument("--out", type=Path, required=True, help="where the manifests go")
    libri.add_argument("--parts", nargs="+", help="parts to read; default: all there are")
    libri.add_argument("--download", action="store_true", help="fetch official parts from OpenSLR")
    libri.add_argument("--jobs", type=count, default=0, help="parallel readers; 0: one per core")
    libri.set_defaults(run=_prepare_librispeech)
    synthetic = corpora.add_parser("synthetic", help="speech that espeak-ng speaks")
    synthetic.add_argument("--out", type=Path, required=True, help="where corpus and manifests go")
    synthetic.add_argument("--hours", type=above_zero, required=True, help="of training speech")
    synthetic.add_argument("--seed", type=count, default=1, help="same seed, same bytes")
    synthetic.add_argument("--dev", type=count, default=150, help="dev utterances")
    synthetic.add_argument("--test", type=count, default=400, help="test utterances")
    synthetic.add_argument("--jobs", type=count, default=0, help="processes; 0: one per core")
    synthetic.set_defaults(run=_prepare_synthetic)


def _prepare_librispeech(args: argparse.Namespace) -> int:
    from asr.data.librispeech import download_librispeech, prepare_librispeech

    if args.download:
        if not args.parts:
            raise InputError("--download needs --parts, for example --parts dev-clean-2")
        download_librispeech(args.parts, args.corpus)
    for part in prepare_librispeech(args.corpus, args.out, args.parts, args.jobs):
        print("\n".join(part.lines()))
    return 0


def _prepare_synthetic(args: argparse.Namespace) -> int:
    from asr.data.synthetic.corpus import describe, prepare_synthetic

    print("\n".join(describe()))
    reports = prepare_synthetic(
        args.out, args.hours, args.seed, args.jobs, num_dev=args.dev, num_test=args.test
    )
    for part in reports:
        print("\n".join(part.lines()))
    return 0
