"""The command line: one verb per command, each a thin call into the package."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from asr import __version__
from asr.errors import InputError

_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# Everything heavy is imported inside the commands, so that `asr --help` answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status (2: the input was wrong)."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except InputError as error:
        print(f"asr: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("asr: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away, as `head` does: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asr", description="Speech recognition whose attention is a choice of two words."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_prepare,
        _add_subset,
        _add_train,
        _add_decode,
        _add_score,
        _add_transcribe,
        _add_compare,
        _add_config,
        _add_doctor,
    ):
        add(verbs)
    return parser


def _add_prepare(verbs: _Verbs) -> None:
    parser = verbs.add_parser("prepare", help="a corpus folder -> manifests")
    corpora = parser.add_subparsers(required=True, metavar="CORPUS")
    libri = corpora.add_parser("librispeech", help="LibriSpeech, or anything in its layout")
    libri.add_argument("--corpus", type=Path, required=True, help="folder that holds the parts")
    libri.add_argument("--out", type=Path, required=True, help="where the manifests go")
    libri.add_argument("--parts", nargs="+", help="parts to read; default: all there are")
    libri.add_argument("--download", action="store_true", help="fetch official parts from OpenSLR")
    libri.add_argument("--jobs", type=_count, default=0, help="parallel readers; 0: one per core")
    libri.set_defaults(run=_prepare_librispeech)
    synthetic = corpora.add_parser("synthetic", help="speech that espeak-ng speaks")
    synthetic.add_argument("--out", type=Path, required=True, help="where corpus and manifests go")
    synthetic.add_argument("--hours", type=_above_zero, required=True, help="of training speech")
    synthetic.add_argument("--seed", type=_count, default=1, help="same seed, same bytes")
    synthetic.add_argument("--dev", type=_count, default=150, help="dev utterances")
    synthetic.add_argument("--test", type=_count, default=400, help="test utterances")
    synthetic.add_argument("--jobs", type=_count, default=0, help="processes; 0: one per core")
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


def _add_subset(verbs: _Verbs) -> None:
    parser = verbs.add_parser("subset", help="a manifest -> some of its utterances")
    parser.add_argument("--cuts", type=Path, required=True, help="manifest to choose from")
    parser.add_argument("--out", type=Path, required=True, help="NAME.cuts.jsonl.gz to write")
    parser.add_argument("--min-s", type=_seconds, default=0.0, help="shortest, in seconds")
    parser.add_argument("--max-s", type=_seconds, default=float("inf"), help="longest, in seconds")
    parser.add_argument("--first", type=_count, default=0, help="that many at most; 0: all")
    parser.set_defaults(run=_subset)


def _subset(args: argparse.Namespace) -> int:
    from asr.data.manifest import read_cuts, write_cuts

    chosen = [cut for cut in read_cuts(args.cuts) if args.min_s <= cut.duration <= args.max_s]
    chosen = chosen[: args.first or None]
    if not chosen:
        raise InputError(f"{args.cuts}: no utterance of {args.min_s:g} to {args.max_s:g} s")
    write_cuts(chosen, args.out)
    print(f"{len(chosen)} utterances, {sum(cut.duration for cut in chosen):.1f} s -> {args.out}")
    return 0


def _add_train(verbs: _Verbs) -> None:
    parser = verbs.add_parser("train", help="manifests -> a model")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="yaml files, later wins")
    parser.add_argument("--exp", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on after the newest checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from asr import config
    from asr.train.loop import train

    command = shlex.join(["asr", *sys.argv[1:]])
    train(config.load(args.config, args.overrides), args.exp, args.resume, command)
    return 0


def _add_decode(verbs: _Verbs) -> None:
    parser = verbs.add_parser("decode", help="a manifest -> hypotheses, scored")
    parser.add_argument("--model", type=Path, required=True, help="model or experiment folder")
    parser.add_argument("--cuts", type=Path, required=True, help="manifest to decode")
    parser.add_argument("--out", type=Path, help="default: EXP/decode/NAME OF THE MANIFEST")
    parser.add_argument(
        "--max-batch-s", type=_above_zero, default=300.0, help="padded seconds at once"
    )
    parser.add_argument("--workers", type=_count, default=0, help="processes that read audio")
    _add_model_options(parser)
    parser.set_defaults(run=_decode)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--search", default="greedy", help="greedy or beam")
    parser.add_argument("--beam", type=int, default=8, help="prefixes that beam search keeps")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--threads", type=_count, default=0, help="CPU threads; 0: PyTorch's choice"
    )


def _decode(args: argparse.Namespace) -> int:
    from asr.evaluate.decode import decode_set, set_name
    from asr.evaluate.score import format_score, score_folder
    from asr.model_folder import load_model
    from asr.runtime import choose_device, prepare_cpu

    prepare_cpu(args.threads)
    model = load_model(args.model, choose_device(args.device))
    out = args.out or args.model / "decode" / set_name(args.cuts)
    summary = decode_set(
        model,
        args.cuts,
        out,
        search=args.search,
        beam=args.beam,
        max_batch_s=args.max_batch_s,
        num_workers=args.workers,
    )
    print(format_score(score_folder(out)))
    print(
        f"{summary['num_utterances']} utterances, {summary['audio_s']:.0f} s of audio in "
        f"{summary['wall_s']:.1f} s: real-time factor {summary['rtf']:.4f}; written to {out}"
    )
    return 0


def _add_score(verbs: _Verbs) -> None:
    parser = verbs.add_parser("score", help="hypotheses -> word error rates")
    parser.add_argument("folder", type=Path, nargs="+", help="folder that `asr decode` wrote")
    parser.set_defaults(run=_score)


def _score(args: argparse.Namespace) -> int:
    from asr.evaluate.score import format_score, score_folder

    for folder in args.folder:
        print(format_score(score_folder(folder)))
    return 0


def _add_transcribe(verbs: _Verbs) -> None:
    parser = verbs.add_parser("transcribe", help="audio files -> text")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--model", type=Path, required=True, help="model or experiment folder")
    _add_model_options(parser)
    parser.set_defaults(run=_transcribe)


def _transcribe(args: argparse.Namespace) -> int:
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


def _add_compare(verbs: _Verbs) -> None:
    parser = verbs.add_parser("compare", help="decoded experiments -> one table")
    parser.add_argument(
        "exp", type=Path, nargs="+", help="experiment folders, the first is the base"
    )
    parser.add_argument("--out", type=Path, help="also write compare.md, compare.json, curves.png")
    parser.add_argument("--seed", type=_count, default=1, help="of the bootstrap")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from asr.evaluate.compare import compare, format_terminal, write_comparison
    from asr.evaluate.curves import plot_curves

    comparison = compare(args.exp, seed=args.seed)
    print(format_terminal(comparison))
    if args.out:
        write_comparison(comparison, args.out)
        plot_curves(args.exp, args.out / "curves.png")
        print(f"written to {args.out}: compare.md, compare.json, curves.png")
    return 0


def _add_config(verbs: _Verbs) -> None:
    parser = verbs.add_parser("config", help="every option: value, meaning, allowed values")
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="yaml files, later wins")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.set_defaults(run=_config)


def _config(args: argparse.Namespace) -> int:
    from asr import config

    for key, value, item in config.walk(config.load(args.config, args.overrides)):
        print(f"{key} = {value!r}  # {config.explain(item)}")
    return 0


def _add_doctor(verbs: _Verbs) -> None:
    parser = verbs.add_parser("doctor", help="what works on this machine, and why not")
    parser.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from asr.doctor import report

    print("\n".join(report()))
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value}: must be above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
