"""`asr transcribe`: audio of any kind and length -> text, subtitles, word times."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr.commands.options import (
    Verbs,
    above_zero,
    add_model_options,
    channel_index,
    search_options,
    seconds,
    track_index,
)
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.transcribe.outputs import Printed, Written
    from asr.transcribe.pipeline import Outcome
    from asr.transcribe.result import Transcript
    from asr.transcribe.sources import Source


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("transcribe", help="audio files -> text, subtitles, word times")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders, globs, manifests of Lhotse cuts, - for standard input",
    )
    parser.add_argument("--model", type=Path, required=True, help="model or experiment folder")
    parser.add_argument(
        "--format",
        default="txt",
        help="txt, json, srt, vtt, tsv, ctm, textgrid; several with commas (default: txt)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FOLDER", help="write files into this folder")
    where.add_argument("--beside", action="store_true", help="write files beside the inputs")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files of results; without it, an input that has one is left out",
    )
    parser.add_argument(
        "--channel", type=int, metavar="N", help="take channel N, from 1 (default: the mean)"
    )
    parser.add_argument(
        "--track",
        type=int,
        metavar="N",
        help="take audio track N of a container, from 1 (default: the one that it calls its default)",
    )
    parser.add_argument(
        "--window-s", type=above_zero, default=30.0, help="longer audio is cut into such windows"
    )
    parser.add_argument("--overlap-s", type=seconds, default=4.0, help="what neighbours share")
    parser.add_argument(
        "--max-batch-s", type=above_zero, default=120.0, help="padded seconds at once"
    )
    parser.add_argument("--precision", default="fp32", help="fp32, int8 (CPU) or bf16 (CUDA)")
    parser.add_argument(
        "--vad", action="store_true", help="leave out what silero-vad hears no speech in"
    )
    parser.add_argument(
        "--vad-silence-s",
        type=above_zero,
        metavar="S",
        help="silence that ends a stretch of speech, which --vad gives the model by itself; 0.25 for "
        "a model of short utterances (default: 2, and 0.5 once it is half a window long)",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from asr.api import load
    from asr.runtime import prepare_cpu
    from asr.transcribe.sources import find_sources
    from asr.transcribe.speech import LONG_SILENCE_S

    if args.vad_silence_s is not None and not args.vad:
        raise InputError(f"--vad-silence-s {args.vad_silence_s:g}: means nothing without --vad")
    notes: list[str] = []
    track = track_index(args.track)
    sources = find_sources(args.inputs, channel_index(args.channel), track, notes)
    for note in notes:
        _complain("note", note)
    output = _output(args, sources)
    sources = _checked(sources, output)
    if not sources:
        return 2
    prepare_cpu(args.threads)
    transcriber = load(
        args.model,
        args.device,
        search_options(args),
        args.window_s,
        args.overlap_s,
        args.max_batch_s,
        args.precision,
        args.vad,
        LONG_SILENCE_S if args.vad_silence_s is None else args.vad_silence_s,
    )
    num_done = 0
    # on a terminal only; how much there is in all is not known before all is read
    shown = "{desc}: {n:.0f} s of sound in {elapsed}, {rate_noinv_fmt}"
    with tqdm(desc="transcribing", unit=" s", bar_format=shown, leave=False, disable=None) as bar:
        for outcome in transcriber.transcribe_sources(sources, bar.update):
            bar.clear()
            num_done += _tell(outcome, output)
            bar.refresh()
    return 0 if num_done else 2


def _output(args: argparse.Namespace, sources: list[Source]) -> Printed | Written:
    from asr.transcribe.outputs import Printed, Written, parse_formats

    formats = parse_formats(args.format)
    if args.num_best > 1 and "json" not in formats:
        raise InputError(f"--num-best {args.num_best}: only --format json shows more than one")
    if args.beside or args.out:
        return Written(formats, sources, args.out, args.overwrite)
    if args.overwrite:
        raise InputError("--overwrite goes with --beside or --out: else no file is written")
    return Printed(formats, len(sources))


def _tell(outcome: Outcome, output: Printed | Written) -> bool:
    """Whether there is a transcript, and it is where it belongs: one bad file does not cost the others
    their text."""
    from asr.transcribe.pipeline import Failure

    if isinstance(outcome.result, Failure):
        _complain("error", str(outcome.result.error))
        return False
    _tell_what_is_missing(outcome.result)
    try:
        output.write(outcome.source, outcome.result)
    except InputError as error:
        _complain("error", str(error))
        return False
    return True


def _checked(sources: list[Source], output: Printed | Written) -> list[Source]:
    """Those whose results may be written; of the others it is told why not."""
    kept = []
    for source in sources:
        try:
            output.check(source)
            kept.append(source)
        except InputError as error:
            _complain("error", str(error))
    return kept


def _tell_what_is_missing(transcript: Transcript) -> None:
    from asr.transcribe.speech import NO_SPEECH

    name, duration_s = transcript.name, transcript.duration_s
    silences = [gap for gap in transcript.gaps if gap.reason == NO_SPEECH]
    for gap in transcript.gaps:
        if gap.reason != NO_SPEECH:
            _complain("warning", gap.describe(name))
    if silences:
        silent_s = sum((gap.end_s or duration_s) - gap.start_s for gap in silences)
        _complain("note", f"{name}: no speech in {silent_s:.1f} of {duration_s:.1f} s, left out")
    for note in transcript.notes:
        _complain("note", f"{name}: {note}")
    if not transcript.text:
        _complain("note", f"{name}: no words found in {duration_s:.1f} s")


def _complain(kind: str, message: str) -> None:
    print(f"asr: {kind}: {' '.join(message.split())}", file=sys.stderr, flush=True)
