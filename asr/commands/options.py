"""Option types and option groups that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from asr.box import path_of
from asr.errors import InputError

if TYPE_CHECKING:
    from asr.model.folder import Model
    from asr.search.options import SearchOptions

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--model``.

    Args:
        default: how the help text names what is used without it; None: it must be given.
    """
    parser.add_argument(
        "--model",
        type=path,
        required=default is None,
        help="model or experiment folder, or the name of a model in the package (asr models)"
        + (f"; default: {default}" if default else ""),
    )


def add_model_options(parser: argparse.ArgumentParser, default_search: str = "greedy") -> None:
    """Add the options of where a model runs and how it searches.

    Args:
        default_search: what the help text says of a command that uses what a model carries.
    """
    search = parser.add_argument_group("search")
    search.add_argument(
        "--search",
        help="greedy, beam, rescore (the attention decoder ranks what CTC's beam search finds) or "
        f"joint (CTC and the attention decoder token by token); default: {default_search}",
    )
    search.add_argument(
        "--head", help="ctc or attention; default: the model's first that has this search"
    )
    search.add_argument(
        "--ctc-weight",
        type=float,
        help="CTC's share of the score, from 0 to 1; default: as tuned, else 0.5 for rescore, 0.3 for "
        "joint",
    )
    search.add_argument(
        "--beam",
        type=int,
        help="hypotheses that a search keeps, not for greedy; default: as tuned for what the "
        "model carries, else 8",
    )
    search.add_argument(
        "--num-best", type=int, default=1, help="hypotheses per utterance, at most --beam"
    )
    search.add_argument("--lm", type=path, help="n-gram model (ARPA, or KenLM's), not for greedy")
    search.add_argument(
        "--lm-weight", type=float, help="weight of --lm; default: as tuned (asr tune), else 0.5"
    )
    search.add_argument(
        "--word-bonus", type=float, help="added to the score per word; default: as tuned, else 1"
    )
    search.add_argument(
        "--unknown-penalty",
        type=float,
        help="taken off per word unknown to --lm; default: as tuned, else 5",
    )
    search.add_argument(
        "--hotwords",
        action="append",
        default=[],
        metavar="PHRASE",
        help="a word or phrase to prefer; once for each",
    )
    search.add_argument(
        "--hotword-bonus",
        type=float,
        help="added to the score (natural logarithm) per word of a phrase; default: 4",
    )
    search.add_argument(
        "--neural", type=path, help="neural model that ranks what beam or rescore found"
    )
    search.add_argument(
        "--neural-weight", type=float, help="weight of --neural; default: as tuned, else 0.5"
    )
    add_machine_options(parser)


def add_machine_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of where it is computed; returns their group."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    machine.add_argument(
        "--threads", type=count, default=0, help="CPU threads; 0: PyTorch's choice"
    )
    return machine


def add_examined(
    parser: argparse.ArgumentParser, number: Callable[[str], int], utterances: int
) -> None:
    """A model, what it is examined with, and where the figures go."""
    parser.add_argument("exp", type=path, help="model or experiment folder")
    parser.add_argument("--cuts", type=path, required=True, help="manifest to take utterances from")
    parser.add_argument(
        "--utterances",
        type=number,
        default=utterances,
        help="how many, from the shortest to the longest",
    )
    parser.add_argument("--json", type=path, help="also write the figures to this file")
    add_machine_options(parser)


def examined_model(args: argparse.Namespace) -> Model:
    """The model of ``add_examined``, where it is to be computed."""
    from asr.model.folder import load_model
    from asr.runtime import choose_device, prepare_cpu

    prepare_cpu(args.threads)
    return load_model(args.exp, choose_device(args.device))


def search_options(args: argparse.Namespace) -> SearchOptions:
    """Return what ``add_model_options`` read about the search; greedy search where it read nothing."""
    from asr.search.options import SearchOptions

    return SearchOptions(
        search="greedy" if args.search is None else args.search,
        beam=args.beam,
        num_best=args.num_best,
        lm=args.lm,
        lm_weight=args.lm_weight,
        word_bonus=args.word_bonus,
        unknown_penalty=args.unknown_penalty,
        hotwords=tuple(args.hotwords),
        hotword_bonus=args.hotword_bonus,
        neural=args.neural,
        neural_weight=args.neural_weight,
        ctc_weight=args.ctc_weight,
        head=args.head,
    )


def carried_or_given(args: argparse.Namespace, folder: Path) -> SearchOptions:
    """Return what ``search_options`` does, for the model of ``folder``: where that carries a language
    model and greedy search was not asked for, beam search with it, adjusted by what was said.

    Raises:
        InputError: a value out of range, damaged tuned weights.
    """
    from asr.search.options import carried_search

    carried = carried_search(folder)
    if carried.lm is None or args.search not in (None, "beam"):
        return search_options(args)
    said = argparse.Namespace(**vars(args))
    said.search = "beam"
    said.beam = carried.beam if args.beam is None else args.beam
    said.lm = carried.lm if args.lm is None else args.lm
    return search_options(said)


def channel_index(number: int | None) -> int | None:
    """Return 0 for what people call channel 1; None stays.

    Raises:
        InputError: below 1.
    """
    return _index(number, "channel")


def track_index(number: int | None) -> int | None:
    """Return 0 for what people call track 1, see ``channel_index``."""
    return _index(number, "track")


def _index(number: int | None, name: str) -> int | None:
    if number is not None and number < 1:
        raise InputError(f"--{name} {number}: {name}s count from 1")
    return None if number is None else number - 1


def path(text: str) -> Path:
    """A path; ~ is the home folder, also where a shell leaves it alone, as in --model=~/exp."""
    try:
        return path_of(text).expanduser()
    except RuntimeError:  # no such user, or no home
        return path_of(text)


def count(text: str) -> int:
    """An integer of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more")
    return value


def at_least_one(text: str) -> int:
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be 1 or more")
    return value


def at_least_two(text: str) -> int:
    """An integer of 2 or more."""
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"{value}: must be 2 or more")
    return value


def seconds(text: str) -> float:
    """A finite number of 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more, and finite")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value}: must be above 0, and finite")
    return value


def share(text: str) -> float:
    """A number of 0 or more and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more and below 1")
    return value
