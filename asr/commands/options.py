"""Option types and option groups that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from asr.search.factory import SearchOptions

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Where a model runs and how it searches."""
    parser.add_argument("--search", default="greedy", help="greedy or beam")
    parser.add_argument("--beam", type=int, default=8, help="prefixes that beam search keeps")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=count, default=0, help="CPU threads; 0: PyTorch's choice")


def search_options(args: argparse.Namespace) -> SearchOptions:
    """What ``add_model_options`` read about the search."""
    from asr.search.factory import SearchOptions

    return SearchOptions(search=args.search, beam=args.beam)


def count(text: str) -> int:
    """An integer of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more")
    return value


def seconds(text: str) -> float:
    """A number of 0 or more."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value}: must be above 0")
    return value


def share(text: str) -> float:
    """A number of 0 or more and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be 0 or more and below 1")
    return value
