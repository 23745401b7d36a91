"""`asr transcribe`: audio of any kind and length -> text, subtitles, word times."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from asr.box import DEFAULT
from asr.commands.options import (
    Verbs,
    above_zero,
    add_model,
    add_model_options,
    carried_or_given,
    channel_index,
    path,
    seconds,
    track_index,
)
from asr.errors import InputError
from asr.stderr import tell

if TYPE_CHECKING:
    from asr.transcribe.outputs import Printed, Written
    from asr.transcribe.pipeline import Outcome
    from asr.transcribe.result import Transcript
    from asr.transcribe.sources import Source

SOME_FAILED = 3
"""Exit status where some of the inputs have a transcript and others failed."""


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser(
        "transcribe",
        help="audio files -> text, subtitles, word times",
        description="Exit status: 0 where every input has its results, 3 where some inputs failed, "
        "2 where all did.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders, globs, manifests of Lhotse cuts, - for standard input",
    )
    add_model(parser, default=f"{DEFAULT}, which comes with the package")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format",
        default="txt",
        help="txt, json, srt, vtt, tsv, ctm, textgrid; several with commas (default: txt)",
    )
    where = output.add_mutually_exclusive_group()
    where.add_argument("--out", type=path, metavar="FOLDER", help="write files into this folder")
    where.add_argument("--beside", action="store_true", help="write files beside the inputs")
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files of results; without it they stay, and only what is missing is made",
    )
    audio = parser.add_argument_group("audio and windows")
    audio.add_argument(
        "--channel", type=int, metavar="N", help="take channel N, from 1 (default: the mean)"
    )
    audio.add_argument(
        "--track",
        type=int,
        metavar="N",
        help="take audio track N of a container, from 1 (default: the one that it calls its default)",
    )
    audio.add_argument(
        "--window-s",
        type=above_zero,
        help="longer audio is cut into such windows; default: 30, or as many as a model with learned "
        "positions has",
    )
    audio.add_argument(
        "--overlap-s",
        type=seconds,
        help="what neighbours share; default: 4, or a quarter of a window shorter than 16 s",
    )
    audio.add_argument(
        "--max-batch-s", type=above_zero, default=120.0, help="padded seconds at once"
    )
    audio.add_argument("--precision", default="fp32", help="fp32, int8 (CPU) or bf16 (CUDA)")
    audio.add_argument(
        "--vad", action="store_true", help="skip audio in which silero-vad finds no speech"
    )
    audio.add_argument(
        "--vad-silence-s",
        type=above_zero,
        metavar="S",
        help="silence that ends a stretch of speech, which --vad gives the model by itself; 0.25 for "
        "a model of short utterances (default: 2, and 0.5 once it is half a window long)",
    )
    add_model_options(parser, "beam with the language model that the model carries, else greedy")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from asr import box
    from asr.api import load
    from asr.model.folder import find_model
    from asr.runtime import prepare_cpu
    from asr.transcribe.sources import find_sources, without_repeats
    from asr.transcribe.speech import LONG_SILENCE_S

    if args.vad_silence_s is not None and not args.vad:
        raise InputError(f"--vad-silence-s {args.vad_silence_s:g}: means nothing without --vad")
    notes: list[str] = []
    track = track_index(args.track)
    found = find_sources(args.inputs, channel_index(args.channel), track, notes)
    sources = without_repeats(found)
    for note in notes:
        tell("note", note)
    output = _output(args, sources)
    possible = [source for source in sources if _has_a_place(source, output)]
    waiting = [source for source in possible if not output.is_done(source)]
    num_done = len(possible) - len(waiting)
    if num_done:
        there = f"{num_done} of {len(sources)} inputs have their results already"
        tell("note", f"{there}; --overwrite replaces them")
    if not waiting:
        return _exit_status(num_done, len(sources))
    if args.model is None:
        tell("note", f"using {DEFAULT}, a model that comes with the package; --model names another")
    folder = box.folder(DEFAULT) if args.model is None else find_model(args.model)
    prepare_cpu(args.threads)
    transcriber = load(
        args.model,
        args.device,
        carried_or_given(args, folder),
        args.window_s,
        args.overlap_s,
        args.max_batch_s,
        args.precision,
        args.vad,
        LONG_SILENCE_S if args.vad_silence_s is None else args.vad_silence_s,
    )
    # on a terminal only; how much there is in all is not known before all is read
    shown = "{desc}: {n:.0f} s of sound in {elapsed}, {rate_noinv_fmt}"
    with tqdm(desc="transcribing", unit=" s", bar_format=shown, leave=False, disable=None) as bar:
        for outcome in transcriber.transcribe_sources(waiting, bar.update):
            bar.clear()
            num_done += _tell(outcome, output)
            bar.refresh()
    return _exit_status(num_done, len(sources))


def _exit_status(num_done: int, num_sources: int) -> int:
    if num_done == num_sources:
        return 0
    return SOME_FAILED if num_done else 2


def _has_a_place(source: Source, output: Printed | Written) -> bool:
    try:
        output.check_input(source)
    except InputError as error:
        tell("error", str(error))
        return False
    return True


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
    """Tell whether there is a transcript, and it is where it belongs: one bad file does not cost the
    others their text."""
    from asr.transcribe.pipeline import Failure

    if isinstance(outcome.result, Failure):
        tell("error", str(outcome.result.error))
        return False
    _tell_what_is_missing(outcome.result)
    try:
        if not output.write(outcome.source, outcome.result):
            escaped = "standard output cannot hold some characters: written as backslashes"
            tell("warning", f"{outcome.source.name}: {escaped}; PYTHONIOENCODING=utf-8 can")
    except InputError as error:
        tell("error", str(error))
        return False
    return True


def _tell_what_is_missing(transcript: Transcript) -> None:
    from asr.transcribe.speech import NO_SPEECH

    name, duration_s = transcript.name, transcript.duration_s
    silences = [gap for gap in transcript.gaps if gap.reason == NO_SPEECH]
    for gap in transcript.gaps:
        if gap.reason != NO_SPEECH:
            tell("warning", gap.describe(name))
    if silences:
        silent_s = sum((gap.end_s or duration_s) - gap.start_s for gap in silences)
        tell("note", f"{name}: no speech in {silent_s:.1f} of {duration_s:.1f} s, left out")
    for note in transcript.notes:
        tell("note", f"{name}: {note}")
    if not transcript.text:
        tell("note", f"{name}: no words found in {duration_s:.1f} s")
