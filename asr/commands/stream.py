"""`asr stream`: raw samples on standard input -> results as JSON lines, while they come."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from asr.commands.options import (
    Verbs,
    add_model,
    add_model_options,
    carried_or_given,
    channel_index,
)
from asr.errors import InputError
from asr.stderr import tell

if TYPE_CHECKING:
    from asr.data.audio.gaps import Gap


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("stream", help="raw samples -> text while they come, as JSON lines")
    add_model(parser)
    parser.add_argument("--rate", type=int, default=16000, help="samples per second")
    parser.add_argument("--sample-format", default="s16le", help="s16le, s32le or f32le")
    parser.add_argument("--channels", type=int, default=1, help="interleaved channels")
    parser.add_argument(
        "--channel", type=int, metavar="N", help="take channel N, from 1 (default: the mean)"
    )
    parser.add_argument(
        "--chunk",
        type=int,
        metavar="FRAMES",
        help="encoder frames computed at once (default: most of training)",
    )
    parser.add_argument(
        "--left-chunks",
        type=int,
        metavar="N",
        help="chunks seen before it (default: most of training)",
    )
    parser.add_argument("--precision", default="fp32", help="fp32, int8 (CPU) or bf16 (CUDA)")
    add_model_options(parser, "beam with the language model that the model carries, else greedy")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from asr.api import load
    from asr.model.folder import find_model
    from asr.runtime import prepare_cpu
    from asr.transcribe.pcm import InterruptibleInput, PcmDecoder

    decoder = PcmDecoder(args.sample_format, args.channels)
    for name, file in (("input", sys.stdin), ("output", sys.stdout)):
        if file is None:
            raise InputError(f"standard {name} is closed")
    if sys.stdin.isatty():
        raise InputError(
            "standard input is a terminal: pipe raw samples into it, as arecord -f S16_LE -r 16000 does"
        )
    channel = channel_index(args.channel)
    prepare_cpu(args.threads)
    search = carried_or_given(args, find_model(args.model))
    transcriber = load(args.model, args.device, search, precision=args.precision)
    stream = transcriber.stream(args.rate, args.chunk, args.left_chunks, channel, args.channels)
    chunk_ms, latency_ms = round(1000 * stream.chunk_s), round(1000 * stream.latency_s)
    _print({"type": "ready", "chunk_ms": chunk_ms, "latency_ms": latency_ms})
    with InterruptibleInput(sys.stdin.buffer) as blocks:
        for data in blocks:
            results = stream.feed(decoder.push(data))
            _print_gaps(stream.gaps)
            for result in results:
                _print(result.to_dict())
        if decoder.num_held_bytes:
            tell("warning", f"the last {decoder.num_held_bytes} bytes are no whole sample")
        for result in stream.finish():
            _print(result.to_dict())
        _print_gaps(stream.gaps)
    _print({"type": "end", "duration_s": round(stream.duration_s, 3)})
    return 0


def _print_gaps(gaps: list[Gap]) -> None:
    from asr.data.audio.gaps import Remark
    from asr.transcribe.result import rounded

    while gaps:
        gap = gaps.pop(0)
        if isinstance(gap, Remark):
            tell("note", gap.reason)
        else:
            _print({"type": "gap", **rounded(asdict(gap))})


def _print(content: dict[str, Any]) -> None:
    # JSON has escapes for what another encoding lacks
    is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")
    sys.stdout.write(json.dumps(content, ensure_ascii=not is_utf8) + "\n")
    sys.stdout.flush()
