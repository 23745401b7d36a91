"""`asr prepare`: a corpus -> manifests."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from asr.commands.options import Verbs, above_zero, count, path, share
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.data.store.preparation import Part, PartReport

Corpora: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("prepare", help="a corpus -> manifests")
    corpora = parser.add_subparsers(required=True, metavar="CORPUS")
    _add_librispeech(corpora)
    _add_folder(corpora)
    _add_tsv(corpora)
    _add_jsonl(corpora)
    _add_kaldi(corpora)
    _add_lhotse(corpora)
    _add_synthetic(corpora)


def _add_librispeech(corpora: Corpora) -> None:
    parser = corpora.add_parser("librispeech", help="LibriSpeech, or anything in its layout")
    parser.add_argument("--corpus", type=path, required=True, help="folder that holds the parts")
    parser.add_argument("--parts", nargs="+", help="parts to read; default: all there are")
    parser.add_argument("--download", action="store_true", help="fetch official parts from OpenSLR")
    _add_output(parser)
    parser.set_defaults(run=_prepare_librispeech)


def _add_folder(corpora: Corpora) -> None:
    parser = corpora.add_parser(
        "folder", help="audio files, each with its text in a .txt beside it"
    )
    _add_corpus(parser, "folders; each becomes a part of its name")
    parser.add_argument(
        "--speaker-level",
        type=count,
        default=0,
        metavar="N",
        help="the Nth folder below the corpus is named after the speaker; 0: unknown",
    )
    _add_shares(parser)
    _add_output(parser)
    parser.set_defaults(run=_prepare_folder)


def _add_tsv(corpora: Corpora) -> None:
    parser = corpora.add_parser("tsv", help="tables such as Common Voice's")
    _add_corpus(parser, "tables, each a part of its name; or a folder with {train,dev,test}.tsv")
    parser.add_argument("--clips", type=path, help="folder of the audio; default: clips beside it")
    parser.add_argument("--audio-column", default="path", metavar="NAME", help="default: path")
    parser.add_argument("--text-column", default="sentence", metavar="NAME", help="sentence")
    parser.add_argument("--speaker-column", default="client_id", metavar="NAME", help="client_id")
    parser.add_argument("--start-column", metavar="NAME", help="where a segment starts, seconds")
    parser.add_argument("--duration-column", metavar="NAME", help="how long it is, seconds")
    _add_shares(parser)
    _add_output(parser)
    parser.set_defaults(run=_prepare_tsv)


def _add_jsonl(corpora: Corpora) -> None:
    parser = corpora.add_parser("jsonl", help="NeMo's manifests: one JSON object per line")
    _add_corpus(parser, "manifests; each becomes a part of its name")
    _add_shares(parser)
    _add_output(parser)
    parser.set_defaults(run=_prepare_jsonl)


def _add_kaldi(corpora: Corpora) -> None:
    parser = corpora.add_parser("kaldi", help="Kaldi data directories")
    _add_corpus(parser, "data directories; each becomes a part of its name")
    parser.add_argument("--root", type=path, help="relative paths start here; default: this folder")
    _add_shares(parser)
    _add_output(parser)
    parser.set_defaults(run=_prepare_kaldi)


def _add_lhotse(corpora: Corpora) -> None:
    parser = corpora.add_parser("lhotse", help="Lhotse manifests of any kind")
    parser.add_argument("--corpus", type=path, nargs="+", help="manifests of cuts")
    parser.add_argument("--recordings", type=path, help="manifest, with --supervisions")
    parser.add_argument("--supervisions", type=path, help="manifest; the part gets its name")
    _add_output(parser)
    parser.set_defaults(run=_prepare_lhotse)


def _add_synthetic(corpora: Corpora) -> None:
    parser = corpora.add_parser("synthetic", help="speech that espeak-ng speaks")
    parser.add_argument("--hours", type=above_zero, required=True, help="of training speech")
    parser.add_argument("--seed", type=count, default=1, help="same seed, same bytes")
    parser.add_argument("--dev", type=count, default=150, help="dev utterances")
    parser.add_argument("--test", type=count, default=400, help="test utterances")
    _add_output(parser)
    parser.set_defaults(run=_prepare_synthetic)


def _add_corpus(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument(
        "--corpus", type=path, nargs="+", required=True, metavar="PATH", help=meaning
    )


def _add_shares(parser: argparse.ArgumentParser) -> None:
    for part in ("dev", "test"):
        parser.add_argument(
            f"--{part}-share",
            type=share,
            default=0.0,
            metavar="SHARE",
            help=f"make a part {part} of this share of the utterances, speakers kept whole",
        )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=path, required=True, help="where the manifests go")
    parser.add_argument("--jobs", type=count, default=0, help="at a time; 0: one per core")


def _prepare_librispeech(args: argparse.Namespace) -> int:
    from asr.data.corpora.librispeech import download_librispeech, prepare_librispeech

    if args.download:
        if not args.parts:
            raise InputError("--download needs --parts, for example --parts dev-clean-2")
        download_librispeech(args.parts, args.corpus)
    return _tell(prepare_librispeech(args.corpus, args.out, args.parts, args.jobs))


def _prepare_folder(args: argparse.Namespace) -> int:
    from asr.data.corpora.folder import read_folder

    return _prepare([read_folder(path, args.speaker_level) for path in args.corpus], args)


def _prepare_tsv(args: argparse.Namespace) -> int:
    from asr.data.corpora.tables import Columns, common_voice_tables, read_tsv

    columns = Columns(
        audio=args.audio_column,
        text=args.text_column,
        speaker=args.speaker_column,
        start=args.start_column,
        duration=args.duration_column,
    )
    tables = [
        table
        for path in args.corpus
        for table in (common_voice_tables(path) if path.is_dir() else [path])
    ]
    return _prepare([read_tsv(table, args.clips, columns) for table in tables], args)


def _prepare_jsonl(args: argparse.Namespace) -> int:
    from asr.data.corpora.tables import read_jsonl

    return _prepare([read_jsonl(path) for path in args.corpus], args)


def _prepare_kaldi(args: argparse.Namespace) -> int:
    from asr.data.corpora.kaldi import read_kaldi

    return _prepare([read_kaldi(path, args.root) for path in args.corpus], args)


def _prepare(parts: list[Part], args: argparse.Namespace) -> int:
    from asr.data.corpora.common import split
    from asr.data.store.preparation import prepare_parts

    if args.dev_share or args.test_share:
        if len(parts) > 1:
            raise InputError(
                "--dev-share and --test-share split one corpus; --corpus names several"
            )
        parts = split(parts[0], args.dev_share, args.test_share)
    return _tell(prepare_parts(parts, args.out, num_jobs=args.jobs))


def _prepare_lhotse(args: argparse.Namespace) -> int:
    from asr.data.corpora.lhotse import prepare_lhotse

    return _tell(
        prepare_lhotse(args.out, args.corpus or [], args.recordings, args.supervisions, args.jobs)
    )


def _prepare_synthetic(args: argparse.Namespace) -> int:
    from asr.data.corpora.synthetic.corpus import describe, prepare_synthetic
    from asr.locks import locked

    print("\n".join(describe()))
    with locked(args.out, "corpus"):
        return _tell(
            prepare_synthetic(
                args.out, args.hours, args.seed, args.jobs, num_dev=args.dev, num_test=args.test
            )
        )


def _tell(reports: Iterable[PartReport]) -> int:
    for part in reports:
        print("\n".join(part.lines()))
    return 0
