"""`asr diagnose`: what attention does in a model, per layer and head."""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.commands.options import Verbs, at_least_one, count


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("diagnose", help="what attention does, per layer and head")
    parser.add_argument("exp", type=Path, help="model or experiment folder")
    parser.add_argument("--cuts", type=Path, required=True, help="manifest to take utterances from")
    parser.add_argument(
        "--utterances",
        type=at_least_one,
        default=4,
        help="how many, from the shortest to the longest",
    )
    parser.add_argument("--near", type=count, default=5, help="frames on both sides that are near")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--picture", type=Path, help="also draw them into this PNG file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=count, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    from asr.evaluate.diagnose import diagnose_set, format_report, report_as_json
    from asr.evaluate.diagnose_picture import draw
    from asr.files import write_atomically
    from asr.model_folder import load_model
    from asr.runtime import choose_device, prepare_cpu

    prepare_cpu(args.threads)
    model = load_model(args.exp, choose_device(args.device))
    report = diagnose_set(model, args.cuts, args.utterances, args.near)
    print(format_report(report))
    if args.json:
        content = json.dumps(report_as_json(report), indent=2, allow_nan=False)
        write_atomically(args.json, content + "\n")
        print(f"written to {args.json}")
    if args.picture:
        draw(report, args.picture)
        print(f"written to {args.picture}")
    return 0
