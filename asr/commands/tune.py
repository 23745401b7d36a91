"""`asr tune`: a development set -> how much a language model counts."""

from __future__ import annotations

import argparse

from asr.commands.options import (
    Verbs,
    above_zero,
    add_model,
    add_model_options,
    count,
    path,
    search_options,
)
from asr.stderr import tell


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "tune",
        help="a development manifest -> the weights of a language model and of two heads, for decoding",
        description="Weights that are given (--lm-weight, --ctc-weight ...) are where tuning begins.",
    )
    add_model(parser)
    parser.add_argument(
        "--cuts", type=path, required=True, help="development manifest, never the test's"
    )
    parser.add_argument(
        "--max-batch-s", type=above_zero, default=300.0, help="padded seconds at once"
    )
    parser.add_argument(
        "--metric",
        choices=("wer", "cer"),
        default="wer",
        help="error rate to lower: of words (default), or of characters, for languages without spaces",
    )
    parser.add_argument("--workers", type=count, default=0, help="processes that read audio")
    add_model_options(parser, "beam")
    parser.set_defaults(run=run, search="beam")


def run(args: argparse.Namespace) -> int:
    from asr.box import check_not_boxed
    from asr.decode.tune import tune
    from asr.model.folder import find_model, load_model
    from asr.runtime import choose_device, prepare_cpu
    from asr.search.weights import read_tuned, write_tuned
    from asr.wer import METRICS

    metric = METRICS[args.metric]
    copy = f"copy it first: asr export --model {args.model} --format int8 --out FOLDER"
    check_not_boxed(find_model(args.model), copy)
    prepare_cpu(args.threads)
    model = load_model(args.model, choose_device(args.device))
    tuned = tune(
        model,
        args.cuts,
        search_options(args),
        max_batch_s=args.max_batch_s,
        num_workers=args.workers,
        metric=metric,
        report=lambda line: print(line, flush=True),
    )
    before = read_tuned(model.folder, tuned.name)
    if before is not None and before.lm_sha256 != tuned.lm_sha256:
        of = "without a language model" if before.lm is None else f"with {before.lm}"
        tell("note", f"this replaces what was tuned for {tuned.name} {of}")
    path = write_tuned(tuned, model.folder)
    print(f"best on {tuned.tuned_on}: {metric.label} {100 * tuned.wer:.2f} %; written to {path}")
    return 0
