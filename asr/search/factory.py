"""From options to a search: the one place that knows every search by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asr.errors import InputError
from asr.search.greedy import greedy
from asr.search.hypothesis import Hypothesis
from asr.search.prefix_beam import prefix_beam
from asr.text.tokenizer import Tokenizer

SEARCHES = ("greedy", "beam")

NBest = list[list[Hypothesis]]


@dataclass(frozen=True)
class SearchOptions:
    """What a user may say about a search.

    Raises:
        InputError: no such search, a count below 1.
    """

    search: str = "greedy"
    beam: int = 8
    num_best: int = 1

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise InputError(f"search {self.search!r}: choose one of {', '.join(SEARCHES)}")
        for name in ("beam", "num_best"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.num_best > (self.beam if self.search == "beam" else 1):
            raise InputError(
                f"num_best = {self.num_best}: greedy search finds one, beam search as many as "
                f"--beam"
            )


GREEDY = SearchOptions()


@dataclass(frozen=True)
class Search:
    """(log_probs_btv, lens_b) -> per utterance its hypotheses, best first, never none.

    Attributes:
        settings: everything that decides the result, for ``decode.json``.
    """

    run: Callable[[Tensor, Tensor], NBest]
    settings: dict[str, Any]

    def __call__(self, log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
        return self.run(log_probs_btv, lens_b)


def build_search(options: SearchOptions, tokenizer: Tokenizer, folder: Path) -> Search:
    """The search that ``options`` describe, for the model of ``folder``.

    Args:
        tokenizer: the model's.
        folder: the model folder, where tuned weights may lie.
    """
    if options.search == "greedy":
        return Search(_greedy, {"search": "greedy", "beam": None})

    def beam(log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
        return prefix_beam(log_probs_btv, lens_b, options.beam, num_best=options.num_best)

    return Search(beam, {"search": "beam", "beam": options.beam})


def _greedy(log_probs_btv: Tensor, lens_b: Tensor) -> NBest:
    return [[best] for best in greedy(log_probs_btv, lens_b)]
