"""`asr train`: manifests -> a model."""

from __future__ import annotations

import argparse

from asr.commands.options import Verbs, path
from asr.stderr import tell


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("train", help="manifests -> a model")
    parser.add_argument("--config", type=path, nargs="+", default=[], help="yaml files, later wins")
    parser.add_argument("--exp", type=path, required=True, help="folder of the run")
    start = parser.add_argument_group("where it starts")
    start.add_argument(
        "--resume",
        action="store_true",
        help="go on after the newest checkpoint, with the options of before and what is given here",
    )
    start.add_argument(
        "--init-from", type=path, help="begin with the weights of this model or experiment folder"
    )
    start.add_argument(
        "--new-tokenizer", action="store_true", help="with --init-from: learn one, the head is new"
    )
    watch = parser.add_argument_group("measuring and watching")
    watch.add_argument(
        "--find-batch", action="store_true", help="only say which train.max_batch_s fits the GPU"
    )
    watch.add_argument("--profile", action="store_true", help="leave a trace in EXP/profile")
    watch.add_argument(
        "--tracker", type=path, help="a Python file whose tracker(run) gets every record of the log"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="options of the configuration, over those of --config; asr config --show lists them",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr import config
    from asr.run_folder import RunFolder
    from asr.train.run import Options, find_batch, train
    from asr.train.stopping import EXIT_STATUS, Stopped

    options = Options(
        resume=args.resume,
        command=args.command,
        init_from=args.init_from,
        new_tokenizer=args.new_tokenizer,
        profile=args.profile,
        tracker=args.tracker,
    )
    kept = RunFolder(args.exp).config
    goes_on = args.resume and kept.is_file()
    begun = config.load([kept], follow_base=False) if goes_on else None
    loaded = config.load(args.config, args.overrides, begun=begun)
    if args.find_batch:
        print(f"train.max_batch_s={find_batch(loaded):.0f}")
        return 0
    try:
        train(loaded, args.exp, options)
    except Stopped as stopped:
        tell("", f"{stopped}; --resume goes on")
        return EXIT_STATUS
    return 0
