"""`asr export`: a model folder -> one ONNX file, or a smaller model folder."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, add_model, path


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("export", help="a model -> ONNX, or a model folder in 8 bits")
    add_model(parser)
    parser.add_argument(
        "--format",
        choices=["onnx", "int8"],
        default="onnx",
        help="onnx: waveforms to CTC's log-probabilities, no other head; int8: a model folder with its "
        "matrices in 8 bits, about a quarter of the size (default: onnx)",
    )
    parser.add_argument(
        "--out", type=path, required=True, help="the .onnx file, or the new model folder, to write"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    without: list[str] = []
    if args.format == "int8":
        from asr.model.folder import save_int8

        save_int8(args.model, args.out)
        num_bytes = sum(file.stat().st_size for file in args.out.iterdir())
    else:
        from asr.transcribe.onnx import export_onnx

        without = export_onnx(args.model, args.out)
        num_bytes = args.out.stat().st_size
    left_out = f", without the {', '.join(without)} head" if without else ""
    print(f"written to {args.out}: {num_bytes / 1e6:.1f} MB{left_out}")
    return 0
