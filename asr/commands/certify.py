"""`asr certify`: does a model's result depend on padding, batch, order, chunks or backend."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, add_examined, at_least_two, examined_model


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("certify", help="does anything but its samples change a result")
    add_examined(parser, at_least_two, utterances=8)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 1 where something that is promised does not hold."""
    import json

    from asr.examine.certify import certify
    from asr.examine.certify_output import certificate_as_json, format_certificate
    from asr.files import write_atomically

    certificate = certify(examined_model(args), args.cuts, args.utterances)
    print(format_certificate(certificate))
    if args.json:
        content = certificate_as_json(certificate)
        write_atomically(args.json, json.dumps(content, indent=2, allow_nan=False) + "\n")
        print(f"written to {args.json}")
    return 0 if certificate.certified else 1
