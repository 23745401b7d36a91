"""`asr align`: audio with its text -> word times."""

from __future__ import annotations

import argparse

from asr.commands.options import (
    Verbs,
    above_zero,
    add_machine_options,
    add_model,
    count,
    path,
)
from asr.errors import InputError
from asr.stderr import tell


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("align", help="audio with its text -> word times")
    add_model(parser)
    speech = parser.add_argument_group("speech and text")
    what = speech.add_mutually_exclusive_group(required=True)
    what.add_argument("--cuts", type=path, help="manifest with transcripts")
    what.add_argument("--audio", type=path, help="one audio file")
    text = speech.add_mutually_exclusive_group()
    text.add_argument("--text", help="what is said in --audio")
    text.add_argument("--text-file", type=path, help="file with that text")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path, required=True, help="folder to write to")
    output.add_argument(
        "--format",
        nargs="+",
        default=["ctm", "textgrid"],
        help="ctm (normalised words), or with the words as written: textgrid, json, srt, vtt, tsv, "
        "txt; several with commas or spaces (default: ctm,textgrid)",
    )
    machine = add_machine_options(parser)
    machine.add_argument(
        "--max-batch-s", type=above_zero, default=300.0, help="padded seconds at once"
    )
    machine.add_argument("--workers", type=count, default=0, help="processes that read audio")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.decode.align import (
        NotAligned,
        align_file,
        align_set,
        doubtful,
        write_alignments,
    )
    from asr.decode.decode import set_name
    from asr.files import check_writable, is_unicode, read_text
    from asr.model.folder import load_model
    from asr.runtime import choose_device, prepare_cpu
    from asr.transcribe.outputs import parse_formats

    if (args.audio is None) != (args.text is None and args.text_file is None):
        raise InputError("align: --audio goes with --text or --text-file, --cuts with neither")
    formats = parse_formats(",".join(args.format))
    text = args.text or ""
    if not is_unicode(text):
        raise InputError(f"--text: not UTF-8: {text!r}")
    if args.text_file is not None:
        text = read_text(args.text_file, pipes=True)
    check_writable(args.out)
    prepare_cpu(args.threads)
    model = load_model(args.model, choose_device(args.device))
    if args.cuts is not None:
        name = set_name(args.cuts)
        found = align_set(model, args.cuts, max_batch_s=args.max_batch_s, num_workers=args.workers)
    else:
        name = args.audio.stem
        byte_order_mark = "\ufeff"
        found = [align_file(model, args.audio, text.removeprefix(byte_order_mark))]
    aligned = []
    for item in found:
        if isinstance(item, NotAligned):
            tell("", f"{item.id}: not aligned: {item.reason}")
            continue
        for doubt in filter(None, (doubtful(item), *item.written.notes)):
            tell("warning", f"{item.written.name}: {doubt}")
        aligned.append(item)
    if not aligned:
        raise InputError(f"{args.cuts or args.audio}: nothing could be aligned")
    written = write_alignments(aligned, args.out, name, formats)
    num_words = sum(len(item.written.words) for item in aligned)
    print(f"{len(aligned)} utterances, {num_words} words -> {', '.join(map(str, written))}")
    return 0
