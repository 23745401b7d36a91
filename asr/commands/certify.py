"""`asr certify`: does a model's result depend on padding, batch, order, chunks or backend."""

from __future__ import annotations

import argparse
from pathlib import Path

from asr.commands.options import Verbs, at_least_two, count


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("certify", help="does anything but its samples change a result")
    parser.add_argument("exp", type=Path, help="model or experiment folder")
    parser.add_argument("--cuts", type=Path, required=True, help="manifest to take utterances from")
    parser.add_argument(
        "--utterances",
        type=at_least_two,
        default=8,
        help="how many, from the shortest to the longest",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=count, default=0, help="CPU threads; 0: PyTorch's choice")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 1 where something that is promised does not hold."""
    import json

    from asr.evaluate.certify import certify
    from asr.evaluate.certify_output import certificate_as_json, format_certificate
    from asr.files import write_atomically
    from asr.model_folder import load_model
    from asr.runtime import choose_device, prepare_cpu

    prepare_cpu(args.threads)
    model = load_model(args.exp, choose_device(args.device))
    certificate = certify(model, args.cuts, args.utterances)
    print(format_certificate(certificate))
    if args.json:
        content = certificate_as_json(certificate)
        write_atomically(args.json, json.dumps(content, indent=2, allow_nan=False) + "\n")
        print(f"written to {args.json}")
    return 0 if certificate.certified else 1
