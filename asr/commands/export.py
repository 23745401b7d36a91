"""`asr export`: a model folder -> one ONNX file."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("export", help="a model -> ONNX, waveforms to log-probabilities")
    parser.add_argument("--model", type=path, required=True, help="model or experiment folder")
    parser.add_argument("--out", type=path, required=True, help="the .onnx file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.transcribe.onnx import export_onnx

    export_onnx(args.model, args.out)
    print(f"written to {args.out}: {args.out.stat().st_size / 1e6:.1f} MB")
    return 0
